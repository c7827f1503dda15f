"""Tracking: MLflow and TensorBoard, for rank 0 of any job. It never slows, stops or fails the work it watches.

Calls only put items into a queue; a thread sends them. While the server is away they are kept and retried, with one
warning. The MLflow run's id lies in the run's folder (`mlflow.json`), so a restarted job appends to the same run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import sys
import tempfile
import threading
import time
from typing import Any

from ssmttm import storage
from ssmttm.config import Config

RETRY_SECONDS = 5.0
FINISH_SECONDS = 30.0
MAX_BATCH = 500  # MLflow takes at most 1,000 metrics in one request
MAX_KEPT = 100_000


def default_uri(out: str) -> str:
    """SQLite beside the runs; a server where runs lie on an object store has to be named by `tracking.uri`."""
    return f"sqlite:///{storage.join(storage.local_path(storage.absolute(out)), 'mlflow.db')}"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted keys with text values, as MLflow stores parameters."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _quiet_mlflow() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Connection:
    """The MLflow run behind a tracker; every call may raise."""

    def __init__(self, config: Config, run_name: str, run_dir: str, tags: dict[str, str]):
        _quiet_mlflow()
        from mlflow import MlflowClient

        uri = config.tracking.uri or default_uri(config.train.out)
        self.client = MlflowClient(uri)
        note = storage.join(run_dir, "mlflow.json")
        if storage.exists(note) and (known := storage.read_json(note))["tracking_uri"] == uri:
            self.run_id = known["run_id"]
            self.client.update_run(self.run_id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(config.tracking.experiment)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            artifacts = None if config.tracking.uri else storage.join(storage.absolute(config.train.out), "mlartifacts")
            experiment_id = self.client.create_experiment(config.tracking.experiment, artifacts)
        self.run_id = self.client.create_run(experiment_id, run_name=run_name, tags=tags).info.run_id
        storage.write_json(note, {"tracking_uri": uri, "experiment_id": experiment_id, "run_id": self.run_id})
        self.log_params(flatten(config.model_dump(mode="json")))

    def log_params(self, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(key, value[:500]) for key, value in values.items()])

    def log_metrics(self, items: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, milliseconds, step) for key, value, milliseconds, step in items]
        self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)

    def log_artifact(self, uri: str) -> None:
        if not storage.is_remote(uri):
            self.client.log_artifact(self.run_id, storage.local_path(uri))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, uri.rsplit("/", 1)[-1])
            storage.write_bytes(path, storage.read_bytes(uri))
            self.client.log_artifact(self.run_id, path)


class Tracker:
    """Figures, parameters and files of one run. Make it with `Tracker.start`, end it with `finish`."""

    def __init__(self, config: Config, run_name: str, run_dir: str, tags: dict[str, str] | None = None):
        self._config, self._run_name, self._run_dir, self._tags = config, run_name, run_dir, tags or {}
        self._metrics: list[tuple[str, float, int, int]] = []
        self._other: list[tuple[str, Any]] = []
        self._connection: _Connection | None = None
        self._board: Any = None
        self._warned = False
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        if config.tracking.enabled:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()

    @classmethod
    def start(cls, config: Config, run_name: str, run_dir: str, tags: dict[str, str] | None = None) -> Tracker:
        """Begin, or continue if `run_dir` remembers an MLflow run. Returns at once; with `tracking.enabled=false`
        every later call does nothing."""
        return cls(config, run_name, run_dir, tags)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record figures at a step; those that are not finite are left out."""
        now = int(time.time() * 1000)
        finite = [(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        self._put("metrics", finite)

    def params(self, values: dict[str, Any]) -> None:
        """Record parameters that are not part of the configuration (nested tables are flattened)."""
        self._put("params", flatten(values))

    def artifacts(self, uris: list[str]) -> None:
        """Attach files."""
        for uri in uris:
            self._put("artifact", uri)

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left, waiting half a minute at most, and end the run as FINISHED, FAILED or KILLED."""
        if self._thread is None:
            return
        self._put("status", status)
        self._queue.put(None)
        self._thread.join(FINISH_SECONDS)
        self._thread = None

    def _put(self, kind: str, payload: Any) -> None:
        if self._thread is not None:
            self._queue.put((kind, payload))

    def _warn(self, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            reason = " ".join(str(error).split())[:200]
            print(f"warning: tracking does not work, the run goes on without it: {reason}", file=sys.stderr, flush=True)

    def _work(self) -> None:
        finishing, deadline = False, math.inf
        while True:
            finishing = self._collect(finishing, wait=RETRY_SECONDS if not self._metrics and not self._other else 0.5)
            if finishing and deadline == math.inf:
                deadline = time.monotonic() + FINISH_SECONDS / 2
            try:
                self._send()
            except Exception as error:
                self._warn(error)
                if finishing and time.monotonic() > deadline:
                    return
                time.sleep(RETRY_SECONDS if not finishing else 1.0)
                continue
            if finishing:
                with contextlib.suppress(Exception):
                    if self._board is not None:
                        self._board.close()
                return

    def _collect(self, finishing: bool, wait: float) -> bool:
        """Move queued items into the buffers, waiting for the first; True once the end was asked for."""
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=0.01 if finishing else wait)
            while True:
                if item is None:
                    finishing = True
                elif item[0] == "metrics":
                    self._write_board(item[1])
                    self._metrics = (self._metrics + item[1])[-MAX_KEPT:]
                else:
                    self._other.append(item)
                item = self._queue.get_nowait()
        return finishing

    def _write_board(self, items: list[tuple[str, float, int, int]]) -> None:
        try:
            if self._board is None:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(storage.join(self._run_dir, "tensorboard"))
            for key, value, milliseconds, step in items:
                self._board.add_scalar(key, value, step, walltime=milliseconds / 1000)
        except Exception as error:
            self._warn(error)

    def _send(self) -> None:
        if self._connection is None:
            self._connection = _Connection(self._config, self._run_name, self._run_dir, self._tags)
        connection = self._connection
        while self._metrics:
            connection.log_metrics(self._metrics[:MAX_BATCH])
            del self._metrics[:MAX_BATCH]
        while self._other:
            kind, payload = self._other[0]
            if kind == "params":
                connection.log_params(payload)
            elif kind == "artifact":
                connection.log_artifact(payload)
            else:
                connection.client.set_terminated(connection.run_id, payload)
            del self._other[0]
