"""The progress line, and the arithmetic behind it."""

from __future__ import annotations

import resource
import time

import torch

from ssmttm.training.checkpoint import Progress
from ssmttm.training.engine import Engine
from ssmttm.training.flops import peak_flops
from ssmttm.training.task import Task


def peak_memory_gb(device: torch.device) -> float:
    """The most this process has held so far: of its GPU's memory, else of the machine's, in 1e9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # KiB on Linux


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class ProgressLine:
    """Prints one line per call, with rates since the call before.

    Model FLOPs utilisation (arXiv 2204.02311, appendix B) is the share of the devices' dense bf16 peak that the
    counted operations of forward and backward take; it is left out where the peak is not known.
    """

    def __init__(self, task: Task, engine: Engine, progress: Progress):
        self._task, self._progress, self._device = task, progress, engine.device
        peak = peak_flops(engine.device)
        flops = None if peak is None else task.flops()
        # What a token is of all devices' peak: the utilisation at one token per second.
        self._share_per_token = None if peak is None or flops is None else flops / (peak * engine.world_size)
        self._wall, self._step, self._tokens = time.perf_counter(), progress.step, progress.tokens
        self._waited = {"loader_wait": 0.0, "save_wait": 0.0}

    def show(self, row: dict[str, float]) -> dict[str, float]:
        """Print the line for a step's row; returns the row with rates and memory, for the tracker."""
        now, steps = time.perf_counter(), self._task.config.train.steps
        elapsed, tokens = now - self._wall, self._progress.tokens - self._tokens
        per_step = elapsed / (self._progress.step - self._step)
        figures = {name: value for name, value in row.items() if name != "step"}
        figures["tokens_per_s"] = tokens / elapsed
        for name, before in self._waited.items():
            figures[name] = (row[name] - before) / elapsed
        waited = figures["loader_wait"] + figures["save_wait"]
        figures["peak_memory_gb"] = peak_memory_gb(self._device)
        mfu = ""
        if self._share_per_token is not None:
            figures["mfu"] = self._share_per_token * figures["tokens_per_s"]
            mfu = f"mfu {figures['mfu']:.1%}  "
        print(
            f"step {self._progress.step}/{steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
            f"grad {row['grad_norm']:.2f}  {self._task.speed(figures['tokens_per_s'])}  "
            f"{mfu}wait {waited:.1%}  eta {clock(per_step * (steps - self._progress.step))}",
            flush=True,
        )
        self._wall, self._step, self._tokens = now, self._progress.step, self._progress.tokens
        self._waited = {name: row[name] for name in self._waited}
        return figures
