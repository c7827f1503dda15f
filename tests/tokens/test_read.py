"""A split of token shards as training reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import DamagedError, UserError
from ssmttm.evaluation.evaluate import training_runs
from ssmttm.tokens.check import read_inventory
from ssmttm.tokens.previews import previews
from ssmttm.tokens.read import TokenDataset
from ssmttm.verified import File


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


SHARD, TABLE = "shards/part-00001.parquet", "text/table-00000.parquet"


def damage(file: Path, how: str) -> None:
    """What a dataset may suffer after it was finished."""
    if how == "removed":
        file.unlink()
    elif how == "inverted":  # a file that reads as well as the right one, its rows turned round
        table = pq.read_table(file)
        pq.write_table(table.take(list(reversed(range(len(table))))), file)
    elif how == "flipped":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-200])
    else:
        file.write_bytes(b"")


@pytest.fixture
def copied(tokens: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokens, tmp_path / "copied"))


@pytest.mark.parametrize("name", [SHARD, TABLE])
@pytest.mark.parametrize("how", ["removed", "inverted", "flipped", "truncated", "emptied"])
def test_what_changed_since_the_commit_is_not_learned_from(copied: Path, name: str, how: str) -> None:
    damage(copied / name, how)
    for split in ("train", "val"):
        for with_fine in (True, False):
            with pytest.raises(DamagedError) as error:
                TokenDataset.open(str(copied), split, with_fine)
    message = str(error.value)
    assert f"{copied} is damaged: {name}" in message
    assert "jobs/preprocess.py" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", ["removed", "inverted", "flipped", "truncated", "emptied"])
def test_nor_measured_nor_heard(copied: Path, how: str) -> None:
    commit = storage.read_json(str(copied / "dataset.json"))
    commit["config"] = {"corpus": {"source": str(copied.parent / "corpus")}}
    storage.write_json(str(copied / "dataset.json"), commit)
    inventory = read_inventory(str(copied), CorpusConfig(), progress=False)
    damage(copied / SHARD, how)
    with pytest.raises(DamagedError, match=f"is damaged: {SHARD}"):
        training_runs(str(copied))
    heard = {preview.entry.shard: preview for preview in previews(inventory, 40, progress=False)}
    assert heard[SHARD].sound is None
    assert f"is damaged: {SHARD}" in heard[SHARD].note
    assert heard["shards/part-00000.parquet"].sound is not None


def test_a_change_after_it_was_read_is_seen(copied: Path) -> None:
    TokenDataset.open(str(copied), "train")
    damage(copied / SHARD, "inverted")
    with pytest.raises(DamagedError, match="is damaged"):
        TokenDataset.open(str(copied), "train")


def test_a_shard_that_is_not_listed_is_not_read(copied: Path) -> None:
    shutil.copy(copied / SHARD, copied / "shards" / "part-00002.parquet")
    shutil.copy(copied / TABLE, copied / "text" / "table-00001.parquet")
    assert len(TokenDataset.open(str(copied), "train")) == 34


def test_each_file_is_digested_once_per_process(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digested = []
    compare = File._compare
    monkeypatch.setattr(File, "_compare", lambda file, *rest: digested.append(file.uri) or compare(file, *rest))
    for split in ("train", "val", "train"):
        TokenDataset.open(str(copied), split)
    assert len(digested) == len(set(digested)) == 3


def test_shards_may_lie_on_another_disk(copied: Path, tmp_path: Path) -> None:
    """One's own dataset may be links; their content decides."""
    moved = (copied / SHARD).rename(tmp_path / "elsewhere.parquet")
    (copied / SHARD).symlink_to(moved)
    assert len(TokenDataset.open(str(copied), "train")) == 34
