from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore, Progress, load_checkpoint
from ssmttm.training.rows import RowLog, read_rows


def make(step: int, average: bool = False) -> Checkpoint:
    state = {"weight": torch.full((3,), float(step))}
    progress = Progress(step, step + 1, 1, 100 * step, 2.5)
    return Checkpoint(progress, state, {"step": torch.tensor(float(step))}, state if average else None)


def test_round_trip_and_keeping_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    for step in (2, 4, 6):
        store.save(make(step, average=step == 6))
    assert store.committed() == [4, 6]
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress == Progress(6, 7, 1, 600, 2.5)
    assert newest.model["weight"].tolist() == [6, 6, 6]
    assert newest.average is not None
    assert load_checkpoint(str(tmp_path / "step-000004")).average is None


def test_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(str(tmp_path / "none"), 2).load_newest() is None


def test_uncommitted_checkpoint_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    store.save(make(2))
    store.save(make(4))
    (tmp_path / "step-000004" / "checkpoint.json").unlink()
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress.step == 2
    store.save(make(4))  # over what the killed run left
    assert store.committed() == [2, 4]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    store.save(make(2))
    store.save(make(4))
    file = tmp_path / "step-000004" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if damage == "flip":
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-4])
    else:
        file.unlink()
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress.step == 2
    assert "model.safetensors" in capsys.readouterr().err
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(str(tmp_path / "step-000004"))


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_rows_past_the_restored_step_are_dropped(tmp_path: Path, place: str) -> None:
    # fsspec's memory filesystem stands for an object store: no appending there
    uri = str(tmp_path / "rows.jsonl") if place == "disk" else "memory://rows-test/rows.jsonl"
    storage.remove_tree("memory://rows-test")
    log = RowLog(uri, 0)
    for step in range(1, 6):
        log.append({"step": step, "run": 1})
        if step % 2 == 0:
            log.flush()
    log.flush()
    assert [row["step"] for row in read_rows(uri)] == [1, 2, 3, 4, 5]
    again = RowLog(uri, 3)
    for step in (4, 5, 6):
        again.append({"step": step, "run": 2})
    again.flush()
    assert [(row["step"], row["run"]) for row in read_rows(uri)] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def test_a_line_cut_short_by_a_kill_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(str(file)) == [{"step": 1}, {"step": 2}]
