"""The notice that a Ray worker is about to be taken away: SIGTERM, as clouds, Kubernetes and Slurm send it.

Python runs signal handlers in a process's main thread alone, where Ray has its own and where no training function
runs: so ours is set by a callback of Ray Train, before training begins.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_listening, _noticed = threading.Event(), threading.Event()


def _replace_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        if _listening.is_set() and not _noticed.is_set():
            _noticed.set()
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)


def notice_callback() -> Any:
    """What Ray Train's RunConfig takes, so that SIGTERM to a worker is noticed while it trains."""
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class Notice(WorkerCallback):
        def after_init_train_context(self) -> None:
            _replace_handler()

    return Notice()


@contextmanager
def noticing() -> Iterator[threading.Event]:
    """An event that the first SIGTERM sets while the block runs; one before, after or besides ends the process."""
    _listening.set()
    try:
        yield _noticed
    finally:
        _listening.clear()
