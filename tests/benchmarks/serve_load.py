"""Many listeners at once: how much music per second, how soon the first of it, and how many errors.

    serve run serve.app:build 'limits={"burst": 1000, "per_minute": 100000}'
    python tests/benchmarks/serve_load.py [--clients 8] [--requests 40] [--lengths 5,10,30] [--url http://127.0.0.1:8000]

Each client makes one request after another, of a length drawn from the list, every second one as a stream. The first
audio of what is not streamed is the whole file. Only this machine is called. The result goes to
results/serve_load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch
from measuring import machine

from serve.limits import is_loopback

RESULTS = Path(__file__).parent / "results"
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


async def load(url: str, clients: int, requests: int, lengths: list[float]) -> tuple[list[dict[str, Any]], float]:
    """What became of each request, and the seconds it all took."""
    draw = random.Random(0)
    work = [(draw.choice(lengths), seed, seed % 2 == 0) for seed in range(requests)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--lengths", default="5,10,30", help="seconds, between commas")
    arguments = parser.parse_args()
    if not is_loopback(urlsplit(arguments.url).hostname or ""):
        parser.error("--url must be on this machine")
    lengths = [float(word) for word in arguments.lengths.split(",")]
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
    done, wall = asyncio.run(load(arguments.url, arguments.clients, arguments.requests, lengths))
    content = {
        "machine": machine(torch.get_num_threads(), torch.device("cpu")),
        "load": os.getloadavg()[0],
        "model": model,
        "clients": arguments.clients,
        "lengths": lengths,
        **summary(done, wall),
    }
    print(json.dumps(content, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serve_load.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
