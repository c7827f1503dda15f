"""Jobs in an SQLite file: what was asked, how far it is, and who is at it. Several processes may share the file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve.schema import ClipForm, Job

LEASE_S = 15.0  # after so long without a sign of life, whoever made a job is taken for dead
ATTEMPTS = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, seed INTEGER NOT NULL,
    progress REAL NOT NULL DEFAULT 0, error TEXT, attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
    alive REAL NOT NULL DEFAULT 0, created REAL NOT NULL, expires REAL NOT NULL
) STRICT
"""
INTERRUPTED = f"it was interrupted {ATTEMPTS} times; begin it again"


class JobStore:
    """All methods may be called from any thread, and by several processes.

    Args:
        folder: on a local disk; holds the records and the finished files.
        keep_s: seconds after which a job is forgotten.
    """

    def __init__(self, folder: str, keep_s: float):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder, self._keep_s = folder, keep_s
        self._lock = threading.Lock()
        # Transactions are begun by hand: the module's own would begin them only at the first change.
        self._connection = sqlite3.connect(
            os.path.join(folder, "jobs.sqlite3"), timeout=30, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(SCHEMA)

    def add(self, caller: str, request: ClipForm, seed: int, most_queued: int) -> Job | None:
        """A new job; None if as many wait as may."""
        now = time.time()
        with self._changing() as connection:
            (queued,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
            if queued >= most_queued:
                return None
            row = connection.execute(
                "INSERT INTO jobs (id, caller, state, request, seed, created, expires) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?) RETURNING *",
                (uuid.uuid4().hex, caller, request.model_dump_json(), seed, now, now + self._keep_s),
            ).fetchone()
        return _job(row)

    def get(self, job: str, caller: str) -> Job | None:
        """A caller's own job."""
        with self._changing() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ? AND caller = ?", (job, caller)).fetchone()
        return None if row is None else _job(row)

    def claim(self, owner: str) -> Job | None:
        """The oldest job that waits, or was left by an owner who is dead; None if there is nothing to do."""
        now = time.time()
        with self._changing() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running' AND alive < ? AND attempts >= ?",
                (INTERRUPTED, now - LEASE_S, ATTEMPTS),
            )
            row = connection.execute(
                "UPDATE jobs SET state = 'running', owner = ?, alive = ?, attempts = attempts + 1, progress = 0 "
                "WHERE id = (SELECT id FROM jobs WHERE state = 'queued' OR (state = 'running' AND alive < ?) "
                "ORDER BY created LIMIT 1) RETURNING *",
                (owner, now, now - LEASE_S),
            ).fetchone()
        return None if row is None else _job(row)

    def report(self, job: str, owner: str, progress: float) -> bool:
        """A sign of life; False if the job is no longer this owner's."""
        return self._change(
            "progress = ?, alive = ? WHERE id = ? AND owner = ? AND state = 'running'",
            (progress, time.time(), job, owner),
        )

    def keep(self, job: str, owner: str, data: bytes, extension: str) -> None:
        """Keep the file, under a name that nobody outside chose, then say that it is there."""
        path = self.path(job, extension)
        with open(f"{path}.{owner}", "wb") as file:
            file.write(data)
        os.replace(f"{path}.{owner}", path)
        if not self._change(
            "state = 'done', progress = 1 WHERE id = ? AND owner = ? AND state = 'running'", (job, owner)
        ):
            self._remove_file(job, extension)

    def fail(self, job: str, owner: str, error: str) -> None:
        self._change(
            "state = 'failed', error = ? WHERE id = ? AND owner = ? AND state = 'running'", (error, job, owner)
        )

    def release(self, job: str, owner: str, is_attempt: bool = False) -> None:
        """Put a job back in line that this owner cannot go on with."""
        self._change(
            "state = 'queued', progress = 0, attempts = attempts - ? WHERE id = ? AND owner = ? AND state = 'running'",
            (0 if is_attempt else 1, job, owner),
        )

    def cancel(self, job: str, caller: str) -> Job | None:
        """End a job, or take back what it made."""
        with self._changing() as connection:
            row = connection.execute(
                "UPDATE jobs SET state = 'cancelled', error = NULL WHERE id = ? AND caller = ? RETURNING *",
                (job, caller),
            ).fetchone()
        if row is None:
            return None
        cancelled = _job(row)
        self._remove_file(job, cancelled.request.format)
        return cancelled

    def expire(self) -> None:
        """Forget old jobs and their files."""
        with self._changing() as connection:
            rows = connection.execute("DELETE FROM jobs WHERE expires < ? RETURNING *", (time.time(),)).fetchall()
        for row in rows:
            self._remove_file(row["id"], _job(row).request.format)

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        with self._changing() as connection:
            return dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def path(self, job: str, extension: str) -> str:
        return os.path.join(self._folder, f"{job}.{extension}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _remove_file(self, job: str, extension: str) -> None:
        path = self.path(job, extension)
        if os.path.exists(path):
            os.remove(path)

    def _change(self, assignment: str, values: tuple[Any, ...]) -> bool:
        with self._changing() as connection:
            return connection.execute(f"UPDATE jobs SET {assignment}", values).rowcount == 1

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: other threads and processes see all of it or nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _job(row: sqlite3.Row) -> Job:
    fields = {key: row[key] for key in ("id", "state", "progress", "seed", "error", "attempts", "created", "expires")}
    return Job(request=ClipForm.model_validate_json(row["request"]), **fields)
