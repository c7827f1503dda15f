"""How far a run is and how fast: the progress line, and the floating-point operations that it goes by.

Shapes: B batch, K codebooks, T frames, D latent dimensions.
"""

from __future__ import annotations

import re
import resource
import time
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ssmttm.codec.store import load_codec
from ssmttm.config import Config, Stage2Config
from ssmttm.model import costs
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.training.checkpoint import Progress
from ssmttm.training.engine import Engine
from ssmttm.training.task import Task

# Dense bf16 peak in FLOP/s, by what occurs in the device's name; the first that fits counts. NVIDIA's data sheets
# ("NVIDIA H200 Tensor Core GPU", "NVIDIA H100", "NVIDIA A100 Tensor Core GPU", "NVIDIA L40S", "NVIDIA L4") state
# twice these figures for Hopper and Ada, with sparsity; the last is from the "NVIDIA Ada GPU Architecture" white paper,
# with fp32 accumulation.
PEAK_FLOPS = {
    r"\bH(100|200) NVL\b": 835e12,
    r"\bH100 PCIe\b": 756e12,
    r"\bH(100|200)\b": 989e12,
    r"\bA100\b": 312e12,
    r"\bL40S\b": 362e12,
    r"\bL4\b": 121e12,
    r"\bRTX 4090$": 165e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of one device, None where it is not known: any CPU, other cards, a part of a card (MIG)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if "MIG" in name:
        return None
    return next((peak for pattern, peak in PEAK_FLOPS.items() if re.search(pattern, name)), None)


def _stage2_flops(config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int, frames: int) -> int:
    """Of one sequence, forward and backward, counted without memory behind it."""
    with FakeTensorMode():
        completer = LatentCompleter(config, fine_dim, coarse_dim, {"text": text_dim})
        fine_BDT, coarse_BDT = torch.empty(1, fine_dim, frames), torch.empty(1, coarse_dim, frames)
        text = costs.sample_conditions(costs.Shape(0, text_dim, coarse_dim), costs.TEXT_TOKENS)
        mask_BT = torch.ones(1, frames, dtype=torch.bool)
        with costs.counting() as counter:
            loss, _ = completer.loss(fine_BDT, coarse_BDT, text, torch.empty(1), torch.empty_like(fine_BDT), mask_BT)
            loss.backward()
    return counter.get_total_flops()


def flops_per_token(config: Config, stage: str, dataset: dict[str, Any], frames: float) -> float:
    """FLOPs of forward and backward per loss term (`Task.count`), counted operator by operator; attention in full,
    without the half that causality spares, as is usual (arXiv 2204.02311, appendix B).

    Args:
        dataset: what the token shards say about themselves.
        frames: of a training sequence, in the mean.
    """
    codec, text_dim, length = load_codec(dataset["codec"]["uri"]), dataset["text"]["dim"], max(1, round(frames))
    if stage == "stage2":
        return _stage2_flops(config.stage2, codec.fine_dim, codec.coarse_dim, text_dim, length) / length
    K = config.stage1.num_codebooks
    steps = length + K - 1  # of the delay pattern
    shape = costs.Shape(codec.codebook_size, text_dim, codec.coarse_dim)
    return costs.train_costs(config.stage1, shape, steps).flops_per_frame * steps / (K * length)


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
        self._task, self._progress, self._engine = task, progress, engine
        peak = peak_flops(engine.device)
        flops = None if peak is None else task.flops()
        # What a token is of all devices' peak: the utilisation at one token per second.
        self._share_per_token = None if peak is None or flops is None else flops / (peak * engine.world_size)
        self._wall, self._step, self._tokens = time.perf_counter(), progress.step, progress.tokens
        self._waited = {"loader_wait": 0.0, "save_wait": 0.0}

    def show(self, row: dict[str, float], steps: int) -> dict[str, float]:
        """Print the line for a step's row, of `steps` in all; returns the row with rates and memory, for the
        tracker."""
        now = time.perf_counter()
        elapsed, tokens = now - self._wall, self._progress.tokens - self._tokens
        per_step = elapsed / (self._progress.step - self._step)
        figures = {name: value for name, value in row.items() if name != "step"}
        figures["tokens_per_s"] = tokens / elapsed
        for name, before in self._waited.items():
            figures[name] = (row[name] - before) / elapsed
        waited = figures["loader_wait"] + figures["save_wait"]
        figures["peak_memory_gb"] = peak_memory_gb(self._engine.device)
        mfu = ""
        if self._share_per_token is not None:
            figures["mfu"] = self._share_per_token * figures["tokens_per_s"]
            mfu = f"mfu {figures['mfu']:.1%}  "
        others = "".join(f"  {name.removeprefix('loss_')} {row[name]:.3f}" for name in self._engine.figures)
        print(
            f"step {self._progress.step}/{steps}  loss {row['loss']:.4f}{others}  lr {row['lr']:.2e}  "
            f"grad {row['grad_norm']:.2f}  {self._task.speed(figures['tokens_per_s'])}  "
            f"{mfu}wait {waited:.1%}  eta {clock(per_step * (steps - self._progress.step))}",
            flush=True,
        )
        self._wall, self._step, self._tokens = now, self._progress.step, self._progress.tokens
        self._waited = {name: row[name] for name in self._waited}
        return figures
