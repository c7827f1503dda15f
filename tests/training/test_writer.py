"""Saving beside training: what the writer's thread does, and what happens where it cannot."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import make
from test_trainer import STEPS, figures, trainer

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.training import trainer as trainer_module
from ssmttm.training import writer as writer_module
from ssmttm.training.checkpoint import CheckpointStore, folder_of, load_checkpoint
from ssmttm.training.launch import train
from ssmttm.training.run import Run, prepare
from ssmttm.training.writer import RunWriter, persistently, read_rows

MakeConfig = Callable[..., Config]


def started(config: Config) -> Run:
    run = prepare(config, "stage1")
    assert run is not None
    return run


def test_one_write_at_a_time_and_the_wait_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, release, saved = RunWriter(Run(str(tmp_path)), 2, 0), threading.Event(), []

    def save(_: CheckpointStore, checkpoint: Any) -> None:
        assert release.wait(10)
        saved.append(checkpoint.progress.step)

    monkeypatch.setattr(CheckpointStore, "save", save)
    writer.metrics.append({"step": 1})
    writer.save(make(1))
    assert writer.wait_seconds < 0.1
    writer.metrics.append({"step": 2})
    writer.flush()  # returns at once: the row waits for the next call
    threading.Timer(0.5, release.set).start()
    writer.save(make(2))
    assert saved[:1] == [1]
    assert writer.wait_seconds > 0.3
    writer.join()
    assert saved == [1, 2]
    assert [row["step"] for row in read_rows(writer.metrics.uri)] == [1, 2]


def test_a_checkpoint_holds_its_step_though_training_goes_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*STEPS, "train.ema=0.9")
    whole = train(make_config("stage1", *settings, "train.name=whole"), "stage1")
    save, reached = CheckpointStore.save, threading.Event()

    def late(self: CheckpointStore, checkpoint: Any) -> str:
        assert checkpoint.progress.step != 2 or reached.wait(20)
        return save(self, checkpoint)

    told: list[tuple[str, int]] = []

    class Watcher:
        def begin(self, step: int) -> None:
            pass

        def checkpoint(self, uri: str, step: int) -> None:
            told.append((uri, step))

        def metrics(self, values: dict[str, float], step: int) -> None:
            if step == 4:  # two steps on
                reached.set()

        def artifacts(self, uris: list[str]) -> None:
            pass

        def samples(self, uris: list[str], step: int) -> None:
            pass

    monkeypatch.setattr(CheckpointStore, "save", late)
    config = make_config("stage1", *settings, "train.name=late", "train.validate_every=8")
    run = started(config)
    trainer(config, run, listener=Watcher()).fit()
    assert figures(run) == figures(whole)
    assert told == [(folder_of(run.checkpoints, step), step) for step in (2, 4, 6, 8)]
    for step in (2, 4, 8):
        mine, theirs = (load_checkpoint(storage.join(r.checkpoints, f"step-{step:06d}")) for r in (run, whole))
        assert mine.progress.position == theirs.progress.position == step
        for name in ("model", "optimizer", "average"):
            mine_state, their_state = getattr(mine, name), getattr(theirs, name)
            assert all(torch.equal(value, their_state[key]) for key, value in mine_state.items())


def test_minutes_save_too(make_config: MakeConfig) -> None:
    config = make_config("stage1", *STEPS, "train.checkpoint_every=1000", "train.checkpoint_minutes=1e-6")
    run = train(config, "stage1")
    assert CheckpointStore(run.checkpoints, 9).committed() == list(range(1, 9))
    config = make_config("stage1", *STEPS, "train.checkpoint_every=6", "train.checkpoint_minutes=9", "train.name=n")
    assert CheckpointStore(train(config, "stage1").checkpoints, 9).committed() == [6, 8]


def test_the_best_by_validation_is_kept(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([5.0, 3.0, 4.0, float("nan"), 3.5, 3.2, 3.1, 3.0])
    monkeypatch.setattr(trainer_module, "validate", lambda *_: {"own": next(losses)})
    often = ("train.validate_every=1", "train.checkpoint_every=3", "train.keep_checkpoints=1", "train.keep_best=true")
    config = make_config("stage1", *STEPS, *often)
    run = started(config)
    asked = iter([False] * 4 + [True] * 9)
    with pytest.raises(trainer_module.TrainingStoppedError):
        trainer(config, run, stop_requested=lambda: next(asked)).fit()
    store = CheckpointStore(run.checkpoints, 1)
    assert store.committed() == [2, 5]
    trainer(config, run).fit()
    assert store.committed() == [2, 8]
    assert storage.read_json(run.summary)["best_checkpoint"] == storage.join(run.checkpoints, "step-000002")
    best = storage.read_json(storage.join(run.checkpoints, "step-000008", "progress.json"))
    assert (best["best_loss"], best["best_step"]) == (3.0, 2)


def test_a_disk_that_fails_ends_the_run_and_names_the_place(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = storage.write_bytes

    def full(uri: str, data: bytes) -> None:
        if "step-000004/optimizer" in uri:
            raise OSError(28, "No space left on device")
        write(uri, data)

    config = make_config("stage1", *STEPS)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", full)
        with pytest.raises(
            UserError, match=r"stage1/checkpoints could not be written .*No space left on device.*; make room"
        ):
            train(config, "stage1")
    run = Run(storage.join(config.train.out, "stage1"))
    assert CheckpointStore(run.checkpoints, 9).committed() == [2]
    assert storage.list_names(run.checkpoints) == ["step-000002"]  # no half checkpoint takes up room
    train(config, "stage1")
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(1, 9))


def test_a_mistake_of_ours_is_not_shown_as_the_users() -> None:
    with pytest.raises(ZeroDivisionError):
        persistently(lambda: 1 // 0, "/tmp/run")


def test_remote_storage_gets_patience_that_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer_module, "PAUSE_S", 0.01)
    answers = iter([ConnectionError("gone"), OSError("gone"), None])

    def action() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "written"

    assert persistently(action, "s3://bucket/run") == "written"
    assert capsys.readouterr().err.count("s3://bucket/run: gone; trying again") == 2
    monkeypatch.setattr(writer_module, "PATIENCE_S", 0.1)

    def never() -> None:
        raise ConnectionError("gone")

    start = time.monotonic()
    with pytest.raises(UserError, match=r"^s3://bucket/run could not be written \(gone\)"):
        persistently(never, "s3://bucket/run")
    assert 0.1 < time.monotonic() - start < 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few hundred KiB, to be filled; skipped where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(make_config: MakeConfig, small_disk: Path) -> None:
    whole = train(make_config("stage1", *STEPS, "train.name=whole"), "stage1")
    size = sum(path.stat().st_size for path in Path(whole.checkpoints, "step-000002").iterdir())
    resize = ["mount", "-o", "remount,size={}k", str(small_disk)]
    subprocess.run([word.format(int(2.5 * size / 1024) + 64) for word in resize], check=True)
    config = make_config("stage1", *STEPS, f"train.out={small_disk}", "train.name=full")
    with pytest.raises(UserError, match=rf"{small_disk}/full/checkpoints could not be written .*the disk is full"):
        train(config, "stage1")
    run = Run(str(small_disk / "full"))
    assert CheckpointStore(run.checkpoints, 9).committed() == [2, 4]
    assert [row["step"] for row in read_rows(run.metrics)][:4] == [1, 2, 3, 4]
    subprocess.run([word.format(20 * size // 1024) for word in resize], check=True)
    train(config, "stage1")
    assert figures(run) == figures(whole)
