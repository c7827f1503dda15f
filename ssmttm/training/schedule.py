"""Learning rate per optimizer step, and how a global batch falls on workers and forward passes."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then half a cosine down to `min_lr_ratio` of the
    peak at the last step (SGDR's shape, arXiv 1608.03983), or constant."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step + 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


class BatchShape(NamedTuple):
    """Sequences per worker and forward pass, and forward passes per optimizer step."""

    micro: int
    accumulation: int


def batch_shape(config: TrainConfig, world_size: int) -> BatchShape:
    """Divide the global batch evenly over workers, then into the fewest equal forward passes of at most
    `micro_batch` sequences.

    Raises:
        UserError: if the global batch cannot be divided over the workers.
    """
    if config.global_batch % world_size:
        raise UserError(
            f"train.global_batch={config.global_batch} cannot be divided over train.workers={world_size}; "
            f"use a multiple of {world_size}"
        )
    per_worker = config.global_batch // world_size
    micro = max(size for size in range(1, min(config.micro_batch, per_worker) + 1) if per_worker % size == 0)
    return BatchShape(micro, per_worker // micro)
