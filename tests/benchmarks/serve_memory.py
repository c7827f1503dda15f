"""Memory of the service's processes while one long piece is streamed.

    serve run serve.app:build
    python tests/benchmarks/serve_memory.py [--minutes 10] [--url http://127.0.0.1:8000]

The resident memory of every process of the service on this machine is noted at each minute of music that has arrived,
and the largest relative change between the first minute and any later one is what counts. The service must have
answered nothing before: what the first minute warms up is part of it. The result goes to results/serve_memory.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import torch
from measuring import machine

from serve.limits import is_loopback

RESULTS = Path(__file__).parent / "results"
PARTS = ("LanguageModel", "Renderer", "MusicAPI", "ProxyActor")
PROMPT = "a slow jazz piece with a piano melody, in D minor, with drums, at 90 bpm"


def memory_mb() -> dict[str, float]:
    """Resident memory by part; Ray names its processes after what runs in them."""
    found: dict[str, float] = {}
    for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or [])
        for part in PARTS:
            if title.startswith("ray::") and part in title:
                found[part] = found.get(part, 0.0) + process.info["memory_info"].rss / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--minutes", type=int, default=10)
    arguments = parser.parse_args()
    if not is_loopback(urlsplit(arguments.url).hostname or ""):
        parser.error("--url must be on this machine")
    body = {"prompt": PROMPT, "seconds": 60.0 * arguments.minutes, "seed": 0, "stream": True}
    minutes: list[dict[str, float]] = []
    with httpx.Client(base_url=arguments.url, timeout=120) as client:
        rate = client.get("/v1/models").json()["data"][0]["sample_rate"]
        size, start = 0, time.perf_counter()
        with client.stream("POST", "/v1/music/generations", json=body) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                size += len(piece)
                if size >= 2 * rate * 60 * (len(minutes) + 1):  # 16 bits a sample
                    minutes.append(memory_mb())
                    print(f"minute {len(minutes)}: {minutes[-1]}", flush=True)
        wall = time.perf_counter() - start
    assert minutes, "no music came"
    assert all(minutes[0].keys() == each.keys() for each in minutes), "the service runs elsewhere"
    change = {part: max(each[part] / minutes[0][part] - 1 for each in minutes) for part in minutes[0]}
    content: dict[str, Any] = {
        "machine": machine(torch.get_num_threads(), torch.device("cpu")),
        "times_real_time": round(60 * arguments.minutes / wall, 2),
        "resident_MB_by_minute": [{part: round(value, 1) for part, value in each.items()} for each in minutes],
        "largest_change_since_minute_1": {part: round(value, 4) for part, value in change.items()},
    }
    print(json.dumps(content, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serve_memory.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
