"""What can end a run before its last step, and how the workers agree on it."""

from __future__ import annotations

from typing import NamedTuple

from ssmttm.errors import UserError


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
