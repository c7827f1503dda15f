"""Frames per second of stage 1 for 1 to 16 requests together in slots, against one request at a time.

    python tests/benchmarks/slots.py [--threads 1] [--cases 'mini,10M guided']

Both compiled (on CPU; one CUDA graph per number of rows on a GPU). One at a time: a batch of its own, as
`Generator.stream` has it. Together: the batch that `SlotEngine` steps, sampling and book-keeping included, and the
whole engine with a thread per request that reads its frames. Rounds go through all in turn. Weights are random, which
changes no cost. The result goes to results/slots.json, with the machine's description; cases that are not measured stay
as they were.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import machine

from ssmttm.conditions.text import collate_text
from ssmttm.config import Stage1Config
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest, Sampling
from ssmttm.engine.slot_engine import SlotEngine
from ssmttm.engine.slots import SlotBatch
from ssmttm.hardware import tune_allocator
from ssmttm.model import costs
from ssmttm.model.lm import MusicLM

RESULTS = Path(__file__).parent / "results"
SHAPE = costs.Shape(codebook_size=1024, text_dim=384, coarse_dim=128)
SIZES = {"mini": {"width": 256, "layers": 6}, "10M": {"width": 384, "layers": 8}}
SAMPLINGS = {"": Sampling(1.0, 0.9, 250), " guided": Sampling(2.75, 0.9, 250)}
CASES = {size + guided: (size, sampling) for size in SIZES for guided, sampling in SAMPLINGS.items()}
TOGETHER = (1, 2, 4, 8, 16)
TEXT_TOKENS = 24


def build(size: str) -> MusicLM:
    torch.manual_seed(0)
    config = Stage1Config(state_size=64, dropout=0.0, **SIZES[size])
    return costs.build(config, SHAPE, "cpu").eval().requires_grad_(False)


def piece(seed: int, frames: int, sampling: Sampling) -> Piece:
    text = np.random.default_rng(seed).standard_normal((TEXT_TOKENS, SHAPE.text_dim)).astype(np.float16)
    return Piece(MusicRequest("x", seed=seed, **vars(sampling)), collate_text([text]), frames)


def one_at_a_time(lm: MusicLM, sampling: Sampling) -> Callable[[int], float]:
    """Frames per second of a stream that goes on for ever."""
    batch = SlotBatch.of(lm, [piece(0, 10**9, sampling)])

    def measure(frames: int) -> float:
        start = time.perf_counter()
        batch.read(frames)
        return frames / (time.perf_counter() - start)

    return measure


def together(lm: MusicLM, count: int, sampling: Sampling) -> Callable[[int], float]:
    batch = SlotBatch(lm, count, TEXT_TOKENS)
    batch.warm_up(compiled=False)
    batch.join([piece(seed, 10**9, sampling) for seed in range(count)])

    def measure(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            batch.step()
        return steps * count / (time.perf_counter() - start)

    return measure


def whole_engine(lm: MusicLM, count: int, frames: int, sampling: Sampling) -> float:
    """Prompts, threads and queue included."""
    with SlotEngine(lm, count, TEXT_TOKENS) as engine, ThreadPoolExecutor(count) as readers:
        start = time.perf_counter()
        streams = [engine.submit(piece(seed, frames, sampling)) for seed in range(count)]
        list(readers.map(lambda stream: stream.read(frames), streams))
        return count * frames / (time.perf_counter() - start)


def measure(size: str, sampling: Sampling, rounds: int, steps: int, device: torch.device) -> dict[str, Any]:
    lm = build(size).to(device)
    lm.compile_steps(device.type == "cpu")
    ways = {"one at a time": one_at_a_time(lm, sampling)}
    ways |= {f"{count} together": together(lm, count, sampling) for count in TOGETHER}
    for way in ways.values():
        way(4)  # compiles
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(way(steps))
    table = {name: round(median(values), 1) for name, values in rates.items()}
    table["16 together, whole engine"] = round(whole_engine(lm, 16, 4 * steps, sampling), 1)
    # Of one round, so that a slow moment of the machine meets both.
    ratios = [many / one for many, one in zip(rates["16 together"], rates["one at a time"], strict=True)]
    return {
        "parameters": costs.trainable_parameters(build(size).requires_grad_(True)),
        "frames_per_second": table,
        "16_together_over_one_at_a_time": round(median(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", default=",".join(CASES), help="default: all")
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{'gpu-' if arguments.device.type == 'cuda' else ''}slots.json"
    for case in arguments.cases.split(","):
        size, sampling = CASES[case]
        found = measure(size, sampling, arguments.rounds, arguments.steps, arguments.device)
        print(f"{case}: {found}", flush=True)
        cases = json.loads(out.read_text(encoding="utf-8"))["cases"] if out.exists() else {}
        content = {"machine": machine(arguments.threads, arguments.device), "cases": {**cases, case: found}}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
