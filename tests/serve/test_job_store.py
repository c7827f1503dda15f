"""The record of jobs when its surroundings fail: damage, other versions, full disks, clocks that jump, lost files."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import GOOD, JOBS, FakeService, client_of

from serve import jobs as jobs_module
from serve.api import make_api
from serve.delivery import Delivery
from serve.job_runner import JobRunner
from serve.jobs import LEASE_S, LOST, JobsError, JobStore
from serve.limits import Limits
from serve.metrics import Metrics
from serve.schema import ClipForm, Job
from ssmttm import storage
from ssmttm.errors import UserError

REQUEST = ClipForm(**GOOD)
DAY = 86_400.0
# As it was before it had a version.
FIRST_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, seed INTEGER NOT NULL,
    progress REAL NOT NULL DEFAULT 0, error TEXT, attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
    alive REAL NOT NULL DEFAULT 0, created REAL NOT NULL, expires REAL NOT NULL
) STRICT
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "LONGEST_LOOK_S", "BEAT_S", "PAUSE_S"):
        monkeypatch.setattr(f"serve.job_runner.{name}", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    one = JobStore(str(tmp_path), DAY)
    yield one
    one.close()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """That of the wall, and the steady one."""
    now = SimpleNamespace(wall=1e9, steady=1000.0)
    both = SimpleNamespace(time=lambda: now.wall, monotonic=lambda: now.steady, strftime=time.strftime)
    monkeypatch.setattr(jobs_module, "time", both)
    return now


def added(store: JobStore) -> Job:
    job = store.add("me", REQUEST, 1, 100)
    assert job is not None
    return job


def finished(store: JobStore) -> Job:
    job = added(store)
    assert store.claim("a") is not None
    store.keep(job.id, "a", b"file", "wav")
    return job


def state_of(store: JobStore, job: Job) -> str | None:
    found = store.get(job.id, "me")
    return None if found is None else found.state


def other_tables(path: Path) -> None:
    with sqlite3.connect(path) as one:
        one.execute("CREATE TABLE jobs (id TEXT)")


def newer_version(path: Path) -> None:
    with sqlite3.connect(path) as one:
        one.execute("PRAGMA user_version = 99")


def cut(path: Path) -> None:
    other_tables(path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000),
        cut,
        other_tables,
        newer_version,
    ],
)
def test_what_cannot_be_read_is_moved_aside_and_said(
    damage: Callable[[Path], None], tmp_path: Path, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "jobs.sqlite3")
    size = (tmp_path / "jobs.sqlite3").stat().st_size
    job = added(store)
    assert state_of(store, job) == "queued"
    (aside,) = (path for path in tmp_path.glob("jobs.sqlite3.aside-*") if not path.name.endswith(("wal", "shm")))
    assert aside.stat().st_size == size
    (line,) = (record.getMessage() for record in caplog.records)
    assert str(aside) in line


def test_an_empty_file_is_no_damage(tmp_path: Path, store: JobStore) -> None:
    (tmp_path / "jobs.sqlite3").touch()
    added(store)
    assert not list(tmp_path.glob("*.aside-*"))


def test_jobs_of_the_first_version_go_on(tmp_path: Path, store: JobStore) -> None:
    good, bad = REQUEST.model_dump_json(), '{"prompt": "x", "tempo": 3}'
    rows = [("done", good), ("running", good), ("queued", good), ("failed", good), ("done", bad), ("queued", "{")]
    now = time.time()
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as one:
        one.execute(FIRST_SCHEMA)
        for number, (state, request) in enumerate(rows):
            one.execute(
                "INSERT INTO jobs VALUES (?, 'me', ?, ?, 1, 0, NULL, 1, 'old', ?, ?, ?)",
                (f"{number:032x}", state, request, now, now + number, now + 1000),
            )
    (tmp_path / f"{0:032x}.wav").write_bytes(b"old file")
    found = [store.get(f"{number:032x}", "me") for number in range(len(rows))]
    assert [job and job.state for job in found] == ["done", "running", "queued", "failed", None, None]
    assert store.path(f"{0:032x}") == str(tmp_path / f"{0:032x}.wav")
    # Whoever made them is of the version before, and gone.
    assert [job.id for job in iter(lambda: store.claim("new"), None)] == [f"{1:032x}", f"{2:032x}"]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A record of some jobs."""
    folder = tmp_path_factory.mktemp("intact")
    store = JobStore(str(folder), DAY)
    for _ in range(8):
        added(store)
    store.close()
    return (folder / "jobs.sqlite3").read_bytes()


@settings(max_examples=20)
@given(spots=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=600)), min_size=1, max_size=4))
def test_no_damage_stops_the_record(
    intact: bytes, tmp_path_factory: pytest.TempPathFactory, spots: list[tuple[float, bytes]]
) -> None:
    folder, damaged = tmp_path_factory.mktemp("jobs"), bytearray(intact)
    for share, data in spots:
        start = int(share * (len(intact) - 1))
        damaged[start : start + len(data)] = data
    (folder / "jobs.sqlite3").write_bytes(damaged)
    again = JobStore(str(folder), DAY)
    works = False
    for _ in range(4):  # what is found while it is in use is moved aside at the next look
        try:
            again.expire()
            again.claim("a")
            works = state_of(again, added(again)) == "queued"
        except JobsError:
            pass
    again.close()
    assert works


def test_a_file_that_another_process_began_anew_is_followed(tmp_path: Path, store: JobStore) -> None:
    added(store)
    for path in tmp_path.glob("jobs.sqlite3*"):
        path.unlink()
    other = JobStore(str(tmp_path), DAY)
    job = added(other)
    assert state_of(store, job) == "queued"
    other.close()


def full(store: JobStore) -> Callable[[], None]:
    """Fill the disk as far as SQLite is concerned. Returns what makes room again."""
    store.counts()
    original = store._open

    def opened() -> sqlite3.Connection:
        connection = original()
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    store._open = opened  # type: ignore[method-assign]
    store.close()

    def empty() -> None:
        store._open = original  # type: ignore[method-assign]
        store.close()

    return empty


def test_a_full_disk_is_told_and_passes(store: JobStore) -> None:
    job = added(store)
    make_room = full(store)

    def fill() -> None:
        for _ in range(1000):
            store.add("me", REQUEST, 1, 10_000)

    with pytest.raises(JobsError, match="jobs cannot be kept now: database or disk is full"):
        fill()
    assert state_of(store, job) == "queued"
    make_room()
    assert store.add("me", REQUEST, 1, 10_000) is not None


def test_a_change_that_cannot_be_committed_leaves_nothing_open(store: JobStore) -> None:
    job = added(store)
    connection, fails = store._connection, [True]
    assert connection is not None

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

        def execute(self, statement: str, *values: Any) -> Any:
            if statement == "COMMIT" and fails.pop():
                raise sqlite3.OperationalError("disk I/O error")
            return connection.execute(statement, *values)

    store._connection = Failing()  # type: ignore[assignment]
    with pytest.raises(JobsError, match="disk I/O error"):
        store.claim("a")
    assert state_of(store, job) == "queued"
    assert store.claim("a") is not None


def test_jobs_live_as_long_as_promised_whatever_the_clock_says(store: JobStore, clocks: SimpleNamespace) -> None:
    def pass_time(seconds: float) -> None:
        clocks.wall, clocks.steady = clocks.wall + seconds, clocks.steady + seconds

    job = finished(store)
    for jump in (365 * DAY, -20 * 365 * DAY, 40.0):
        pass_time(100)
        clocks.wall += jump
        later = added(store)
        store.expire()
        for one in (job, later):
            found = store.get(one.id, "me")
            assert found is not None
            assert 0 < found.expires - clocks.wall <= DAY
        assert store.path(job.id)
    pass_time(DAY - 301)
    store.expire()
    assert state_of(store, job) == "done"
    pass_time(2)
    store.expire()
    assert state_of(store, job) is None


def test_an_owner_is_not_dead_because_the_clock_jumped(store: JobStore, clocks: SimpleNamespace) -> None:
    added(store)
    assert store.claim("a") is not None
    for jump in (1e6, -2e6):
        clocks.wall += jump
        assert store.claim("b") is None
    clocks.steady += LEASE_S + 1
    assert store.claim("b") is not None
    clocks.steady = 5.0  # the machine started again
    assert store.claim("c") is not None


def test_whoever_comes_late_takes_nothing_away(tmp_path: Path, store: JobStore, clocks: SimpleNamespace) -> None:
    job = added(store)
    assert store.claim("a" * 32) is not None
    clocks.steady += LEASE_S + 1
    assert store.claim("b" * 32) is not None
    store.keep(job.id, "b" * 32, b"the file", "wav")
    store.keep(job.id, "a" * 32, b"late", "wav")
    path = store.path(job.id)
    assert path is not None
    assert Path(path).read_bytes() == b"the file"
    assert len(list(tmp_path.glob("*.wav"))) == 1


@pytest.mark.parametrize("lose", [os.remove, lambda path: os.truncate(path, 0)])
def test_a_lost_file_is_said_by_its_job(lose: Callable[[str], None], store: JobStore) -> None:
    job = finished(store)
    path = store.path(job.id)
    assert path is not None
    lose(path)
    assert store.path(job.id) is None
    lost = store.get(job.id, "me")
    assert lost is not None
    assert (lost.state, lost.error) == ("failed", LOST)


def test_files_of_those_who_died_while_writing_are_swept(tmp_path: Path, store: JobStore) -> None:
    job = finished(store)
    names = [f"{'0' * 32}-aaaaaaaa.wav", f"{storage.TEMPORARY}12", "b.wav", "jobs.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f"{'1' * 32}-aaaaaaaa.wav").write_bytes(b"x")  # of just now
    store.close()
    assert store.path(job.id)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & set(names[:2])
    assert {*names[2:], f"{'1' * 32}-aaaaaaaa.wav"} <= left


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the folder of jobs .* cannot be made: .*; set jobs=FOLDER"):
        JobStore(str(tmp_path / "file" / "jobs"), DAY)


def test_what_fails_in_the_record_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP: a full disk for the record, then for a file, then a lost file."""

    async def until(client: Any, job: str, state: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while (answer := (await client.get(f"{JOBS}/{job}")).json()).get("state") != state:
                await asyncio.sleep(0.01)
        return answer

    async def go() -> None:
        service, store = FakeService(), JobStore(str(tmp_path), DAY)
        api = make_api(service, Limits(burst=100), jobs=JobRunner(store, service, Limits()))
        async with api.router.lifespan_context(api), client_of(api) as client:
            with monkeypatch.context() as patch:
                patch.setattr(store, "_connected", lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "")))
                for answer in (await client.post(JOBS, json=GOOD), await client.get(f"{JOBS}/{'0' * 32}")):
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
                    said = "jobs cannot be kept now: No space left on device; try again later"
                    assert answer.json() == {"error": said}
                assert (await client.get("/metrics")).status_code == 200
                assert (await client.get("/readyz")).status_code == 200

            def no_room(*_: object) -> None:
                raise OSError(errno.ENOSPC, "no", "/secret/path")

            with monkeypatch.context() as patch:
                patch.setattr(storage, "write_bytes", no_room)
                job = (await client.post(JOBS, json=GOOD)).json()["id"]
                failed = await until(client, job, "failed")
                assert failed["error"] == "the file cannot be kept: No space left on device"
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, job, "done")
            result = await client.get(f"{JOBS}/{job}/result")
            assert soundfile.read(io.BytesIO(result.content))[0].shape == (24_000,)
            for path in tmp_path.glob("*.wav"):
                path.unlink()
            gone = await client.get(f"{JOBS}/{job}/result")
            assert (gone.status_code, gone.json()) == (410, {"error": LOST})
            after = await client.get(f"{JOBS}/{job}/result")
            assert (after.status_code, LOST in after.json()["error"]) == (409, True)
        store.close()

    asyncio.run(go())


def test_what_is_claimed_while_it_stops_is_given_back(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = added(store)
    is_asked, original = threading.Event(), store.claim

    def slow_claim(owner: str) -> Job | None:
        is_asked.set()
        time.sleep(0.2)
        return original(owner)

    async def go() -> None:
        monkeypatch.setattr(store, "claim", slow_claim)
        service = FakeService(pause_s=30)
        runner = JobRunner(store, service, Limits(jobs_running=1))
        runner.start(Delivery(service, Metrics(), 60))
        await asyncio.to_thread(is_asked.wait)
        await runner.stop()

    asyncio.run(go())
    found = store.get(job.id, "me")
    assert found is not None
    assert (found.state, found.attempts) == ("queued", 0)


def test_signs_of_life_go_on_while_a_clip_is_encoded(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job, told = added(store), threading.Event()

    async def encoded(*_: object) -> bytes:
        told.clear()
        await asyncio.to_thread(told.wait)
        return b"file"

    original = store.report

    def report(*values: Any) -> bool:
        told.set()
        return original(*values)

    monkeypatch.setattr("serve.job_runner.encoded", encoded)
    monkeypatch.setattr(store, "report", report)

    async def go() -> None:
        service = FakeService()
        runner = JobRunner(store, service, Limits())
        runner.start(Delivery(service, Metrics(), 60))
        while state_of(store, job) != "done":
            await asyncio.sleep(0.01)
        await runner.stop()

    asyncio.run(go())
