from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.tokens.data import TokenDataset
from ssmttm.training.order import BatchShape, Prefetcher, SampleOrder, keyed_generator, share


def test_splits_and_values(tokens: str) -> None:
    train, val = TokenDataset.open(tokens, "train"), TokenDataset.open(tokens, "val")
    assert (len(train), len(val)) == (34, 6)
    row = train.rows[0]
    assert row["id"] == "row006"
    assert train.codes(0).shape == (4, row["frames"])
    assert train.codes(0).dtype == np.int16
    assert train.fine(0).shape == (train.fine(1).shape[0], row["frames"])
    assert train.fine(0).dtype == np.float16
    assert train.codes(0)[0, :3].tolist() == [7, 8, 9]  # row 6: 7 * (6 % 5), counting up
    assert train.tags(0) == {"genre": "1"}
    assert train.prompt(0) == "sound number 1, version 0"
    assert train.text.states("key1").shape == (4, 12)


def test_latents_stay_on_disk_unless_asked_for(tokens: str) -> None:
    data = TokenDataset.open(tokens, "val", with_fine=False)
    with pytest.raises(AssertionError):
        data.fine(0)


def test_unfinished_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset\.json"):
        TokenDataset.open(str(tmp_path), "train")


def test_empty_split_is_refused(tokens: str) -> None:
    with pytest.raises(UserError, match="no rows in split 'test'"):
        TokenDataset.open(tokens, "test")


def test_keyed_generators_repeat_and_differ() -> None:
    assert keyed_generator("a", 1, "x").random() == keyed_generator("a", 1, "x").random()
    values = {keyed_generator(*key).random() for key in [("a", 1), ("a", 11), ("b", 1), ("a", "1", "")]}
    assert len(values) == 4


def test_every_epoch_sees_every_row_once_in_its_own_order() -> None:
    order = SampleOrder(10, seed=3)
    epochs = [[order[epoch * 10 + i] for i in range(10)] for epoch in range(3)]
    for number, draws in enumerate(epochs):
        assert sorted(draw.row for draw in draws) == list(range(10))
        assert {draw.epoch for draw in draws} == {number}
    assert epochs[0] != epochs[1]
    assert SampleOrder(10, seed=3)[25] == epochs[2][5]
    assert SampleOrder(10, seed=4).global_batch(0, 10) != epochs[0]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_a_global_batch_without_overlap(world: int) -> None:
    draws = SampleOrder(100, 0).global_batch(3, 16)
    shape = BatchShape(2, 16 // (2 * world))
    parts = [part for rank in range(world) for part in share(draws, shape, rank, world)]
    assert all(len(part) == 2 for part in parts)
    assert sorted(draw for part in parts for draw in part) == sorted(draws)


def test_prefetcher_keeps_order_and_passes_errors_on() -> None:
    def make(position: int) -> int:
        if position == 8:
            raise ValueError("broken row")
        return position

    loader = Prefetcher(make, start=5)
    assert [next(loader) for _ in range(3)] == [5, 6, 7]
    with pytest.raises(ValueError, match="broken row"):
        next(loader)
    loader.close()
