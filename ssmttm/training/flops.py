"""Floating-point operations of training: what a token costs, and what a device could do.

Shapes: B batch, K codebooks, T frames, D latent dimensions.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ssmttm.codec.base import load_codec
from ssmttm.config import Config, Stage2Config
from ssmttm.model import costs
from ssmttm.model.diffusion import LatentCompleter

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
        completer = LatentCompleter(config, fine_dim, coarse_dim, text_dim)
        fine_BDT, coarse_BDT = torch.empty(1, fine_dim, frames), torch.empty(1, coarse_dim, frames)
        text = costs.sample_text(costs.Shape(0, text_dim, coarse_dim), costs.TEXT_TOKENS)
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
