"""Kills the parts of the service, one after the other, while it is used as hard as it can be:

    python tests/soak/service.py --kills 50

Clients stream clips, ask for whole ones, leave in the middle and begin jobs, over HTTP, while a language model, a
renderer, the ingress with its jobs, a proxy or Serve's controller is killed (SIGKILL) and comes back. It then says
whether each request had an end, each slot came free, and each job was done.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import ray
import soundfile
from ray import serve as ray_serve

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "serve")]

from serving import JOBS, URL, free_port  # noqa: E402

from serve.app import Arguments, build  # noqa: E402
from serve.limits import Limits  # noqa: E402

APP = "soak"
# How Ray names the process of each.
PARTS = {
    "language model": "ray::ServeReplica:{app}:LanguageModel",
    "renderer": "ray::ServeReplica:{app}:Renderer",
    "ingress": "ray::ServeReplica:{app}:MusicAPI",
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
}
END_S = 240.0  # a request that has no end after so long has none
GAUGES = ("ssmttm_engine_in_use", "ssmttm_engine_waiting", "ssmttm_in_flight")
FINE = {"whole", "left", "202"}
JOB_SECONDS, CLIP_SECONDS = 4.0, 15.0


@dataclass
class Report:
    """What was seen."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    jobs: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def ended(self, kind: str, how: str) -> None:
        self.ends.setdefault(kind, Counter())[how] += 1

    def text(self) -> str:
        lines = [f"kills: {dict(self.kills)}", *(f"{kind}: {dict(ends)}" for kind, ends in sorted(self.ends.items()))]
        return "\n".join([*lines, f"jobs: {dict(self.jobs)}", *(f"PROBLEM: {one}" for one in self.problems)])


@contextmanager
def service(bundle: str, jobs: str) -> Iterator[str]:
    """The service on a Ray that runs already; its URL."""
    port = free_port()
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    limits = Limits(burst=100_000, per_minute=1e6)
    arguments = Arguments(bundle=bundle, replicas=2, renderers=2, cpus=0.1, jobs=jobs, limits=limits)
    try:
        ray_serve.run(build(arguments), name=APP, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        ray_serve.shutdown()


def processes(part: str, app: str) -> list[psutil.Process]:
    """Those of a part, among the children of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith(PARTS[part].format(app=app)):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def listen(client: httpx.AsyncClient, seconds: float, is_stream: bool, leave_after: int | None = None) -> str:
    """How a request for a clip ends."""
    data = bytearray()
    body = {"prompt": "calm piano", "seconds": seconds, "stream": is_stream}
    try:
        async with client.stream("POST", URL, json=body) as answer:
            async for piece in answer.aiter_raw():
                data += piece
                if leave_after is not None and len(data) > leave_after:
                    return "left"
    except httpx.TransportError as error:
        return "broken" if data else f"no answer ({type(error).__name__})"
    if answer.status_code != 200:
        return str(answer.status_code)
    samples = soundfile.read(io.BytesIO(bytes(data)))[0]
    return "whole" if len(samples) == seconds * 24_000 else "TOO SHORT"


async def begin(client: httpx.AsyncClient, ids: list[str]) -> str:
    """How a request for a job ends."""
    try:
        answer = await client.post(JOBS, json={"prompt": "calm piano", "seconds": JOB_SECONDS})
    except httpx.TransportError as error:
        return f"no answer ({type(error).__name__})"
    if answer.status_code == 202:
        ids.append(answer.json()["id"])
    return str(answer.status_code)


async def until(is_so: Callable[[], Awaitable[bool]], limit_s: float) -> bool:
    """Whether it came to be."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if await is_so():
                return True
        except (httpx.TransportError, ValueError, KeyError):
            pass
        await asyncio.sleep(0.25)
    return False


async def soak(
    url: str, kills: int, seed: int = 0, app: str = APP, log: Callable[[str], None] = lambda _: None
) -> Report:
    """Use the service at `url`, the application `app` of a Ray that this process started, and kill its parts."""
    report, chance, ids, is_over = Report(), random.Random(seed), [], asyncio.Event()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=END_S, limits=limits) as client:

        async def repeat(kind: str, request: Callable[[], Awaitable[str]], pause_s: float = 0.1) -> None:
            while not is_over.is_set():
                try:
                    how = await asyncio.wait_for(request(), END_S)
                except TimeoutError:
                    how = "NO END"
                report.ended(kind, how)
                if how in ("NO END", "TOO SHORT"):
                    report.problems.append(f"{kind}: {how.lower()}")
                await asyncio.sleep(pause_s if how in FINE else 1)

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        async def is_free() -> bool:
            lines = (await client.get("/metrics")).text.splitlines()
            values = dict(line.split() for line in lines if line and line[0] != "#")
            return all(float(values[name]) == 0 for name in GAUGES)

        async def state_of(job: str) -> dict[str, object]:
            return dict((await client.get(f"{JOBS}/{job}")).json())

        load = [
            *(repeat("streams", lambda: listen(client, CLIP_SECONDS, True)) for _ in range(4)),
            *(repeat("clips", lambda: listen(client, CLIP_SECONDS / 2, False)) for _ in range(2)),
            repeat("leavers", lambda: listen(client, CLIP_SECONDS, True, chance.randrange(400_000))),
            repeat("jobs", lambda: begin(client, ids), 2),
        ]
        tasks = [asyncio.create_task(one) for one in load]
        names = list(PARTS)
        for number in range(kills):
            part = names[number % len(names)]
            await asyncio.sleep(chance.uniform(0.5, 3))

            async def is_there(part: str = part) -> bool:
                return bool(processes(part, app))

            if await until(is_there, 120):  # the one before it may be on its way still
                chance.choice(processes(part, app)).kill()
                report.kills[part] += 1
            else:
                report.problems.append(f"no {part} came back")
            begun = time.monotonic()
            if not await until(is_ready, 120):
                report.problems.append(f"not ready again 120 s after kill {number + 1}, of a {part}")
            log(f"kill {number + 1} of {kills}: {part}, ready after {time.monotonic() - begun:.1f} s")
        is_over.set()
        await asyncio.gather(*tasks)

        async def all_ended() -> bool:
            return all([(await state_of(job))["state"] in ("done", "failed") for job in ids])

        if not await until(all_ended, END_S):
            report.problems.append("jobs did not end")
        for job in ids:
            told = await state_of(job)
            result = await client.get(f"{JOBS}/{job}/result")
            is_whole = result.status_code == 200 and len(soundfile.read(io.BytesIO(result.content))[0]) == (
                JOB_SECONDS * 24_000
            )
            report.jobs["whole" if is_whole else str(told.get("state", "unknown"))] += 1
            if not is_whole:
                report.problems.append(f"job {job}: {json.dumps(told)}")
        if not await until(is_free, 60):
            report.problems.append("slots or places are still taken")
        how = await asyncio.wait_for(listen(client, CLIP_SECONDS, True), END_S)
        if how != "whole":
            report.problems.append(f"afterwards: {how}")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from tiny_bundle import write_tiny_bundle

    folder = tempfile.mkdtemp(prefix="soak", dir="/tmp")  # paths of Ray's sockets must be short
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, log_to_driver=False, _temp_dir=f"{folder}/ray")
    try:
        bundle = write_tiny_bundle(f"{folder}/bundle")
        with service(bundle, f"{folder}/jobs") as url:
            report = asyncio.run(soak(url, arguments.kills, arguments.seed, log=lambda line: print(line, flush=True)))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    print(report.text())
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
