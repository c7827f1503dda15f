"""Jobs in an SQLite file: what was asked, how far it is, and who is at it. Several processes may share the file."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from serve.schema import ClipForm, Job
from ssmttm import storage
from ssmttm.errors import UserError

logger = logging.getLogger("ssmttm.serve")

LEASE_S = 15.0  # after so long without a sign of life, whoever made a job is taken for dead
ATTEMPTS = 3
JUMP_S = 30.0  # by more than this a clock jumps, by less it goes wrong
CLOCK_S = 60.0  # between notes of both clocks
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, seed INTEGER NOT NULL,
    progress REAL NOT NULL DEFAULT 0, error TEXT, attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
    alive REAL NOT NULL DEFAULT 0, created REAL NOT NULL, expires REAL NOT NULL
) STRICT
"""
# Each from the version before it; the first is what wrote no version.
CHANGES = [
    [
        "ALTER TABLE jobs ADD COLUMN file TEXT",
        "ALTER TABLE jobs ADD COLUMN bytes INTEGER",
        "UPDATE jobs SET file = id || '.' || json_extract(request, '$.format') "
        "WHERE state = 'done' AND json_valid(request)",
        "CREATE TABLE clock (wall REAL NOT NULL, steady REAL NOT NULL) STRICT",
    ],
]
INTERRUPTED = f"it was interrupted {ATTEMPTS} times; begin it again"
LOST = "its file is lost; begin it again"
OURS = re.compile(rf"{re.escape(storage.TEMPORARY)}|[0-9a-f]{{32}}[.-]")  # how names of jobs' files begin


class JobsError(RuntimeError):
    """The record of jobs cannot be read or written now, a full disk for one; later it may be."""


class JobStore:
    """All methods but `path` raise `JobsError`, and may be called from any thread and by several processes.

    What is damaged, or was written by a newer version, is moved aside, and a new record begun: a broken file stops
    nobody. Signs of life are told by a clock that never jumps; when the wall clock does, the times of jobs go with it.

    Args:
        folder: on a local disk; holds the record and the finished files.
        keep_s: seconds after which a job is forgotten.

    Raises:
        UserError: if there can be no such folder.
    """

    def __init__(self, folder: str, keep_s: float):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder of jobs {folder} cannot be made: {error.strerror}; set jobs=FOLDER") from None
        self._folder, self._keep_s = folder, keep_s
        self._file = os.path.join(folder, "jobs.sqlite3")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def add(self, caller: str, request: ClipForm, seed: int, most_queued: int) -> Job | None:
        """A new job; None if as many wait as may."""
        with self._changing() as connection:
            now = _wall_clock(connection)
            (queued,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
            if queued >= most_queued:
                return None
            row = connection.execute(
                "INSERT INTO jobs (id, caller, state, request, seed, created, expires) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?) RETURNING *",
                (uuid.uuid4().hex, caller, request.model_dump_json(), seed, now, now + self._keep_s),
            ).fetchone()
        return self._read(row)

    def get(self, job: str, caller: str) -> Job | None:
        """A caller's own job."""
        with self._changing() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ? AND caller = ?", (job, caller)).fetchone()
        return None if row is None else self._read(row)

    def claim(self, owner: str) -> Job | None:
        """The oldest job that waits, or was left by an owner who is dead; None if there is nothing to do."""
        now = time.monotonic()
        # After the machine started again its steady clock is behind what was written before.
        left = "state = 'running' AND NOT alive BETWEEN :now - :lease AND :now"
        values = {"owner": owner, "now": now, "lease": LEASE_S, "attempts": ATTEMPTS, "error": INTERRUPTED}
        with self._changing() as connection:
            connection.execute(
                f"UPDATE jobs SET state = 'failed', error = :error WHERE {left} AND attempts >= :attempts", values
            )
            row = connection.execute(
                "UPDATE jobs SET state = 'running', owner = :owner, alive = :now, progress = 0, "
                "attempts = attempts + 1 "
                f"WHERE id = (SELECT id FROM jobs WHERE state = 'queued' OR ({left}) ORDER BY created LIMIT 1) "
                "RETURNING *",
                values,
            ).fetchone()
        return None if row is None else self._read(row)

    def report(self, job: str, owner: str, progress: float) -> bool:
        """A sign of life; False if the job is no longer this owner's."""
        return self._change(
            "progress = ?, alive = ? WHERE id = ? AND owner = ? AND state = 'running'",
            (progress, time.monotonic(), job, owner),
        )

    def keep(self, job: str, owner: str, data: bytes, extension: str) -> None:
        """Keep the file, under a name that nobody outside chose and no other owner takes, then say that it is there.

        Raises:
            JobsError: if it cannot be written.
        """
        name = f"{job}-{owner[:8]}.{extension}"
        try:
            storage.write_bytes(self._path(name), data)
        except OSError as error:
            raise JobsError(f"the file cannot be kept: {_reason(error)}") from error
        if not self._change(
            "state = 'done', progress = 1, file = ?, bytes = ? WHERE id = ? AND owner = ? AND state = 'running'",
            (name, len(data), job, owner),
        ):
            self._remove_file(name)

    def path(self, job: str) -> str | None:
        """The file of a job that is done; None if it is lost, which the job then says itself.

        Raises:
            JobsError: as the others.
        """
        with self._changing() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ? AND state = 'done'", (job,)).fetchone()
            if row is None:
                return None
            path = self._path(row["file"] or "none")
            with suppress(OSError):
                if os.path.getsize(path) == row["bytes"] or row["bytes"] is None:
                    return path
            connection.execute("UPDATE jobs SET state = 'failed', error = ? WHERE id = ?", (LOST, job))
        return None

    def fail(self, job: str, owner: str, error: str) -> None:
        self._change(
            "state = 'failed', error = ? WHERE id = ? AND owner = ? AND state = 'running'", (error, job, owner)
        )

    def release(self, job: str, owner: str) -> None:
        """Put a job back in line that was begun, but can be made later only."""
        self._change("state = 'queued', progress = 0 WHERE id = ? AND owner = ? AND state = 'running'", (job, owner))

    def give_back(self, owner: str, job: str | None = None) -> None:
        """Put an owner's jobs, or one of them, back in line as if they had not been begun."""
        self._change(
            "state = 'queued', progress = 0, attempts = attempts - 1 "
            "WHERE owner = ? AND state = 'running' AND id = coalesce(?, id)",
            (owner, job),
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
        self._remove_file(row["file"])
        return self._read(row)

    def expire(self) -> None:
        """Forget old jobs and their files."""
        with self._changing() as connection:
            now = _wall_clock(connection)
            rows = connection.execute("DELETE FROM jobs WHERE expires < ? RETURNING file", (now,)).fetchall()
        for row in rows:
            self._remove_file(row["file"])

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        with self._changing() as connection:
            return dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _remove_file(self, name: str | None) -> None:
        if name is not None:
            with suppress(OSError):  # gone already; or stays, until `_sweep`
                os.remove(self._path(name))

    def _read(self, row: sqlite3.Row) -> Job:
        try:
            return _job(row)
        except ValidationError as error:  # forgotten when the file is opened again
            self.close()
            raise JobsError("a job cannot be read") from error

    def _change(self, assignment: str, values: tuple[Any, ...]) -> bool:
        with self._changing() as connection:
            return connection.execute(f"UPDATE jobs SET {assignment}", values).rowcount > 0

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: other threads and processes see all of it or nothing."""
        with self._lock:
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:  # SQLite ends some by itself
                        connection.execute("ROLLBACK")
            except (sqlite3.Error, OSError) as error:
                # Whatever it was, the file is looked at again before anything else is done with it.
                self._disconnect()
                raise JobsError(f"jobs cannot be kept now: {_reason(error)}") from error

    def _connected(self) -> sqlite3.Connection:
        """The open file, opened again if another process, or somebody, put another in its place."""
        with suppress(FileNotFoundError):
            if self._connection is not None and os.stat(self._file).st_ino == self._inode:
                return self._connection
        self._disconnect()
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        # One process looks, moves aside and begins anew, then the next.
        with open(self._path("jobs.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._connection = self._open()
            except _UnreadableError as error:
                aside = self._file + time.strftime(".aside-%Y%m%d-%H%M%S")
                for suffix in ("", "-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.replace(self._file + suffix, aside + suffix)
                logger.error("%s: %s; it is now %s, and jobs begin anew", self._file, error, aside)
                self._connection = self._open()
            self._inode = os.stat(self._file).st_ino
        self._sweep()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        # Transactions are begun by hand: the module's own would begin them only at the first change.
        connection = sqlite3.connect(self._file, timeout=30, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _UnreadableError(f"it is damaged ({found})")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            _bring_up(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError) and _code(error) != sqlite3.SQLITE_ERROR:
                raise  # what the file cannot help: no room, no permission, another process at it
            if isinstance(error, sqlite3.DatabaseError):
                raise _UnreadableError(f"it is damaged, or has other tables ({error})") from error
            raise
        return connection

    def _sweep(self) -> None:
        """Remove files that no job knows, once they are older than any job: those of owners who died while writing."""
        assert self._connection is not None
        known = {name for (name,) in self._connection.execute("SELECT file FROM jobs WHERE file IS NOT NULL")}
        for entry in os.scandir(self._folder):
            if OURS.match(entry.name) and entry.name not in known:
                with suppress(OSError):
                    if entry.stat().st_mtime < time.time() - self._keep_s:
                        os.remove(entry.path)


class _UnreadableError(Exception):
    """Nothing can be done with a file but to move it aside."""


def _bring_up(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to this one's."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(CHANGES):
        raise _UnreadableError(f"it is of a newer version ({version})")
    connection.execute(SCHEMA)
    for change in CHANGES[version:]:
        for statement in change:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(CHANGES)}")
    connection.execute("SELECT caller, owner, alive, file, bytes, wall, steady FROM jobs, clock")
    rows = connection.execute(
        "SELECT id, state, request, seed, progress, error, attempts, created, expires FROM jobs"
    ).fetchall()
    unknown = [row["id"] for row in rows if not _is_readable(row)]
    if unknown:
        logger.error("%d jobs were asked of another version, and are forgotten", len(unknown))
        connection.executemany("DELETE FROM jobs WHERE id = ?", [(job,) for job in unknown])


def _wall_clock(connection: sqlite3.Connection) -> float:
    """Seconds since 1970. Where the clock was set since the last look, the times of all jobs are moved with it: they
    live as long as they were promised, whatever it says."""
    wall, steady = time.time(), time.monotonic()
    last = connection.execute("SELECT wall, steady FROM clock").fetchone()
    jump = 0.0
    if last is not None and last["steady"] <= steady:  # otherwise the machine started again
        jump = (wall - last["wall"]) - (steady - last["steady"])
        if abs(jump) < JUMP_S and steady - last["steady"] < CLOCK_S:
            return wall
    if abs(jump) >= JUMP_S:
        logger.warning("the clock jumped by %.0f s; the times of jobs were moved with it", jump)
        connection.execute("UPDATE jobs SET created = created + ?, expires = expires + ?", (jump, jump))
    connection.execute("DELETE FROM clock")
    connection.execute("INSERT INTO clock VALUES (?, ?)", (wall, steady))
    return wall


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # those of Python's own have none


def _reason(error: Exception) -> str:
    """In words for callers, whom the names of files here are none of their business."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _is_readable(row: sqlite3.Row) -> bool:
    try:
        _job(row)
    except ValidationError:
        return False
    return True


def _job(row: sqlite3.Row) -> Job:
    fields = {key: row[key] for key in ("id", "state", "progress", "seed", "error", "attempts", "created", "expires")}
    return Job(request=ClipForm.model_validate_json(row["request"]), **fields)
