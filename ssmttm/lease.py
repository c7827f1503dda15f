"""One writer to a folder: `lease.json` in it names the processes of the job that writes there, and a heartbeat.

A second job is refused, or takes over once the first one's processes are gone. On the machine where they ran, that is
seen by process number and start; from elsewhere, by a heartbeat that stands still for `LIMIT_S` while one looks on, so
that clocks which disagree decide nothing.

How far it reaches: two claims at the same moment exclude each other by a lock on a local disk (or a shared mount that
has locks), and by conditional puts on S3. Other object stores, and S3 servers that ignore the conditions, are read
again after `SETTLE_S`: of two claims, the later stands, and the earlier is refused. A job that was suspended for longer
than `LIMIT_S` and lost its folder meanwhile notices it before its next write (`Lease.check`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.storage import LEASE_NAME

BEAT_S = 10.0
LIMIT_S = 60.0  # of silence, after which a job elsewhere is given up
ORPHAN_S = 60.0  # how long the workers of a job that is gone may take to end
SETTLE_S = 1.0
LOCK_S = 5.0
LOOK_S = 0.5


class LeaseLostError(UserError):
    """Another job has taken over the folder that this one writes to."""


@dataclass(frozen=True)
class Process:
    """One process. `machine`: within it, process numbers mean the same (one boot, one namespace). `started`: in the
    kernel's clock ticks since boot, which no change of the clock moves; empty where there is no /proc."""

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def own(cls) -> Process:
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "")

    @property
    def here(self) -> bool:
        """Whether this machine can say if it lives."""
        return self.machine == _machine()

    @property
    def gone(self) -> bool:
        """Whether it has ended; only for one of this machine."""
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process of this machine began; None if there is none, or only its exit code is still there."""
    if not os.path.exists("/proc/self/stat"):
        try:
            os.kill(pid, 0)
        except PermissionError:
            pass
        except OSError:
            return None
        return ""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else fields[18]  # "starttime", see proc(5)


@dataclass(frozen=True)
class Record:
    """What `lease.json` holds. `processes`: of the job; the first is the job itself, others are its workers. `beat`
    counts up while any of them lives."""

    token: str
    processes: tuple[Process, ...]
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    beat: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Record | None:
        """None for no record, or what a kill or a person left of one."""
        try:
            values = json.loads(data)
            processes = tuple(Process(**process) for process in values["processes"])
            return cls(values["token"], processes, values["since"], values["beat"]) if processes else None
        except (ValueError, KeyError, TypeError):
            return None

    def packed(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


_held: set[str] = set()
"""Tokens of leases that this process asked for and has not let go."""

Change = Callable[[Record | None], Record | None]
"""From the record that is there to the one that shall be: the same object leaves it, None removes it."""


def _update(uri: str, change: Change) -> Record | None:
    """Change a record as if nobody else did at the same time; returns what is there now."""
    return _update_object(uri, change) if storage.is_remote(uri) else _update_file(storage.local_path(uri), change)


def _update_file(path: str, change: Change) -> Record | None:
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
            locked = _lock(file.fileno())
            try:
                if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                    continue  # removed by its holder, and made anew, while we waited
            except FileNotFoundError:
                continue
            before = Record.parse(file.read())
            after = change(before)
            if after is before:
                return after
            if not locked:
                return before
            if after is None:
                os.unlink(path)
            else:
                file.seek(0)
                file.write(after.packed())  # over what was there, so that there is never no record
                file.truncate()
            return after


def _lock(descriptor: int) -> bool:
    """Have a file to oneself until it is closed. False after `LOCK_S`: a process that was suspended while it had the
    file keeps it, and may never wake."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        except OSError:  # some mounts of clusters have no locks
            return True


def _update_object(uri: str, change: Change) -> Record | None:
    while True:
        before, tag = _get(uri)
        after = change(before)
        if after is before:
            return after
        if after is None:
            storage.remove_tree(uri)
            return None
        if not _put(uri, after.packed(), tag):
            continue  # somebody else was quicker: look again
        if before is None or before.token != after.token:
            time.sleep(SETTLE_S)
            if (now := change(_get(uri)[0])) is None or now.token != after.token:
                continue
        return after


def _get(uri: str) -> tuple[Record | None, str | None]:
    """The record, and the mark by which the store knows this state of it; both None if there is none."""
    fs, path = storage.filesystem(uri)
    fs.invalidate_cache()
    try:
        # The mark first: should the object change in between, the mark is the older one, and the put is refused.
        tag = storage.with_retries(lambda: fs.info(path), uri).get("ETag")
        return Record.parse(storage.with_retries(lambda: fs.cat_file(path), uri)), tag
    except FileNotFoundError:
        return None, None


def _put(uri: str, data: bytes, tag: str | None) -> bool:
    """Write the object if it is still in the state that `tag` marks (None: not there), as far as the store knows how
    to; False if it was not."""
    fs, path = storage.filesystem(uri)
    if not hasattr(fs, "call_s3"):
        storage.with_retries(lambda: fs.pipe_file(path, data), uri)
        return True
    bucket, key, _ = fs.split_path(path)
    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

    def put() -> bool:
        try:
            fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as error:
            answer = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
            if answer in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"):
                return False
            if answer in ("NotImplemented", "501"):  # a server that has no conditions
                fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data)
                return True
            raise
        return True

    return storage.with_retries(put, uri)


class Lease:
    """A folder that this process may write to, until it is released. `joined`: as a worker, beside the job."""

    def __init__(self, folder: str, token: str, joined: bool = False):
        self.folder, self.token, self._joined = folder, token, joined
        self._uri = storage.join(folder, LEASE_NAME)
        self._own = Process.own()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self) -> None:
        """To be called before something is written.

        Raises:
            LeaseLostError: if another job has taken over.
        """
        now = _get(self._uri)[0] if storage.is_remote(self._uri) else _read_file(storage.local_path(self._uri))
        if now is not None and now.token != self.token:
            raise LeaseLostError(
                f"{self.folder} is now written by {now.processes[0]}, which took over as this job had been silent for "
                "too long; nothing more is written here"
            )

    def release(self) -> None:
        """Leave the folder to others, or, having joined, to the job."""
        self._ended.set()
        _held.discard(self.token)

        def leave(before: Record | None) -> Record | None:
            if before is None or before.token != self.token:
                return before
            if not self._joined:
                return None
            return replace(before, processes=tuple(one for one in before.processes if one != self._own))

        with suppress(Exception):  # a storage that is away is left as a killed job leaves it
            _update(self._uri, leave)

    def _beat(self) -> None:
        def beat(before: Record | None) -> Record | None:
            if self._ended.is_set() or (before is not None and before.token != self.token):
                return before
            if before is None:  # removed by hand
                return Record(self.token, (self._own,))
            return replace(before, beat=before.beat + 1)

        while not self._ended.wait(BEAT_S):
            with suppress(Exception):  # away for a while; others cannot reach it either
                _update(self._uri, beat)


def _read_file(path: str) -> Record | None:
    try:
        with open(path, "rb") as file:
            return Record.parse(file.read())
    except FileNotFoundError:
        return None


@contextmanager
def hold(folder: str, instead: str, job: Process | None = None) -> Iterator[Lease]:
    """Be the one that writes to a folder or URI, which is made if it is not there, for as long as the block lasts.

    Args:
        instead: what somebody who is refused may do instead, e.g. "choose another train.name".
        job: the process that this one works for, if it is a worker: should it be gone when another job asks, this one
            is waited for, as it will end soon.

    Raises:
        UserError: if another job writes there, or nothing can be written there.
    """
    made = [] if storage.is_remote(folder) else _missing(storage.local_path(folder))
    try:
        storage.make_dirs(folder)
        token = _claim(folder, instead, job)
    except UserError:
        _remove_empty(made)
        raise
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); {instead}") from None
    lease = Lease(folder, token)
    try:
        yield lease
    finally:
        lease.release()
        _remove_empty(made)


def _missing(path: str) -> list[str]:
    """The folders that would have to be made, the deepest first."""
    folders, path = [], os.path.abspath(path)
    while not os.path.isdir(path):
        folders.append(path)
        path = os.path.dirname(path)
    return folders


def _remove_empty(folders: list[str]) -> None:
    with suppress(OSError):  # it holds something, and so do those above it
        for folder in folders:
            os.rmdir(folder)


@contextmanager
def join(folder: str, token: str) -> Iterator[Lease]:
    """Write, as a worker, to a folder that the job holds by the lease `token`.

    Raises:
        LeaseLostError: if the job does not hold it any more.
    """

    def enter(before: Record | None) -> Record | None:
        if before is None or before.token != token:
            return before
        others = (one for one in before.processes[1:] if not (one.here and one.gone))
        return replace(before, processes=(before.processes[0], *others, Process.own()))

    try:
        now = _update(storage.join(folder, LEASE_NAME), enter)
    except FileNotFoundError:  # the folder is gone too
        now = None
    if now is None or now.token != token:
        raise LeaseLostError(f"{folder} is not held any more by the job that this worker belongs to")
    lease = Lease(folder, token, joined=True)
    try:
        yield lease
    finally:
        lease.release()


@dataclass
class _Watch:
    """What has been seen of a lease that another job holds, since one looks on."""

    record: Record
    since: float = field(default_factory=time.monotonic)  # that it has looked like this
    began: float = field(default_factory=time.monotonic)
    moved: bool = False

    def see(self, record: Record) -> None:
        if record != self.record:
            self.moved |= record.token == self.record.token
            self.record, self.since = record, time.monotonic()

    @property
    def dead(self) -> bool:
        still = time.monotonic() - self.since >= LIMIT_S
        return all(one.gone if one.here else still for one in self._others)

    @property
    def refuses(self) -> bool:
        """Whether there is nothing to wait for."""
        job = (self._others or self.record.processes)[0]
        if job.here and job.gone:
            return time.monotonic() - self.began >= ORPHAN_S
        return job.here or self.moved

    @property
    def _others(self) -> tuple[Process, ...]:
        """Without this process, if it has let go of the lease: the storage was away when it said so."""
        own = Process.own() if self.record.token not in _held else None
        return tuple(one for one in self.record.processes if one != own)


def _claim(folder: str, instead: str, job: Process | None) -> str:
    """The token of a lease that is now this process's."""
    own = Process.own()
    mine = Record(uuid.uuid4().hex, (own,) if job in (None, own) else (job, own))  # type: ignore[arg-type]
    watch: _Watch | None = None

    def claim(before: Record | None) -> Record | None:
        nonlocal watch
        if before is None:
            return mine
        if before.token == mine.token:
            return before
        if watch is None:
            watch = _Watch(before)
        watch.see(before)
        return mine if watch.dead else before

    told = False
    _held.add(mine.token)
    while (now := _update(storage.join(folder, LEASE_NAME), claim)) is None or now.token != mine.token:
        if watch is None:
            raise UserError(
                f"{storage.join(folder, LEASE_NAME)} is locked by a process that has not said its name in it; end that "
                f"process, or {instead}"
            )
        if watch.refuses:
            raise UserError(_refusal(folder, watch.record, instead))
        if not told:
            told = True
            print(
                f"waiting: {folder} was last written by {watch.record.processes[-1]}; it is taken over if that has "
                f"ended, which shows within {LIMIT_S:g} s",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(LOOK_S)
    return mine.token


def _refusal(folder: str, record: Record, instead: str) -> str:
    living = [one for one in record.processes if not (one.here and one.gone)]
    return (
        f"{folder} is being written by {living[0]}, a job of {record.since.replace('+00:00', ' UTC')}; wait until it "
        f"ends, stop it, or {instead}"
    )
