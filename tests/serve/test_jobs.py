"""Jobs: made in the background, kept in a file, taken over from the dead."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import soundfile
from serving import GOOD, JOBS, RATE, FakeService, client_of

from serve import jobs as jobs_module
from serve.api import make_api
from serve.job_runner import JobRunner
from serve.jobs import ATTEMPTS, LEASE_S, JobStore
from serve.limits import Keys, Limits
from serve.schema import ClipForm, Job
from serve.wire import Refusal

REQUEST = ClipForm(**GOOD)
LIMITS = Limits()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.job_runner.LOOK_S", 0.02)
    monkeypatch.setattr("serve.job_runner.BEAT_S", 0.02)
    monkeypatch.setattr("serve.job_runner.PAUSE_S", 0.02)
    monkeypatch.setattr("serve.job_routes.LOOK_S", 0.02)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Both clocks, which go together."""
    now = [1000.0]
    both = SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[0], strftime=time.strftime)
    monkeypatch.setattr(jobs_module, "time", both)
    return now


@asynccontextmanager
async def serving(
    folder: Path, service: FakeService, limits: Limits = LIMITS, keys: Keys | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    store = JobStore(str(folder), limits.jobs_keep_s)
    api = make_api(service, limits, keys, JobRunner(store, service, limits))
    async with api.router.lifespan_context(api), client_of(api) as client:
        yield client
    store.close()


async def until(client: httpx.AsyncClient, job: str, is_enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not is_enough(answer := (await client.get(f"{JOBS}/{job}")).json()):
            await asyncio.sleep(0.01)
    return answer


def test_a_job_is_made_and_fetched(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService()) as client:
            begun = await client.post(JOBS, json={**GOOD, "seed": 4, "format": "flac"})
            assert begun.status_code == 202
            job = begun.json()["id"]
            assert begun.headers["location"] == f"{JOBS}/{job}"
            done = await until(client, job, lambda answer: answer["state"] == "done")
            assert (done["progress"], done["seed"], done["attempts"]) == (1, 4, 1)
            result = await client.get(f"{JOBS}/{job}/result")
            assert result.headers["content-type"] == "audio/flac"
            assert "ssmttm-fake-1-4.flac" in result.headers["content-disposition"]
            with soundfile.SoundFile(io.BytesIO(result.content)) as file:
                assert (file.frames, file.samplerate) == (RATE, RATE)
                told = json.loads(file.comment)
            assert (await client.get(f"{JOBS}/{job}/provenance")).json() == told
            assert 'ssmttm_jobs{state="done"} 1.0' in (await client.get("/metrics")).text

    asyncio.run(go())


def test_progress_comes_as_events(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService(pause_s=0.05)) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            answer = await client.get(f"{JOBS}/{job}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
        assert {lines[0] for lines in events} == {"event: job"}
        seen = [Job.model_validate_json(lines[1].removeprefix("data: ")) for lines in events]
        assert seen[-1].state == "done"
        shares = [job.progress for job in seen]
        assert shares == sorted(shares)
        assert len(shares) > 3

    asyncio.run(go())


def test_a_running_job_is_cancelled(tmp_path: Path) -> None:
    async def go() -> None:
        service = FakeService(pause_s=30)
        async with serving(tmp_path, service) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, job, lambda answer: answer["state"] == "running")
            assert (await client.get(f"{JOBS}/{job}/result")).status_code == 409
            assert (await client.delete(f"{JOBS}/{job}")).json()["state"] == "cancelled"
            async with asyncio.timeout(5):
                while service.active:
                    await asyncio.sleep(0.01)
            assert (await client.get(f"{JOBS}/{job}")).json()["state"] == "cancelled"

    asyncio.run(go())


def test_a_finished_job_is_deleted(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService()) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, job, lambda answer: answer["state"] == "done")
            assert list(tmp_path.glob("*.wav"))
            await client.delete(f"{JOBS}/{job}")
            assert not list(tmp_path.glob("*.wav"))
            assert (await client.get(f"{JOBS}/{job}/result")).status_code == 409

    asyncio.run(go())


def test_callers_see_their_own_jobs_only(tmp_path: Path) -> None:
    mine, yours = ({"Authorization": f"Bearer {letter * 20}"} for letter in "ab")

    async def go() -> None:
        async with serving(tmp_path, FakeService(), keys=Keys(["a" * 20, "b" * 20])) as client:
            job = (await client.post(JOBS, json=GOOD, headers=mine)).json()["id"]
            assert (await client.get(f"{JOBS}/{job}", headers=mine)).status_code == 200
            for path in (job, f"{job}/result", f"{job}/events", "0" * 32):
                assert (await client.get(f"{JOBS}/{path}", headers=yours)).status_code == 404
            assert (await client.delete(f"{JOBS}/{job}", headers=yours)).status_code == 404
            for path in ("..%2f..%2fetc", "x" * 32, "0" * 31):
                assert (await client.get(f"{JOBS}/{path}", headers=mine)).status_code in (404, 422)

    asyncio.run(go())


def test_what_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService(pause_s=30), Limits(jobs_queued=2, jobs_running=1)) as client:
            assert (await client.post(JOBS, json={**GOOD, "seconds": 61})).status_code == 400
            assert (await client.post(JOBS, json={**GOOD, "stream": True})).status_code == 422
            first = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, first, lambda answer: answer["state"] == "running")
            answers = [await client.post(JOBS, json=GOOD) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [202, 202, 429]
            assert "retry-after" in answers[2].headers

    asyncio.run(go())


def test_failures_are_tried_again_and_then_told(tmp_path: Path) -> None:
    async def go() -> None:
        service = FakeService(fails_at=3)
        async with serving(tmp_path, service) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            failed = await until(client, job, lambda answer: answer["state"] == "failed")
        assert failed["attempts"] == len(service.requests) == ATTEMPTS
        assert failed["error"] == "the clip was interrupted by a failure; try again"

    asyncio.run(go())


def test_a_job_waits_while_all_slots_are_taken(tmp_path: Path) -> None:
    async def go() -> None:
        service = FakeService()
        async with serving(tmp_path, service) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, job, lambda answer: answer["state"] == "done")
            # From now on there is no room.
            original, refusals = service.check, iter([Refusal(429, "busy", 1)] * 7)

            async def check(request: Any) -> Refusal | None:
                return next(refusals, None) if service.requests[1:] else await original(request)

            service.check = check  # type: ignore[method-assign]
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            done = await until(client, job, lambda answer: answer["state"] == "done")
            assert done["attempts"] == 1
            assert len(service.requests) == 1 + 7 + 1

    asyncio.run(go())


def test_a_restart_goes_on_with_what_was_left(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService(pause_s=30)) as client:
            job = (await client.post(JOBS, json={**GOOD, "seed": 9})).json()["id"]
            await until(client, job, lambda answer: answer["state"] == "running")
        async with serving(tmp_path, FakeService()) as client:
            done = await until(client, job, lambda answer: answer["state"] == "done")
            assert (done["seed"], done["attempts"]) == (9, 1)

    asyncio.run(go())


def test_jobs_of_the_dead_are_taken_over_and_given_up_in_the_end(tmp_path: Path, clock: list[float]) -> None:
    store = JobStore(str(tmp_path), 1e6)
    job = store.add("me", REQUEST, 1, 10)
    assert job is not None
    for attempt in range(1, ATTEMPTS + 1):
        owner = f"process {attempt}"
        claimed = store.claim(owner)
        assert claimed is not None
        assert (claimed.id, claimed.attempts) == (job.id, attempt)
        clock[0] += LEASE_S - 1
        assert store.report(job.id, owner, 0.5)
        clock[0] += LEASE_S - 1
        assert store.claim("another") is None  # it lives
        clock[0] += 2
    assert store.claim("another") is None
    failed = store.get(job.id, "me")
    assert failed is not None
    assert failed.state == "failed"
    assert "interrupted 3 times" in str(failed.error)
    assert not store.report(job.id, owner, 0.9)
    store.keep(job.id, owner, b"late", "wav")
    assert not list(tmp_path.glob("*.wav"))
    store.close()


def test_two_processes_never_make_the_same_job(tmp_path: Path) -> None:
    first, second = (JobStore(str(tmp_path), 1e6) for _ in range(2))
    ids = {first.add("me", REQUEST, seed, 10).id for seed in range(6)}  # type: ignore[union-attr]
    claimed = [store.claim(name) for _ in range(4) for store, name in ((first, "a"), (second, "b"))]
    assert {job.id for job in claimed if job} == ids
    assert sum(job is not None for job in claimed) == 6
    first.close()
    second.close()


def test_old_jobs_are_forgotten(tmp_path: Path, clock: list[float]) -> None:
    store = JobStore(str(tmp_path), 100)
    job = store.add("me", REQUEST, 1, 10)
    assert job is not None
    store.claim("a")
    store.keep(job.id, "a", b"file", "wav")
    clock[0] += 99
    store.expire()
    assert store.get(job.id, "me")
    assert list(tmp_path.glob("*.wav"))
    clock[0] += 2
    store.expire()
    assert store.get(job.id, "me") is None
    assert not list(tmp_path.glob("*.wav"))
    store.close()
