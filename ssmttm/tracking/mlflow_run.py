"""The MLflow run behind a tracker, found again through `mlflow.json` in the run's folder."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.tracking.courier import Point, UndeliverableError, UnusableError

NOTE_NAME = "mlflow.json"
PARAM_CHARACTERS = 500
# What asking again would not change; anything else may be a server that is away.
_FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}


def default_uri(out: str) -> str:
    """SQLite beside the runs.

    Raises:
        UserError: where runs lie on an object store, which holds no database, or their folder's name would end its
            address.
    """
    if storage.is_remote(out):
        raise UserError(f"runs at {out} need tracking.uri, an MLflow server (or tracking.enabled=false)")
    if "?" in storage.absolute(out):
        raise UserError(f"runs at {out}, a name with a question mark, need tracking.uri (or tracking.enabled=false)")
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


def import_mlflow() -> Any:
    """The module `mlflow`, told to be quiet and not to wait long for its server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import mlflow

    return mlflow


def read_note(run_dir: str) -> dict[str, str] | None:
    """`tracking_uri`, `experiment_id` and `run_id` of the MLflow run that a folder's run was sent to, if any."""
    note = storage.join(run_dir, NOTE_NAME)
    return storage.read_json(note) if storage.exists(note) else None


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the server will never take into UndeliverableError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _FINAL:
            raise UndeliverableError(str(error)) from error
        raise


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """While the block lasts, no other run of this machine is in one for the same SQLite database. MLflow makes its
    tables at the first use without asking whether another process is about to, and two that do leave a database that
    is neither's. The lock is on the database's folder, which leaves no file behind."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        yield
        return
    folder = os.path.dirname(os.path.abspath(path.partition("?")[0]))
    os.makedirs(folder, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some shared mounts have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


class MlflowRun:
    """Receives for one MLflow run: the one that the folder remembers, else a new one.

    A job that goes on from a checkpoint repeats the steps after it, with the same figures. MLflow cannot replace points
    and draws two at one step as a jag; so those it has are not sent again, and lost ones are filled in. The tag
    `starts` lists the steps that the run was begun and continued at.

    Args:
        restored: says, once there are points, after which step this start goes on; None: the job has no such steps.

    Raises:
        UnusableError: without MLflow, or without a place for it.
    """

    def __init__(self, config: Config, run_name: str, run_dir: str, restored: Callable[[], int | None]):
        try:
            mlflow = import_mlflow()
            uri = config.tracking.uri or default_uri(config.train.out)
        except (ImportError, UserError) as error:
            raise UnusableError(str(error)) from error
        known = read_note(run_dir)
        with _alone(uri):
            self._client = mlflow.MlflowClient(uri)
            run_id = self._again(known["run_id"]) if known and known["tracking_uri"] == uri else None
            experiment_id = self._experiment(config) if run_id is None else ""
        self._continued, self._restored = run_id is not None, restored
        self._last_steps: dict[str, int] = {}
        if run_id is None:
            run_id = self._client.create_run(experiment_id, run_name=run_name).info.run_id
            note = {"tracking_uri": uri, "experiment_id": experiment_id, "run_id": run_id}
            storage.write_json(storage.join(run_dir, NOTE_NAME), note)
        self._run_id = run_id

    def _again(self, run_id: str) -> str | None:
        """The run set going again; None if the server has it no more."""
        try:
            with _refusals():
                self._client.update_run(run_id, status="RUNNING")
        except UndeliverableError:
            return None
        return run_id

    def _experiment(self, config: Config) -> str:
        experiment = self._client.get_experiment_by_name(config.tracking.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        # A server knows where artifacts go; a database alone would put them into the working directory.
        served = (config.tracking.uri or "").startswith("http")
        artifacts = None if served else storage.join(storage.absolute(config.train.out), "mlartifacts")
        return str(self._client.create_experiment(config.tracking.experiment, artifacts))

    def points(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        with _refusals():
            if self._continued and self._restored() is not None:
                points = [point for point in points if point[3] > self._last_step(point[0])]
            metrics = [Metric(name, value, milliseconds, step) for name, value, milliseconds, step in points]
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def _last_step(self, name: str) -> int:
        """The last step of a figure that an earlier start delivered."""
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max((point.step for point in history), default=-1)
        return self._last_steps[name]

    def item(self, kind: str, content: Any) -> None:
        with _refusals():
            if kind == "params":
                self._params(content)
            elif kind == "tags":
                self._tags(content)
            elif kind == "begin":
                before = self._client.get_run(self._run_id).data.tags.get("starts")
                self._tags({"starts": f"{before}, {content}" if before else str(content)})
            elif kind == "artifact":
                self._artifact(content, "samples" if content.endswith(".wav") else None)
            elif kind == "sample":
                uri, step = content
                self._artifact(uri, f"samples/step-{step:06d}")
            elif kind == "status":
                self._client.set_terminated(self._run_id, content)

    def _params(self, values: dict[str, str]) -> None:
        """Parameters cannot change: a continued run keeps its first ones; `config.json` is that of the newest start."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        params = [Param(key, value[:PARAM_CHARACTERS]) for key, value in values.items() if key not in known]
        self._client.log_batch(self._run_id, params=params, synchronous=True)

    def _tags(self, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, value) for key, value in values.items()]
        self._client.log_batch(self._run_id, tags=tags, synchronous=True)

    def _artifact(self, uri: str, folder: str | None) -> None:
        if not storage.exists(uri):
            raise UndeliverableError(f"{uri} does not exist")
        if not storage.is_remote(uri):
            self._client.log_artifact(self._run_id, storage.local_path(uri), folder)
            return
        with tempfile.TemporaryDirectory() as copies:
            path = os.path.join(copies, uri.rsplit("/", 1)[-1])
            storage.write_bytes(path, storage.read_bytes(uri))
            self._client.log_artifact(self._run_id, path, folder)
