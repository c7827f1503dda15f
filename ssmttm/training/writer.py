"""What the first worker writes to a run's folder, in a background thread while training goes on.

Rows of figures (JSON lines) survive a restart without gaps or doubles. On a local disk the file grows by one line per
row. Object stores cannot append: there every flush writes a segment `NAME.parts/<first step>.jsonl`, and reading joins
them.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.lease import LeaseLostError
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore
from ssmttm.training.run import Run

Value = TypeVar("Value")
PATIENCE_S = 300.0  # how long a remote storage may be away before a run gives up
PAUSE_S = 2.0


def persistently(action: Callable[[], Value], uri: str) -> Value:
    """What `action`, which may be repeated, returns. On remote storage it is tried again until that has failed for
    `PATIENCE_S`; on a local disk (full, gone, not writable) it fails at once.

    Raises:
        UserError: naming the URI and what can be done.
    """
    failing_since: float | None = None
    while True:
        started = time.monotonic()
        try:
            return action()
        except LeaseLostError:
            raise
        except Exception as error:  # each storage library raises its own
            if not storage.is_remote(uri) and not isinstance(error, OSError | UserError):
                raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            failing_since = started if failing_since is None else failing_since
            denied = isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EACCES
            patient = storage.is_remote(uri) and not denied
            if not patient or time.monotonic() - failing_since > PATIENCE_S:
                raise UserError(
                    f"{uri} could not be written ({reason}); make room or mend the storage and start again, "
                    "the run goes on from its newest checkpoint"
                ) from error
            print(f"warning: {uri}: {reason}; trying again", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S)


def _parse(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a line cut short by a kill
            break
    return rows


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _parts(uri: str) -> str:
    return f"{uri}.parts"


def read_rows(uri: str) -> list[dict[str, Any]]:
    """All rows of a log, in order; empty if there is none."""
    if not storage.is_remote(uri):
        return _parse(storage.read_text(uri)) if storage.exists(uri) else []
    folder = _parts(uri)
    return [row for name in storage.list_names(folder) for row in _parse(storage.read_text(storage.join(folder, name)))]


class RowLog:
    """Appends rows that have a `step`; the first flush drops those past the step that training resumes from.

    One thread may append while another flushes.
    """

    def __init__(self, uri: str, keep_until_step: int):
        self.uri = uri
        self._keep_until: int | None = keep_until_step
        self._pending: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def _drop_after(self, step: int) -> None:
        if not storage.is_remote(self.uri):
            storage.write_text(self.uri, _lines([row for row in read_rows(self.uri) if row["step"] <= step]))
            return
        # Segment by segment, so that a kill in between loses and doubles nothing.
        for name in storage.list_names(_parts(self.uri)):
            segment = storage.join(_parts(self.uri), name)
            rows = _parse(storage.read_text(segment))
            kept = [row for row in rows if row["step"] <= step]
            if not kept:
                storage.remove_tree(segment)
            elif len(kept) < len(rows):
                storage.write_text(segment, _lines(kept))

    def append(self, row: dict[str, Any]) -> None:
        with self._lock:
            self._pending.append(row)

    def flush(self) -> None:
        """Write what was appended so far. After a failure the rows are still pending, to be written by the next
        call: on an object store over whatever part of them did arrive."""
        if self._keep_until is not None:
            self._drop_after(self._keep_until)
            self._keep_until = None
        with self._lock:
            rows = list(self._pending)
        if not rows:
            return
        if storage.is_remote(self.uri):
            storage.write_text(storage.join(_parts(self.uri), f"{rows[0]['step']:09d}.jsonl"), _lines(rows))
        else:
            with open(storage.local_path(self.uri), "a", encoding="utf-8") as file:
                file.write(_lines(rows))
                file.flush()
                os.fsync(file.fileno())
        with self._lock:
            del self._pending[: len(rows)]


class RunWriter:
    """Rows and checkpoints of one run. At most one write is in flight; `wait_seconds` is how long training has waited
    for it. After a failure nothing more is written, and `error` says why.

    Args:
        step: after which training goes on; rows past it are dropped.
        saved: told URI and step of each checkpoint once it is complete, in the background.
        landmark: the step whose checkpoint stays, however old.
        validated: after which step rows of validation are dropped; by default, the same.
    """

    def __init__(
        self,
        run: Run,
        keep_checkpoints: int,
        step: int,
        saved: Callable[[str, int], None] | None = None,
        landmark: int | None = None,
        validated: int | None = None,
    ):
        self.metrics = RowLog(run.metrics, step)
        self.validation = RowLog(run.validation, step if validated is None else validated)
        self.wait_seconds = 0.0
        self.error: BaseException | None = None
        self._run, self._saved = run, saved
        self._store = CheckpointStore(run.checkpoints, keep_checkpoints, landmark)
        self._thread: threading.Thread | None = None
        self.flush()

    def flush(self) -> None:
        """Begin to write the rows appended so far; while something else is being written they wait for the next
        call."""
        if self._thread is None or not self._thread.is_alive():
            self.begin(self._flush, self._run.metrics)

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, after all rows up to it. Waits for the one before."""

        def write() -> None:
            self._flush()
            uri = self._store.save(checkpoint)
            if self._saved is not None:
                self._saved(uri, checkpoint.progress.step)

        self.begin(write, self._run.checkpoints)

    def begin(self, job: Callable[[], Any], uri: str) -> None:
        """Begin to write anything else, by a job that may be repeated. Waits for the one before."""

        def if_ours() -> None:
            self._run.check_ours()
            job()

        self.join()
        if self.error is None:
            self._thread = threading.Thread(target=self._work, args=(if_ours, uri), name="writer", daemon=True)
            self._thread.start()

    def set_landmark(self, step: int | None) -> None:
        self._store.landmark = step

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            start = time.perf_counter()
            self._thread.join()
            self.wait_seconds += time.perf_counter() - start

    def _flush(self) -> None:
        self.metrics.flush()
        self.validation.flush()

    def _work(self, job: Callable[[], Any], uri: str) -> None:
        try:
            persistently(job, uri)
        except BaseException as error:
            self.error = error
