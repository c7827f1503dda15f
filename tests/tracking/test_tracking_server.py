"""A real MLflow server, killed in mid-run and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssmttm import config, storage
from ssmttm.tracking import Tracker, courier

pytestmark = pytest.mark.slow
Server = subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[int], Server]]:
    running: list[Server] = []

    def start(port: int) -> Server:
        where = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
        where += ["--artifacts-destination", str(tmp_path / "served"), "--host", "127.0.0.1", "--port", str(port)]
        with open(tmp_path / "server.log", "ab") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mlflow", "server", "--workers", "1", *where],
                    env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        wait_for(lambda: answers(port), 90)
        return running[-1]

    yield start
    for server in running:
        stop(server)


def stop(server: Server) -> None:
    """Kill the server and the workers it started."""
    if server.poll() is None:
        os.killpg(server.pid, 9)
        server.wait()


def test_a_server_that_dies_and_comes_back_has_every_point(
    serve: Callable[[int], Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    server = serve(port)
    uri = f"http://127.0.0.1:{port}"
    run_dir = tmp_path / "runs" / "stage1"
    run_dir.mkdir(parents=True)
    tracker = Tracker.start(
        config.load("tiny", [f"train.out={tmp_path}/runs", f"tracking.uri={uri}"]), "stage1", str(run_dir)
    )
    tracker.begin(0)
    for step in range(1, 51):
        tracker.metrics({"train/loss": 1 / step}, step)
    wait_for((run_dir / "mlflow.json").exists, 30)
    run_id = storage.read_json(str(run_dir / "mlflow.json"))["run_id"]
    wait_for(lambda: len(MlflowClient(uri).get_metric_history(run_id, "train/loss")) == 50, 30)

    stop(server)
    slowest = 0.0
    for step in range(51, 101):
        start = time.perf_counter()
        tracker.metrics({"train/loss": 1 / step}, step)
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.02)
    tracker.checkpoint("checkpoints/step-000100", 100)
    assert slowest < 0.1
    time.sleep(2)
    serve(port)
    for step in range(101, 151):
        tracker.metrics({"train/loss": 1 / step}, step)
    (run_dir / "summary.json").write_text("{}")
    tracker.artifacts([str(run_dir / "summary.json")])
    tracker.finish()

    client = MlflowClient(uri)
    run = client.get_run(run_id)
    history = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 151)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["checkpoint_step"] == "100"
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["summary.json"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow cannot be reached")
