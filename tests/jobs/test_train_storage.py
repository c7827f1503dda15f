"""Training onto an S3 server that goes away: for a while, and for good."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from file_s3 import Server
from test_preprocess_kills import server  # noqa: F401  the fixture
from test_train_jobs import COMPARABLE, ON_RAY, assert_same_numbers, command, run_local, start

from ssmttm import config, storage
from ssmttm.errors import UserError
from ssmttm.training import writer
from ssmttm.training.checkpoint import CheckpointStore
from ssmttm.training.launch import train
from ssmttm.training.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
OUT = "s3://bucket/runs"
LONG = (*COMPARABLE, "train.steps=40", "train.checkpoint_every=5", "train.validate_every=20", "train.log_every=2")


def once_saved(server: Server, step: int, then: Any) -> threading.Thread:  # noqa: F811
    """Does something as soon as a checkpoint is committed on the server."""
    commit = server.folder / "bucket" / f"runs%2Fstage1%2Fcheckpoints%2Fstep-{step:06d}%2Fcheckpoint.json"

    def wait() -> None:
        while not commit.exists():
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def train_there(tokens: str) -> Run:
    settings = [f"train.data={tokens}", f"train.out={OUT}", "train.name=stage1", "train.launch=local", *LONG]
    return train(config.load("tiny", settings, job="stage1"), "stage1")


def test_thirty_seconds_without_storage_cost_nothing(server: Server, tiny_tokens: str, tmp_path: Path) -> None:  # noqa: F811
    def outage() -> None:
        server.kill()
        time.sleep(30)
        server.start()

    thread = once_saved(server, 10, outage)
    run = train_there(tiny_tokens)
    thread.join()
    assert_same_numbers(run, run_local(tiny_tokens, tmp_path, *LONG), tolerance=0)
    assert CheckpointStore(run.checkpoints, 2).committed() == [35, 40]
    assert storage.exists(run.summary)


def test_thirty_seconds_without_storage_cost_nothing_on_ray(server: Server, tiny_tokens: str, tmp_path: Path) -> None:  # noqa: F811
    """Two workers, one of which writes; Ray keeps its own notes on the same storage."""

    def outage() -> None:
        server.kill()
        time.sleep(30)
        server.start()

    thread = once_saved(server, 10, outage)
    job = start(command("stage1", tiny_tokens, Path("-"), *LONG, *ON_RAY, f"train.out={OUT}"))
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output[-4000:]
    thread.join()
    assert "trying again" in output, "the outage was not noticed"
    assert "continuing from step" not in output, "training was begun again"
    run = Run(f"{OUT}/stage1")
    undisturbed = start(command("stage1", tiny_tokens, tmp_path, *LONG, *ON_RAY))
    text, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, text[-4000:]
    assert_same_numbers(run, Run(str(tmp_path / "stage1")), tolerance=0)
    assert CheckpointStore(run.checkpoints, 2).committed() == [35, 40]
    assert storage.exists(run.summary)


def test_storage_that_stays_away_ends_the_run_which_then_goes_on(
    server: Server,  # noqa: F811
    tiny_tokens: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writer, "PATIENCE_S", 5)
        patch.setattr(storage, "RETRY_DELAYS_S", (0.1, 0.1))
        once_saved(server, 10, server.kill)
        with pytest.raises(UserError, match=r"^s3://bucket/runs/stage1/.* could not be written .*; make room or mend"):
            train_there(tiny_tokens)
    server.start()
    run = Run(f"{OUT}/stage1")
    assert CheckpointStore(run.checkpoints, 2).committed()[-1] >= 10
    assert not storage.exists(run.summary)
    train_there(tiny_tokens)
    assert_same_numbers(run, run_local(tiny_tokens, tmp_path, *LONG), tolerance=0)
