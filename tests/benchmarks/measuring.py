"""What the benchmarks share: timing side by side, and the description of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import ssmttm
from ssmttm.hardware import multiplies_bf16


def timed(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    repeats: int,
    device: torch.device | None = None,
    warm_ups: int = 3,
) -> dict[str, float]:
    """Median seconds of one call of each, over rounds that go through all of them in turn, so that a slow moment of
    the machine meets them all. Compiled functions need three warm-ups: they are compiled at the first, and again where
    a length turns out to change."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(warm_ups):
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            wait()
            samples[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in samples.items()}


def machine(threads: int, device: torch.device) -> dict[str, Any]:
    model = platform.processor()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    description = {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "bf16": multiplies_bf16("cpu"),
        "torch": torch.__version__,
        "ssmttm": ssmttm.__version__,
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description
