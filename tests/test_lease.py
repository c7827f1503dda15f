"""One writer to a folder: who is refused, who takes over, on a disk and on object stores with and without conditional
puts."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from file_s3 import Server

from ssmttm import lease, storage
from ssmttm.errors import UserError
from ssmttm.lease import LeaseLostError, Process, Record, hold, join
from ssmttm.storage import LEASE_NAME

ELSEWHERE = Process("gpu-7", "another boot", 4711, "12345")
INSTEAD = "choose another train.name"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("BEAT_S", 0.05),
        ("LIMIT_S", 0.4),
        ("LOCK_S", 0.2),
        ("ORPHAN_S", 0.4),
        ("SETTLE_S", 0.05),
        ("LOOK_S", 0.02),
    ):
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "runs" / "stage1")
    else:
        uri = f"memory://lease/{tmp_path.name}"
        yield uri
        storage.remove_tree(uri)


def written(folder: str) -> Record | None:
    uri = storage.join(folder, LEASE_NAME)
    return Record.parse(storage.read_bytes(uri)) if storage.exists(uri) else None


def leave(folder: str, *processes: Process) -> Record:
    """What a job of these processes left when it was killed."""
    record = Record("left", processes)
    storage.write_bytes(storage.join(folder, LEASE_NAME), record.packed())
    return record


def ended_process() -> Process:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = replace(Process.own(), pid=child.pid, started=lease._started(child.pid) or "")
        assert not process.gone
        child.kill()
    return process


def test_a_second_job_is_refused_in_one_line_that_names_the_first(folder: str) -> None:
    own = Process.own()
    with hold(folder, INSTEAD), pytest.raises(UserError) as refused, hold(folder, INSTEAD):
        pass
    assert str(refused.value).startswith(f"{folder} is being written by process {own.pid} on {own.host}, a job of 20")
    assert str(refused.value).endswith("; wait until it ends, stop it, or choose another train.name")
    assert "\n" not in str(refused.value)
    with hold(folder, INSTEAD):
        pass
    assert written(folder) is None


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(str(tmp_path / "a" / "b"), INSTEAD):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(UserError, match=r"cannot be written .*; choose another"),
        hold(str(tmp_path), INSTEAD),
    ):
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file/stage1 cannot be written: a part of its path is a file"),
        hold(str(tmp_path / "file" / "stage1"), INSTEAD),
    ):
        pass


def test_a_killed_jobs_folder_is_taken_over_at_once(folder: str) -> None:
    leave(folder, ended_process())
    start = time.monotonic()
    with hold(folder, INSTEAD) as held:
        assert time.monotonic() - start < lease.LIMIT_S
        assert written(folder).token == held.token != "left"  # type: ignore[union-attr]


def test_another_process_under_the_same_number_is_no_owner(folder: str) -> None:
    leave(folder, replace(Process.own(), started="1"))
    with hold(folder, INSTEAD) as held:
        assert written(folder).processes == (Process.own(),)  # type: ignore[union-attr]
        held.check()


@pytest.mark.parametrize("rest", [b"", b"{", b"[]", b'{"token": 1}', b"\xff"])
def test_what_a_kill_left_of_a_lease_holds_nobody_up(folder: str, rest: bytes) -> None:
    storage.write_bytes(storage.join(folder, LEASE_NAME), rest)
    with hold(folder, INSTEAD) as held:
        assert written(folder).token == held.token  # type: ignore[union-attr]


def test_a_lease_let_go_while_the_storage_was_away_does_not_hold_up_the_same_process(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OSError("the storage is away")

    with monkeypatch.context() as patch, hold(folder, INSTEAD) as first:
        patch.setattr(lease, "_update", away)
    assert written(folder).token == first.token  # type: ignore[union-attr]
    with hold(folder, INSTEAD) as second:
        assert written(folder).token == second.token != first.token  # type: ignore[union-attr]


@pytest.mark.parametrize("said", [True, False])
def test_a_job_suspended_with_the_lease_in_its_hand_refuses_too(tmp_path: Path, said: bool) -> None:
    """Stopped (Ctrl-Z, a debugger) at the moment at which it had the file locked."""
    record = leave(str(tmp_path), Process.own()) if said else None
    if record is not None:
        lease._held.add(record.token)
    with open(tmp_path / LEASE_NAME, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        expected = "is being written by process" if said else "is locked by a process .*, or choose another train.name"
        with pytest.raises(UserError, match=expected), hold(str(tmp_path), INSTEAD):
            pass
    assert written(str(tmp_path)) == record


def test_a_job_elsewhere_that_is_silent_is_given_up(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    leave(folder, ELSEWHERE)
    start = time.monotonic()
    with hold(folder, INSTEAD):
        assert time.monotonic() - start >= lease.LIMIT_S
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"waiting: {folder} was last written by process 4711 on gpu-7; it is taken over if")


def test_a_job_elsewhere_that_is_heard_of_refuses_at_once(folder: str) -> None:
    """Whatever the clocks say: only that the heartbeat moves while one looks on."""
    record, ended = leave(folder, ELSEWHERE), threading.Event()

    def beat() -> None:
        beats = 0
        while not ended.wait(0.05):
            beats += 1
            storage.write_bytes(storage.join(folder, LEASE_NAME), replace(record, beat=beats).packed())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="is being written by process 4711 on gpu-7"), hold(folder, INSTEAD):
            pass
    finally:
        ended.set()
        thread.join()


def test_workers_of_a_killed_job_are_waited_for(folder: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        worker = replace(Process.own(), pid=child.pid, started=lease._started(child.pid) or "")
        leave(folder, ended_process(), worker)
        threading.Timer(0.15, child.kill).start()
        threading.Timer(0.15, child.wait).start()
        with hold(folder, INSTEAD):
            assert worker.gone


def test_workers_of_a_killed_job_that_stay_are_named(folder: str) -> None:
    own = Process.own()
    leave(folder, ended_process(), own)
    with pytest.raises(UserError, match=f"is being written by process {own.pid} on"), hold(folder, INSTEAD):
        pass


def test_a_worker_joins_the_job_and_leaves_it(folder: str) -> None:
    script = (
        "import sys; from ssmttm.lease import join\n"
        "with join(sys.argv[1], sys.argv[2]) as held: held.check(); print(held._own.pid, flush=True); input()"
    )
    if "memory" in folder:
        pytest.skip("of this process alone")
    with hold(folder, INSTEAD) as held:
        command = [sys.executable, "-c", script, folder, held.token]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            pid = int(worker.stdout.readline())
            assert [one.pid for one in written(folder).processes] == [os.getpid(), pid]  # type: ignore[union-attr]
            worker.communicate("\n")
        assert worker.returncode == 0
        assert [one.pid for one in written(folder).processes] == [os.getpid()]  # type: ignore[union-attr]
    with pytest.raises(LeaseLostError), join(folder, held.token):
        pass


def test_a_worker_that_works_for_a_job_names_it_first(folder: str) -> None:
    job = ended_process()
    with hold(folder, INSTEAD, job):
        assert written(folder).processes == (job, Process.own())  # type: ignore[union-attr]
    assert written(folder) is None, "the worker that claimed the folder leaves it free"


def test_who_lost_a_folder_while_suspended_writes_no_more(folder: str) -> None:
    with hold(folder, INSTEAD) as held:
        held.check()
        leave(folder, ELSEWHERE)
        time.sleep(4 * lease.BEAT_S)
        with pytest.raises(LeaseLostError, match="is now written by process 4711 on gpu-7, which took over"):
            held.check()
    assert written(folder).processes == (ELSEWHERE,), "the other's lease stays"  # type: ignore[union-attr]


def test_a_lease_that_somebody_removed_by_hand_comes_back(folder: str) -> None:
    with hold(folder, INSTEAD) as held:
        storage.remove_tree(storage.join(folder, LEASE_NAME))
        held.check()
        deadline = time.monotonic() + 10
        while written(folder) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert written(folder).token == held.token  # type: ignore[union-attr]


def test_a_stopped_process_lives_and_a_zombie_does_not() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = replace(Process.own(), pid=child.pid, started=lease._started(child.pid) or "")
    child.send_signal(signal.SIGSTOP)
    assert not process.gone
    child.kill()
    deadline = time.monotonic() + 10
    while not process.gone and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.gone, "killed, but its exit code was not yet asked for"
    child.wait()


CLAIM = """
import sys, time
from ssmttm import lease, storage
lease.SETTLE_S = 0.3
from ssmttm.errors import UserError
storage.exists(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with lease.hold(sys.argv[1], "wait"):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print("refused", flush=True)
"""


def claim_at_once(folder: str, count: int, environment: dict[str, str] | None = None) -> list[str]:
    """What so many processes come to that claim a folder at the same moment."""
    command, pipes = [sys.executable, "-c", CLAIM, folder], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    variables = {**os.environ, **(environment or {})}
    jobs: list[Any] = [subprocess.Popen(command, text=True, env=variables, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    said = sorted(job.stdout.readline().strip() for job in jobs)
    for job in jobs:
        job.communicate(timeout=60)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "dead"])
def test_of_claims_at_the_same_moment_one_is_granted(tmp_path: Path, before: str) -> None:
    if before == "dead":
        leave(str(tmp_path), ended_process())
    assert claim_at_once(str(tmp_path), 5) == ["held", *["refused"] * 4]


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
def test_of_claims_at_the_same_moment_one_is_granted_on_s3(tmp_path: Path, conditional: bool) -> None:
    """Also by a server that ignores conditions."""
    server = Server(tmp_path / "objects", *([] if conditional else ["unconditional"]))
    server.start()
    try:
        assert claim_at_once("s3://bucket/runs", 4, server.environment) == ["held", *["refused"] * 3]
    finally:
        server.kill()


def test_a_record_is_read_as_it_was_written() -> None:
    record = Record("token", (Process.own(), ELSEWHERE), beat=3)
    assert Record.parse(record.packed()) == record
    assert json.loads(record.packed())["processes"][1] == asdict(ELSEWHERE)


def test_a_lease_is_no_part_of_what_a_folder_holds(tmp_path: Path) -> None:
    with hold(str(tmp_path), INSTEAD):
        storage.write_text(str(tmp_path / "a"), "a")
        storage.write_commit(str(tmp_path), "done.json")
    assert list(storage.read_commit(str(tmp_path), "done.json")["files"]) == ["a"]
