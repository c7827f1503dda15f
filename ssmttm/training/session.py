"""What surrounds a training loop in its process: the signal to stop, and the tracker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def tracking(config: Config, stage: StageName, run: Run) -> Iterator[Tracker]:
    """A tracker whose run ends as the block does."""
    commit = git_commit()
    name = run.uri.rsplit("/", 1)[-1]
    tracker = Tracker.start(config, name, run.uri, {"stage": stage, **({"git_commit": commit} if commit else {})})
    try:
        yield tracker
    except (TrainingStoppedError, PreemptedError):
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
