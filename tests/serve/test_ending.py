"""How the service ends: what is being made is made, or its end is told; jobs go on at the next start."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import soundfile
import uvicorn
from fastapi import FastAPI
from serving import GOOD, JOBS, RATE, URL, FakeService, free_port

from serve.api import make_api
from serve.job_runner import JobRunner
from serve.jobs import JobStore
from serve.limits import Limits

ROOT = Path(__file__).parents[2]
STREAMS, BACKGROUND, JOB_SECONDS = 16, 4, 60


@asynccontextmanager
async def serving(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client over real connections."""
    server = uvicorn.Server(uvicorn.Config(api, "127.0.0.1", 0, log_level="critical"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        yield client
    server.should_exit = True
    await running


async def listen(client: httpx.AsyncClient, body: dict[str, Any], begun: asyncio.Event) -> str:
    """How a stream ends."""
    data = bytearray()
    try:
        async with client.stream("POST", URL, json={**body, "stream": True}) as answer:
            async for piece in answer.aiter_raw():
                data += piece
                begun.set()
    except httpx.TransportError:
        return "told"
    if answer.status_code != 200:
        return str(answer.status_code)
    return "whole" if len(soundfile.read(io.BytesIO(bytes(data)))[0]) == body["seconds"] * RATE else "cut"


async def listeners(client: httpx.AsyncClient, count: int, body: dict[str, Any]) -> list[asyncio.Task[str]]:
    """So many streams that have begun to sound."""
    begun = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(listen(client, {**body, "seed": seed}, begun[seed])) for seed in range(count)]
    await asyncio.gather(*(one.wait() for one in begun))
    return tasks


async def jobs_in(client: httpx.AsyncClient, ids: list[str], are_enough: Callable[[list[str]], bool]) -> list[Any]:
    while True:
        jobs = [(await client.get(f"{JOBS}/{job}")).json() for job in ids]
        if are_enough([job["state"] for job in jobs]):
            return jobs
        await asyncio.sleep(0.05)


def api_over(service: FakeService, folder: Path, grace_s: float) -> FastAPI:
    limits = Limits(grace_s=grace_s, burst=100)
    return make_api(service, limits, jobs=JobRunner(JobStore(str(folder), 1000), service, limits))


def test_clips_are_made_to_their_end_and_jobs_given_back(tmp_path: Path) -> None:
    async def go() -> None:
        service = FakeService(pause_s=0.15)
        api = api_over(service, tmp_path, grace_s=60)
        async with serving(api) as client:
            tasks = await listeners(client, STREAMS, GOOD)
            whole = asyncio.create_task(client.post(URL, json=GOOD))
            ids = [(await client.post(JOBS, json={**GOOD, "seconds": 2})).json()["id"] for _ in range(BACKGROUND)]
            await jobs_in(client, ids, lambda states: "running" in states)
            events = asyncio.create_task(client.get(f"{JOBS}/{ids[-1]}/events"))
            ending = asyncio.create_task(api.state.end())
            await jobs_in(client, ids, lambda states: set(states) == {"queued"})
            late = await client.post(URL, json=GOOD)
            assert (late.status_code, late.headers["retry-after"]) == (503, "10")
            assert late.json() == {"error": "the service is ending; try again when it is back"}
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            await ending
            assert [await task for task in tasks] == ["whole"] * STREAMS
            assert (await whole).status_code == 200
            assert (await events).status_code == 200
        async with serving(api_over(FakeService(), tmp_path, 60)) as client:
            jobs = await jobs_in(client, ids, lambda states: set(states) == {"done"})
            assert [job["attempts"] for job in jobs] == [1] * BACKGROUND

    asyncio.run(go())


def test_what_is_not_made_in_time_is_told(tmp_path: Path) -> None:
    async def go() -> None:
        service = FakeService()
        api = api_over(service, tmp_path, grace_s=0.1)
        async with serving(api) as client:
            original = service.stream

            async def stuck(request: Any) -> Any:
                async for number, event in _numbered(original(request)):
                    yield event
                    if number == 3:
                        await asyncio.sleep(3600)

            service.stream = stuck  # type: ignore[method-assign]
            tasks = await listeners(client, STREAMS, GOOD)
            whole = asyncio.create_task(client.post(URL, json=GOOD))
            while len(service.requests) <= STREAMS:
                await asyncio.sleep(0.01)
            await api.state.end()
            assert [await task for task in tasks] == ["told"] * STREAMS
            assert (await whole).status_code == 503
            assert "ending" in (await whole).json()["error"]
            while service.active:
                await asyncio.sleep(0.01)

    asyncio.run(go())


async def _numbered(events: Any) -> AsyncIterator[tuple[int, Any]]:
    number = 0
    async for event in events:
        yield number, event
        number += 1


def start(port: int, bundle: str, jobs: Path, log: Path) -> subprocess.Popen[bytes]:
    """The service in a process of its own, as `make serve` starts it, when it is ready."""
    words = [f"port={port}", f"bundle={bundle}", f"jobs={jobs}", "cpus=0.1", "slots=20"]
    words.append('limits={"burst": 1000, "per_minute": 10000, "jobs_running": 4, "grace_s": 150}')
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving:impatient",
        "RAY_TMPDIR": "/tmp",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", *words], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    while process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return process
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def stop_reading(port: int) -> bool:
    """Whether the service hangs up on a listener who does not read."""
    body = b'{"prompt": "calm piano", "seconds": 300, "stream": true}'
    head = f"POST {URL} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        connection.settimeout(120)
        assert connection.recv(12) == b"HTTP/1.1 200"
        ours = connection.getsockname()
        while any(one.raddr == ours and one.status == "ESTABLISHED" for one in psutil.net_connections("tcp")):
            time.sleep(0.2)
        return sum(map(len, iter(lambda: connection.recv(1 << 20), b""))) < 300 * 2 * RATE


@pytest.mark.slow
def test_sigterm_under_load(bundle_uri: str, tmp_path: Path) -> None:
    """And before it, a listener who does not read."""
    port, log, ids = free_port(), tmp_path / "log", []

    async def load(process: subprocess.Popen[bytes]) -> None:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=120, limits=httpx.Limits(max_connections=None)
        ) as client:
            assert await asyncio.to_thread(stop_reading, port)
            long = {"prompt": "calm piano", "seconds": 20}
            for _ in range(BACKGROUND):
                ids.append((await client.post(JOBS, json={**long, "seconds": JOB_SECONDS})).json()["id"])
            await jobs_in(client, ids, lambda states: "queued" not in states)
            tasks = await listeners(client, STREAMS, long)
            process.send_signal(signal.SIGTERM)
            assert [await task for task in tasks] == ["whole"] * STREAMS
            assert await asyncio.to_thread(process.wait, 200) == 0, log.read_text()

    async def after() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            jobs = await jobs_in(client, ids, lambda states: set(states) == {"done"})
            assert [job["attempts"] for job in jobs] == [1] * BACKGROUND
            for job in ids:
                result = await client.get(f"{JOBS}/{job}/result")
                assert len(soundfile.read(io.BytesIO(result.content))[0]) == JOB_SECONDS * RATE

    for use in (load, lambda _: after()):
        process = start(port, bundle_uri, tmp_path / "jobs", log)
        try:
            asyncio.run(use(process))
        finally:
            process.terminate()
            process.wait(200)
