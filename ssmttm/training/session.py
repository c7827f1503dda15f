"""What surrounds a training loop in its process: the signal to stop, and the tracker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.tracking import Tracker
from ssmttm.training.run import Run, git_commit
from ssmttm.training.signals import PreemptedError, TrainingStoppedError
from ssmttm.training.stages import StageName


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


def _tags(config: Config, stage: StageName, run: Run) -> dict[str, str]:
    """What a run is known by besides its configuration: the code and the data that it comes from."""
    dataset = storage.read_json(run.path("dataset.json"))
    tags = {"stage": stage, "run": run.uri, "dataset": config.train.data}
    if config.tracking.parent:
        tags["mlflow.parentRunId"] = config.tracking.parent
    if "fingerprint" in dataset:
        tags["dataset_fingerprint"] = dataset["fingerprint"]
    if "seconds_by_licence" in dataset:
        tags["dataset_licences"] = ", ".join(sorted(dataset["seconds_by_licence"]))
    card = storage.join(config.train.data, "README.md")
    if storage.exists(card):
        tags["dataset_card_sha256"] = storage.digest(card)
    if commit := git_commit():
        tags |= {"git_commit": commit, "mlflow.source.git.commit": commit.rstrip("+")}
    return tags


@contextmanager
def tracking(config: Config, stage: StageName, run: Run) -> Iterator[Tracker]:
    """A tracker whose run ends as the block does."""
    tracker = Tracker.start(config, run.uri.rsplit("/", 1)[-1], run.uri, _tags(config, stage, run), held=True)
    tracker.artifacts([run.path("config.json"), run.path("dataset.json")])
    try:
        yield tracker
    except (TrainingStoppedError, PreemptedError):
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
