"""Many listeners at once: how much music per second, how soon the first of it, and how many errors.

    serve run serve.app:build slots=16 'limits={"burst": 1000, "per_minute": 100000}'
    python tests/benchmarks/serve_load.py [--clients 8] [--requests 40] [--lengths 5,10,30] [--url http://127.0.0.1:8000]
        [--parts BUNDLE]

Each client makes one request after another, of a length drawn from the list, every second one as a stream. The first
audio of what is not streamed is the whole file. Before them, one stream at a time tells how soon its first audio comes
when nobody else is there. With --parts, stage 1 (as many slots as clients) and the renderer are then measured each by
itself in this process, on one thread, as a replica has it, with nobody else calling: what the slower of the two makes
is the most that the service could. Only this machine is called. The result goes to results/serve_load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch
from measuring import machine

from serve.limits import is_loopback
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.slot_engine import SlotEngine
from ssmttm.engine.slots import Rereading
from ssmttm.engine.windows import Rendering, WindowPool

RESULTS = Path(__file__).parent / "results"
ALONE = 10  # streams, one after another, before the load
PROMPTS = ("calm piano in a minor key, slow", "upbeat funk with a slap bass", "warm strings, solemn", "lo-fi beat")


async def one(client: httpx.AsyncClient, seconds: float, seed: int, stream: bool) -> dict[str, Any]:
    body = {"prompt": PROMPTS[seed % len(PROMPTS)], "seconds": seconds, "seed": seed, "stream": stream}
    start, first, size = time.perf_counter(), None, 0
    try:
        async with client.stream("POST", "/v1/music/generations", json=body) as answer:
            outcome = str(answer.status_code)
            async for piece in answer.aiter_raw():
                size += len(piece)
                # The header comes with the first audio, but is no audio.
                if first is None and size > 2000:
                    first = time.perf_counter() - start
    except httpx.TransportError as error:
        outcome = type(error).__name__
    wall = time.perf_counter() - start
    return {"outcome": outcome, "seconds": seconds, "stream": stream, "first": first, "wall": wall}


async def load(
    url: str, clients: int, requests: int, lengths: list[float], stream: bool = False
) -> tuple[list[dict[str, Any]], float]:
    """What became of each request, and the seconds it all took; with `stream`, all of them are streams."""
    draw = random.Random(0)
    work = [(draw.choice(lengths), seed, stream or seed % 2 == 0) for seed in range(requests)]
    done: list[dict[str, Any]] = []
    key = os.environ.get("SSMTTM_API_KEYS", "").partition(",")[0]
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def client(http: httpx.AsyncClient) -> None:
        while work:
            done.append(await one(http, *work.pop(0)))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, headers=headers) as http:
        start = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return done, time.perf_counter() - start


def summary(done: list[dict[str, Any]], wall: float) -> dict[str, Any]:
    good = [each for each in done if each["outcome"] == "200"]

    def percentiles(values: list[float]) -> dict[str, float]:
        return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 99)} if values else {}

    return {
        "requests": len(done),
        "outcomes": dict(Counter(each["outcome"] for each in done)),
        "music_seconds_per_second": round(sum(each["seconds"] for each in good) / wall, 3),
        "first_audio_s_streamed": percentiles([each["first"] for each in good if each["stream"]]),
        "answer_s_whole": percentiles([each["wall"] for each in good if not each["stream"]]),
        "real_time_factor_each": percentiles([each["seconds"] / each["wall"] for each in good]),
        "wall_s": round(wall, 1),
    }


class Parts:
    """Stage 1 and the renderer of a bundle without a service around them, each for `clips` clips at once."""

    def __init__(self, bundle: str, clips: int, seconds: float, compiled: bool):
        torch.set_num_threads(1)
        self._generator, self._clips, self._compiled = Generator.load(bundle, "cpu"), clips, compiled
        self._frames = round(seconds * self._generator.bundle.codec.frame_rate)
        self._music = clips * self._frames / self._generator.bundle.codec.frame_rate

    def _piece(self, seed: int, frames: int) -> Piece:
        return Piece.of(self._generator.bundle, MusicRequest(PROMPTS[seed % len(PROMPTS)], seed=seed), frames)

    def stage1(self) -> float:
        """Seconds of music per second."""
        lm, longest = self._generator.bundle.lm, self._generator.bundle.text_encoder.max_tokens
        rereading = Rereading.of(self._generator.config)
        with (
            SlotEngine(lm, self._clips, longest, compiled=self._compiled, rereading=rereading) as engine,
            ThreadPoolExecutor(self._clips) as readers,
        ):
            for frames in (4, self._frames):  # the first round warms up
                start = time.perf_counter()
                streams = [engine.submit(self._piece(seed, frames)) for seed in range(self._clips)]
                list(readers.map(lambda stream: stream.read(stream.piece.frames), streams))
                wall = time.perf_counter() - start
        return self._music / wall

    def renderer(self) -> float:
        """Seconds of music per second, from codes that are all there."""
        generator, size = self._generator, self._generator.bundle.codec.codebook_size
        codes_CT = torch.randint(size, (self._clips, self._frames), generator=torch.Generator().manual_seed(0))
        pool = WindowPool(generator.renderer)

        def make(clip: int) -> None:
            track, done = Rendering(generator.renderer, [self._piece(clip, self._frames)]), 0
            while track.left:
                wanted = track.wanted
                pool.render(track, codes_CT[clip : clip + 1, None, done : done + wanted])
                done += wanted

        try:
            make(0)  # warms up
            with ThreadPoolExecutor(self._clips) as threads:
                start = time.perf_counter()
                list(threads.map(make, range(self._clips)))
                return self._music / (time.perf_counter() - start)
        finally:
            pool.close()


def parts(bundle: str, clips: int, seconds: float, compiled: bool, made: float) -> dict[str, float]:
    """What each part makes by itself, and what share of the slower one's the service made."""
    measured = Parts(bundle, clips, seconds, compiled)
    alone = {"stage1": measured.stage1(), "renderer": measured.renderer()}
    share = made / min(alone.values())
    return {**{f"{name}_alone": round(value, 3) for name, value in alone.items()}, "share_of_slower": round(share, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--lengths", default="5,10,30", help="seconds, between commas")
    parser.add_argument("--parts", metavar="BUNDLE", help="measure its parts by themselves too")
    parser.add_argument("--compiled", action="store_true", help="of the parts: as the service was started")
    arguments = parser.parse_args()
    if not is_loopback(urlsplit(arguments.url).hostname or ""):
        parser.error("--url must be on this machine")
    lengths = [float(word) for word in arguments.lengths.split(",")]
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
    alone, alone_wall = asyncio.run(load(arguments.url, 1, ALONE, [lengths[0]], stream=True))
    done, wall = asyncio.run(load(arguments.url, arguments.clients, arguments.requests, lengths))
    content: dict[str, Any] = {
        "machine": machine(torch.get_num_threads(), torch.device("cpu")),
        "load": os.getloadavg()[0],
        "model": model,
        "clients": arguments.clients,
        "lengths": lengths,
        "one_stream_at_a_time": summary(alone, alone_wall),
        **summary(done, wall),
    }
    if arguments.parts:
        made = content["music_seconds_per_second"]
        content["parts"] = parts(arguments.parts, arguments.clients, lengths[0], arguments.compiled, made)
    print(json.dumps(content, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serve_load.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
