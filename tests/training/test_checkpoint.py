from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore, Progress, check_fits, load_checkpoint
from ssmttm.training.writer import RowLog, read_rows
from ssmttm.verified import File


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


def break_file(file: Path, damage: str) -> None:
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1 << 7
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_newest_falls_back_with_a_line(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    store.save(make(2))
    store.save(make(4))
    break_file(tmp_path / "step-000004" / name, damage)
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress.step == 2
    said = capsys.readouterr().err
    if (name, damage) == ("checkpoint.json", "remove"):  # never finished, as far as one can tell
        assert said == ""
        return
    assert said.count("\n") == 1
    assert f"{tmp_path}/step-000004 is damaged: {name}" in said
    assert store.load_newest(warn=False) is not None
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(str(tmp_path / "step-000004"))
    store.save(make(3))  # goes on from there: what lies ahead is of no more use
    assert store.committed() == [2, 3]


def test_none_left_whole_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    for step in (2, 4):
        store.save(make(step))
        break_file(tmp_path / f"step-{step:06d}" / "model.safetensors", "flip")
    with pytest.raises(UserError, match=rf"none of the 2 checkpoints in {tmp_path} is whole .*; remove that folder"):
        store.load_newest()


def test_storage_that_fails_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back would throw good steps away, and on one worker alone."""
    store = CheckpointStore(str(tmp_path), 2)
    store.save(make(2))
    store.save(make(4))

    def fail(file: File, *rest: object) -> bytes:
        raise UserError(f"{file.uri}: the storage failed 6 times")

    monkeypatch.setattr(File, "beginning", fail)
    with pytest.raises(UserError, match=r"step-000004.*the storage failed"):
        store.load_newest()


def test_the_best_outlives_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    for step in range(1, 7):
        checkpoint = make(step)
        checkpoint.progress.best_loss, checkpoint.progress.best_step = 0.5, min(step, 2)
        store.save(checkpoint)
    assert store.committed() == [2, 5, 6]
    newest = store.load_newest()
    assert newest is not None
    assert (newest.progress.best_loss, newest.progress.best_step) == (0.5, 2)
    shutil.rmtree(tmp_path / "step-000002")
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress.best_step is None  # the next best is kept, whatever its loss


def test_what_was_never_finished_is_cleared_away(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    (tmp_path / "step-000003").mkdir()
    (tmp_path / "step-000003" / "model.safetensors").write_bytes(b"half")
    store.save(make(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def test_a_checkpoint_that_is_rewritten_does_not_count_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files, or while the old ones are removed: new weights beside an old optimizer, or half of the
    files, must not be listed by the commit file of before."""
    store = CheckpointStore(str(tmp_path), 2)
    write, remove = storage.write_bytes, storage.remove_tree

    def killed_writing(uri: str, data: bytes) -> None:
        if "optimizer" in uri:
            raise KeyboardInterrupt
        write(uri, data)

    def killed_removing(uri: str) -> None:
        if uri.endswith("step-000002"):
            raise KeyboardInterrupt
        remove(uri)

    for name, killed in (("write_bytes", killed_writing), ("remove_tree", killed_removing)):
        store.save(make(2))
        with monkeypatch.context() as patch:
            patch.setattr(storage, name, killed)
            with pytest.raises(KeyboardInterrupt):
                store.save(make(2))
        assert store.committed() == [], name
        assert store.load_newest() is None


def test_a_checkpoint_says_what_was_trained(tmp_path: Path) -> None:
    checkpoint = make(2)
    checkpoint.task = "stage2"
    folder = CheckpointStore(str(tmp_path), 2).save(checkpoint)
    assert load_checkpoint(folder).task == "stage2"
    commit = storage.read_json(storage.join(folder, "checkpoint.json"))
    del commit["task"]  # as checkpoints were before
    storage.write_json(storage.join(folder, "checkpoint.json"), commit)
    assert load_checkpoint(folder).task is None


def test_other_readers_can_check_it_too(tmp_path: Path) -> None:
    folder = CheckpointStore(str(tmp_path), 2).save(make(4, average=True))
    assert len(storage.read_commit(folder, "checkpoint.json")["files"]) == 4


def test_steps_are_counted_not_spelt(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), 1)
    store.save(make(999_999))
    store.save(make(1_000_000))
    assert store.committed() == [1_000_000]


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


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_rows_that_could_not_be_written_are_written_once(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "rows.jsonl") if place == "disk" else "memory://rows-fail/rows.jsonl"
    storage.remove_tree("memory://rows-fail")
    log = RowLog(uri, 0)
    log.append({"step": 1})
    if place == "memory":
        write = storage.write_text

        def lost_answer(uri: str, text: str) -> None:
            write(uri, text)
            raise OSError("connection lost")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_text", lost_answer)
            with pytest.raises(OSError, match="connection lost"):
                log.flush()
    log.append({"step": 2})
    log.flush()
    log.flush()
    assert read_rows(uri) == [{"step": 1}, {"step": 2}]


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 4)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    moments = {f"{key}.{name}": value for name, value in state.items() for key in ("exp_avg", "exp_avg_sq")}

    def refused(**changes: object) -> str:
        made = Checkpoint(Progress(2), dict(state), {**moments, "step": torch.tensor(2.0)}, None)
        for name, value in changes.items():
            setattr(made, name, value)
        with pytest.raises(UserError) as error:
            check_fits(made, module, "run/checkpoints")
        return str(error.value)

    check_fits(Checkpoint(Progress(2), state, {**moments, "step": torch.tensor(2.0)}, state), module, "here")
    assert "model.safetensors lacks bias" in refused(model={"weight": state["weight"]})
    assert "holds weight as torch.float32 [4, 5], here it is" in refused(model=state | {"weight": torch.ones(4, 5)})
    assert "holds weight as torch.int64" in refused(model=state | {"weight": torch.ones(4, 3, dtype=torch.int64)})
    assert "has no 'more'" in refused(model=state | {"more": torch.ones(1)})
    assert "optimizer.safetensors lacks exp_avg.weight" in refused(optimizer={"step": torch.tensor(2.0)})
    assert "average.safetensors lacks" in refused(average={})


def test_a_checkpoint_that_is_not_finite_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = CheckpointStore(str(tmp_path), 2)
    store.save(make(2))
    broken = make(4)
    broken.optimizer["exp_avg.weight"] = torch.tensor([1.0, float("nan")])
    store.save(broken)
    newest = store.load_newest()
    assert newest is not None
    assert newest.progress.step == 2
    assert "optimizer.safetensors holds values in exp_avg.weight that are not finite" in capsys.readouterr().err
