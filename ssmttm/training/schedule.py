"""Learning rate per optimizer step, and how a global batch falls on workers and forward passes."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError


def decay_start(config: TrainConfig) -> int | None:
    """With `train.schedule=wsd`, the first step (from 0) whose rate lies below the peak; None with other schedules.

    A run that has not come further can be given more steps: they change none of the rates it has had.
    """
    if config.schedule != "wsd":
        return None
    last_steps = max(1, round(config.decay_share * config.steps))
    return max(config.warmup_steps, config.steps - last_steps)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step` (from 0): a linear warm-up to the peak, then one of

    - cosine: half a cosine down to `min_lr_ratio` of the peak at the last step (SGDR's shape, arXiv 1608.03983),
    - wsd: warm-up, stable, decay (MiniCPM, arXiv 2404.06395): the peak, then over the last `decay_share` of the steps
      in a straight line (the cool-down of arXiv 2405.18392) down to the same end,
    - constant: the peak.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    start = decay_start(config)
    if start is None:
        start = config.warmup_steps
    elif step < start:
        return config.lr
    progress = min(1.0, (step + 1 - start) / max(1, config.steps - start))
    left = 1 - progress if config.schedule == "wsd" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


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
