"""Replicas are killed while clips are made over real HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import soundfile
from ray import serve as ray_serve
from serving import free_port

from serve.app import Arguments, build
from serve.limits import Limits

sys.path.append(str(Path(__file__).parents[1] / "soak"))

from service import PARTS, soak

pytestmark = pytest.mark.slow

SECONDS, CLIENTS = 40.0, 6


@pytest.fixture(scope="module")
def url(ray_cluster: dict[str, Any], bundle_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    jobs = str(tmp_path_factory.mktemp("jobs"))
    limits = Limits(burst=1000, per_minute=10_000)
    arguments = Arguments(bundle=bundle_uri, replicas=2, cpus=0.25, slots=8, jobs=jobs, limits=limits)
    ray_serve.run(build(arguments), name="test", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    ray_serve.shutdown()


def replicas(deployment: str) -> list[str]:
    """Names of the actors of a deployment."""
    named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in named if name.startswith("SERVE_REPLICA::") and f"#{deployment}#" in name]


async def listen(client: httpx.AsyncClient, seed: int, begun: asyncio.Event) -> str:
    """How a streamed clip ends: whole, broken or the status of an error."""
    body = {"prompt": "calm piano", "seconds": SECONDS, "seed": seed, "stream": True}
    data = bytearray()
    try:
        async with client.stream("POST", "/v1/music/generations", json=body) as answer:
            if answer.status_code != 200:
                assert json.loads(await answer.aread())["error"]
                return str(answer.status_code)
            async for piece in answer.aiter_raw():
                data += piece
                begun.set()
    except httpx.TransportError:
        return "broken"
    samples = soundfile.read(io.BytesIO(bytes(data)))[0]
    return "whole" if len(samples) == SECONDS * 24_000 else "broken"


def ends_of(url: str, deployment: str) -> list[str]:
    """How the clips end of clients that listen while a replica is killed."""

    async def go() -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=240) as client:
            begun = [asyncio.Event() for _ in range(CLIENTS)]
            listening = [asyncio.create_task(listen(client, seed, begun[seed])) for seed in range(CLIENTS)]
            await asyncio.wait_for(asyncio.gather(*(one.wait() for one in begun)), 120)
            victim = replicas(deployment)[0]
            await asyncio.to_thread(lambda: ray.kill(ray.get_actor(victim, namespace="serve")))
            ends = await asyncio.gather(*listening)
            again = await listen(client, 99, asyncio.Event())
            assert again == "whole"
            print(f"a {deployment} was killed: {Counter(ends)}")  # shown with pytest -rP
            return ends

    return asyncio.run(go())


def test_listeners_do_not_hear_that_a_language_model_dies(url: str) -> None:
    assert len(replicas("LanguageModel")) == 2
    ends = ends_of(url, "LanguageModel")
    assert ends == ["whole"] * CLIENTS


def test_clips_of_a_renderer_that_dies_break_off_and_others_go_on(url: str) -> None:
    ends = ends_of(url, "Renderer")
    # With one renderer all that sound are lost; none ends as if it were whole, and the service is back.
    assert set(ends) <= {"broken", "whole", "503"}
    assert "broken" in ends


def test_nothing_is_left_in_the_slots(url: str) -> None:
    async def drop(client: httpx.AsyncClient, number: int) -> None:
        body = {"prompt": "calm piano", "seconds": 120, "seed": number, "stream": number % 2 == 0}
        try:
            async with asyncio.timeout(0.2 + 0.02 * (number % 50)):
                async with client.stream("POST", "/v1/music/generations", json=body) as answer:
                    async for _ in answer.aiter_raw():
                        pass
        except TimeoutError:
            pass

    async def go() -> None:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            for _ in range(4):
                await asyncio.gather(*(drop(client, number) for number in range(50)))
            async with asyncio.timeout(60):
                while True:
                    lines = dict(
                        line.split() for line in (await client.get("/metrics")).text.splitlines() if line[0] != "#"
                    )
                    names = ("ssmttm_engine_in_use", "ssmttm_engine_waiting", "ssmttm_in_flight")
                    if all(float(lines[name]) == 0 for name in names):
                        break
                    await asyncio.sleep(0.5)
            assert await listen(client, 1, asyncio.Event()) == "whole"

    asyncio.run(go())


def test_whatever_dies_every_request_ends_and_no_slot_or_job_is_lost(url: str) -> None:
    """In small what `python tests/soak/service.py --kills 50` does."""
    report = asyncio.run(soak(url, len(PARTS), app="test"))
    print(report.text())  # shown with pytest -rP
    assert not report.problems
    assert set(report.kills) == set(PARTS)
