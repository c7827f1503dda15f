"""The progress line, and the arithmetic behind it."""

from __future__ import annotations

import time

import torch

from ssmttm.training.checkpoint import Progress
from ssmttm.training.engine import Engine
from ssmttm.training.task import Task

# Dense bf16 peak in FLOP/s by a part of the device's name, from the makers' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


def training_flops(parameters: int, tokens: int) -> float:
    """6 FLOPs per parameter and token, forward and backward (arXiv 2001.08361)."""
    return 6.0 * parameters * tokens


def peak_flops(device: torch.device) -> float | None:
    """Peak of one device, None where it is not known (any CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class ProgressLine:
    """Prints one line per call, with rates since the call before."""

    def __init__(self, task: Task, engine: Engine, progress: Progress, parameters: int):
        self._task, self._progress, self._parameters = task, progress, parameters
        peak = peak_flops(engine.device)
        self._peak = None if peak is None else peak * engine.world_size
        self._wall, self._step, self._tokens = time.perf_counter(), progress.step, progress.tokens
        self._waited = {"loader_wait": 0.0, "save_wait": 0.0}

    def show(self, row: dict[str, float]) -> dict[str, float]:
        """Print the line for a step's row; returns the row with rates, for the tracker."""
        now, steps = time.perf_counter(), self._task.config.train.steps
        elapsed, tokens = now - self._wall, self._progress.tokens - self._tokens
        per_step = elapsed / (self._progress.step - self._step)
        figures = dict(row)
        figures["tokens_per_s"] = tokens / elapsed
        for name, before in self._waited.items():
            figures[name] = (row[name] - before) / elapsed
        waited, mfu = figures["loader_wait"] + figures["save_wait"], "n/a"
        if self._peak is not None:
            figures["mfu"] = training_flops(self._parameters, tokens) / elapsed / self._peak
            mfu = f"{figures['mfu']:.1%}"
        print(
            f"step {self._progress.step}/{steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
            f"grad {row['grad_norm']:.2f}  {figures['tokens_per_s']:,.0f} {self._task.unit.split('/')[1]}s/s  "
            f"mfu {mfu}  wait {waited:.1%}  eta {clock(per_step * (steps - self._progress.step))}",
            flush=True,
        )
        self._wall, self._step, self._tokens = now, self._progress.step, self._progress.tokens
        self._waited = {name: row[name] for name in self._waited}
        return figures
