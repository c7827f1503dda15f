"""A split of token shards as training reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.tokens.read import TokenDataset


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
