"""Which rows are learned from when, and by which worker."""

from __future__ import annotations

import pytest

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.order import BatchShape, Prefetcher, SampleOrder, batch_shape, keyed_generator, share


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
    rows = [[draw.row for draw in draws] for draws in epochs]
    assert rows[0] != rows[1] != rows[2] != rows[0]
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


@pytest.mark.parametrize(
    ("global_batch", "micro", "world", "expected"),
    [(16, 8, 1, (8, 2)), (16, 8, 2, (8, 1)), (12, 8, 1, (6, 2)), (6, 4, 2, (3, 1)), (7, 4, 1, (1, 7))],
)
def test_batch_shape(global_batch: int, micro: int, world: int, expected: tuple[int, int]) -> None:
    assert batch_shape(TrainConfig(global_batch=global_batch, micro_batch=micro), world) == expected


def test_indivisible_batch_names_both_keys() -> None:
    with pytest.raises(UserError, match=r"train\.global_batch=5 .* train\.workers=2"):
        batch_shape(TrainConfig(global_batch=5), 2)
