"""What surrounds a training loop in its process: how it is asked to stop, who hears of it, how long its start took."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.tracking import Tracker
from ssmttm.training.run import Run, git_commit


class TrainingStoppedError(Exception):
    """Raised after the checkpoint that a request to stop (SIGTERM) asked for."""


class PreemptedError(RuntimeError):
    """Raised on every worker after the checkpoint that one of them, about to be taken away, asked for."""


class DivergedError(UserError):
    """Raised on every worker after too many steps in a row that were not finite."""


class Signals(NamedTuple):
    """What any worker may say at a step, and all then act upon.

    stop: the run shall end. preempted: this worker will be taken away. save: a checkpoint is due. failed: the run's
    folder cannot be written.
    """

    stop: bool = False
    preempted: bool = False
    save: bool = False
    failed: bool = False


class Listener(Protocol):
    """Gets figures and files of a run. Calls return at once and never raise."""

    def begin(self, step: int) -> None: ...

    def metrics(self, values: dict[str, float], step: int) -> None: ...

    def checkpoint(self, uri: str, step: int) -> None: ...

    def artifacts(self, uris: list[str]) -> None: ...

    def samples(self, uris: list[str], step: int) -> None: ...


class Listeners:
    """Several listeners as one."""

    def __init__(self, *listeners: Listener):
        self._listeners = listeners

    def begin(self, step: int) -> None:
        for listener in self._listeners:
            listener.begin(step)

    def metrics(self, values: dict[str, float], step: int) -> None:
        for listener in self._listeners:
            listener.metrics(values, step)

    def checkpoint(self, uri: str, step: int) -> None:
        for listener in self._listeners:
            listener.checkpoint(uri, step)

    def artifacts(self, uris: list[str]) -> None:
        for listener in self._listeners:
            listener.artifacts(uris)

    def samples(self, uris: list[str], step: int) -> None:
        for listener in self._listeners:
            listener.samples(uris, step)


class StartUp:
    """Times since a job began, in parts of which each ends where the next begins.

    Args:
        began: seconds since 1970, by the clock of the machine where the job was started.
        parts: names and seconds of what has ended already.
    """

    def __init__(self, began: float, parts: dict[str, float] | None = None):
        self.began, self.parts = began, dict(parts or {})

    def ended(self, part: str) -> None:
        """Note that this part ends now."""
        self.parts[part] = time.time() - self.began - sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"first step after {sum(self.parts.values()):.1f} s ({parts})"


@contextmanager
def sigterm_flag(then: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in place of ending the process; `then` is called too."""
    flag = threading.Event()

    def handle(*_: object) -> None:
        flag.set()
        then()

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def tracking(config: Config, kind: str, run: Run, tags: dict[str, str] | None = None) -> Iterator[Tracker]:
    """A tracker whose run ends as the block does. `kind`: of what is trained, a stage or the vocoder."""
    commit = git_commit()
    known = {"stage": kind, "run": run.uri, **(tags or {})}
    if config.tracking.parent:
        known["mlflow.parentRunId"] = config.tracking.parent
    if commit:
        known |= {"git_commit": commit, "mlflow.source.git.commit": commit.rstrip("+")}
    tracker = Tracker.start(config, run.uri.rsplit("/", 1)[-1], run.uri, known, held=True)
    try:
        yield tracker
    except (TrainingStoppedError, PreemptedError):
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")


@contextmanager
def tracking_stage(config: Config, stage: str, run: Run) -> Iterator[Tracker]:
    """The same for a stage, which is also known by the data that it learns from."""
    dataset, card = storage.read_json(run.path("dataset.json")), storage.join(config.train.data, "README.md")
    tags = {"dataset": config.train.data}
    if "fingerprint" in dataset:
        tags["dataset_fingerprint"] = dataset["fingerprint"]
    if "seconds_by_licence" in dataset:
        tags["dataset_licences"] = ", ".join(sorted(dataset["seconds_by_licence"]))
    if storage.exists(card):
        tags["dataset_card_sha256"] = storage.digest(card)
    with tracking(config, stage, run, tags) as tracker:
        tracker.artifacts([run.path("config.json"), run.path("dataset.json")])
        yield tracker
