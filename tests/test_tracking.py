from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from ssmttm import config, storage, tracking
from ssmttm.tracking import Tracker, flatten


def tracked(folder: Path, *overrides: str) -> config.Config:
    return config.load("tiny", [f"train.out={folder}", *overrides])


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": "1", "a.c.d": "[2]", "e": "None"}


def test_a_restarted_job_appends_to_its_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_dir = tmp_path / "stage1"
    run_dir.mkdir()
    settings = tracked(tmp_path)
    first = Tracker.start(settings, "stage1", str(run_dir), {"stage": "stage1"})
    first.metrics({"train/loss": 2.0, "train/broken": math.nan}, step=1)
    first.finish("KILLED")
    (run_dir / "summary.json").write_text("{}")
    second = Tracker.start(settings, "stage1", str(run_dir))
    second.metrics({"train/loss": 1.0}, step=2)
    second.params({"extra": {"seconds": 3}})
    second.artifacts([str(run_dir / "summary.json")])
    second.finish()

    note = storage.read_json(str(run_dir / "mlflow.json"))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.search_runs([note["experiment_id"]])) == 1
    run = client.get_run(note["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "stage1"
    assert run.data.tags["stage"] == "stage1"
    assert run.data.params["train.lr"] == str(settings.train.lr)
    assert run.data.params["extra.seconds"] == "3"
    history = client.get_metric_history(note["run_id"], "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    assert "train/broken" not in run.data.metrics
    assert [entry.path for entry in client.list_artifacts(note["run_id"])] == ["summary.json"]
    assert (tmp_path / "mlartifacts").is_dir()
    assert list((run_dir / "tensorboard").glob("events*"))


def test_a_dead_server_costs_one_warning_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 4.0)
    settings = tracked(tmp_path, "tracking.uri=http://127.0.0.1:9")
    tracker = Tracker.start(settings, "run", str(tmp_path / "run"))
    start = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0}, step)
    assert time.monotonic() - start < 1.0
    tracker.finish()
    assert capsys.readouterr().err.count("warning: tracking does not work") == 1


def test_switched_off_it_leaves_nothing(tmp_path: Path) -> None:
    tracker = Tracker.start(tracked(tmp_path, "tracking.enabled=false"), "run", str(tmp_path / "run"))
    tracker.metrics({"loss": 1.0}, 1)
    tracker.artifacts(["missing"])
    tracker.finish()
    assert not list(tmp_path.iterdir())
