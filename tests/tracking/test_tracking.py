from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmttm import audio, config, storage
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.tracking import Tracker, courier, default_uri, flatten


def tracked(folder: Path, *overrides: str) -> config.Config:
    return config.load("tiny", [f"train.out={folder}", *overrides])


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def sounds(folder: Path, name: str) -> list[int]:
    """Steps at which TensorBoard has a sound."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(folder)).Reload().Audio(name)]


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": "1", "a.c.d": "[2]", "e": "None"}


def test_a_restarted_job_appends_to_its_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_dir = tmp_path / "stage1"
    run_dir.mkdir()
    settings = tracked(tmp_path)
    first = Tracker.start(settings, "stage1", str(run_dir), {"stage": "stage1"})
    first.begin(0)
    for step, loss in ((1, 2.0), (2, 1.5), (3, 1.25)):
        first.metrics({"train/loss": loss, "train/broken": math.nan}, step)
    first.metrics({"train/tokens_per_s": 1.0}, 1)
    first.checkpoint("checkpoints/step-000001", 1)
    first.finish("KILLED")
    (run_dir / "summary.json").write_text("{}")
    audio.write(str(run_dir / "0-piano.wav"), Audio(np.zeros((1, 800), np.float32), 8000))
    changed = tracked(tmp_path, "train.workers=5")
    second = Tracker.start(changed, "stage1", str(run_dir), {"git_commit": "abc"})
    second.begin(1)
    for step, loss in ((2, 1.5), (3, 1.25), (4, 1.0)):
        second.metrics({"train/loss": loss}, step)
    for step in (2, 3):
        second.metrics({"train/tokens_per_s": 10.0}, step)
    second.params({"extra": {"seconds": 3}})
    second.artifacts([str(run_dir / "summary.json"), str(run_dir / "0-piano.wav")])
    second.samples([str(run_dir / "0-piano.wav")], 3)
    second.finish()

    note = storage.read_json(str(run_dir / "mlflow.json"))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.search_runs([note["experiment_id"]])) == 1
    run = client.get_run(note["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "stage1"
    assert {"stage": "stage1", "git_commit": "abc", "starts": "0, 1"}.items() <= run.data.tags.items()
    assert {"checkpoint": "checkpoints/step-000001", "checkpoint_step": "1"}.items() <= run.data.tags.items()
    assert run.data.params["train.lr"] == str(settings.train.lr)
    assert run.data.params["train.workers"] == str(settings.train.workers)  # as it was begun
    assert run.data.params["extra.seconds"] == "3"
    history = client.get_metric_history(note["run_id"], "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.5), (3, 1.25), (4, 1.0)]
    speeds = {point.step: point.value for point in client.get_metric_history(note["run_id"], "train/tokens_per_s")}
    assert speeds == {1: 1.0, 2: 10.0, 3: 10.0}  # 2 was lost: it is filled in
    assert run.data.metrics["train/loss"] == 1.0
    assert "train/broken" not in run.data.metrics
    assert [entry.path for entry in client.list_artifacts(note["run_id"])] == ["samples", "summary.json"]
    assert (tmp_path / "mlartifacts").is_dir()
    assert scalars(run_dir / "tensorboard", "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.25), (4, 1.0)]
    sound = [entry.path for entry in client.list_artifacts(note["run_id"], "samples")]
    assert sound == ["samples/0-piano.wav", "samples/step-000003"]
    sound = [entry.path for entry in client.list_artifacts(note["run_id"], "samples/step-000003")]
    assert sound == ["samples/step-000003/0-piano.wav"]
    assert sounds(run_dir / "tensorboard", "samples/0-piano") == [4, 3]


def test_runs_on_an_object_store_copy_their_board(tmp_path: Path) -> None:
    from ssmttm.tracking import board

    remote = f"memory://{tmp_path.name}/run"
    receiver = board.Board(remote, lambda: 0)
    receiver.points([("loss", 1.0, 0, 1)])
    assert not storage.list_names(f"{remote}/tensorboard")
    receiver.item("checkpoint", "step-000001")
    assert len(storage.list_names(f"{remote}/tensorboard")) == 1
    receiver.points([("loss", 0.5, 0, 2)])
    receiver.item("status", "FINISHED")
    (name,) = storage.list_names(f"{remote}/tensorboard")
    storage.write_bytes(str(tmp_path / name), storage.read_bytes(f"{remote}/tensorboard/{name}"))
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5)]


def test_a_dead_server_costs_one_warning_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(courier, "FINISH_SECONDS", 4.0)
    settings = tracked(tmp_path, "tracking.uri=http://127.0.0.1:9")
    tracker = Tracker.start(settings, "run", str(tmp_path / "run"))
    start = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0}, step)
    assert time.monotonic() - start < 1.0
    tracker.finish()
    assert time.monotonic() - start < 7.0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: MLflow cannot be reached, the run goes on")
    assert lines[1].startswith("warning: MLflow was not given 1,000 points and ")
    assert lines[1].endswith(f"; see metrics.jsonl, validation.jsonl and tensorboard in {tmp_path}/run")
    assert len(scalars(tmp_path / "run" / "tensorboard", "loss")) == 1000


def test_an_object_store_without_a_server_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config.load("tiny", ["train.out=memory://runs"])
    tracker = Tracker.start(settings, "run", f"memory://{tmp_path.name}/run")
    tracker.metrics({"loss": 1.0}, 1)
    start = time.monotonic()
    tracker.finish()
    assert time.monotonic() - start < 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow is not used: runs at memory://runs need tracking.uri")


def test_a_folder_that_no_database_can_be_named_after_is_said() -> None:
    for name in ("a?b", "/tmp/?"):
        with pytest.raises(UserError, match="a name with a question mark, need tracking"):
            default_uri(name)
    assert default_uri("/tmp/a#b%20::c") == "sqlite:////tmp/a#b%20::c/mlflow.db"


def test_switched_off_it_leaves_nothing(tmp_path: Path) -> None:
    tracker = Tracker.start(tracked(tmp_path, "tracking.enabled=false"), "run", str(tmp_path / "run"))
    tracker.metrics({"loss": 1.0}, 1)
    tracker.artifacts(["missing"])
    tracker.finish()
    assert not list(tmp_path.iterdir())


def test_a_held_tracker_sends_nothing_before_it_begins(tmp_path: Path) -> None:
    tracker = Tracker.start(tracked(tmp_path), "run", str(tmp_path / "run"), held=True)
    tracker.metrics({"loss": 1.0}, 1)
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())
    tracker.begin(0)
    tracker.finish()
    assert scalars(tmp_path / "run" / "tensorboard", "loss") == [(1, 1.0)]
    assert (tmp_path / "run" / "mlflow.json").exists()


def test_a_held_tracker_that_never_begins_still_says_how_it_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = Tracker.start(tracked(tmp_path), "run", str(tmp_path / "run"), held=True)
    tracker.finish("FAILED")
    note = storage.read_json(str(tmp_path / "run" / "mlflow.json"))
    assert MlflowClient(note["tracking_uri"]).get_run(note["run_id"]).info.status == "FAILED"


TOGETHER = """
import sys
from ssmttm import config
from ssmttm.tracking import Tracker
from ssmttm.tracking.mlflow_run import import_mlflow

client = import_mlflow().MlflowClient
import mlflow.store.tracking.sqlalchemy_store
print("ready", flush=True)
sys.stdin.readline()
settings = config.load("tiny", [f"train.out={sys.argv[1]}"])
tracker = Tracker.start(settings, sys.argv[2], f"{sys.argv[1]}/{sys.argv[2]}")
for step in range(3):
    tracker.metrics({"loss": 1.0}, step)
tracker.finish()
"""


@pytest.mark.slow
def test_runs_that_start_together_lose_nothing(tmp_path: Path) -> None:
    """On a fresh folder, where each finds no database yet."""
    from mlflow import MlflowClient

    names, pipes = ["a", "b", "c"], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", TOGETHER, str(tmp_path)]
    jobs: list[Any] = [subprocess.Popen([*command, name], text=True, **pipes) for name in names]  # type: ignore[call-overload]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    said = [job.communicate(timeout=200)[1] for job in jobs]
    assert said == [""] * len(names)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for name in names:
        run = storage.read_json(str(tmp_path / name / "mlflow.json"))["run_id"]
        assert [point.step for point in client.get_metric_history(run, "loss")] == [0, 1, 2]
        assert client.get_run(run).info.status == "FINISHED"
