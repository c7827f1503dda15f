"""The learning rate of every step, and how many steps there are where a run is given minutes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.engine import Engine

FIRST, LAST = 10, 25  # the steps between these are timed; those before load and warm up


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


def check_budget(config: TrainConfig) -> None:
    """Refuse a warm-up that would end before the number of steps is known: the rates of the first steps must not
    depend on it.

    Raises:
        UserError: naming the least.
    """
    if config.minutes is not None and config.warmup_steps < LAST:
        raise UserError(
            f"train.minutes is decided after {LAST} steps; set train.warmup_steps={LAST} or more, not "
            f"{config.warmup_steps}"
        )


class TimeBudget:
    """Finds from a run's first steps how many fit into `train.minutes`.

    Args:
        config: with `minutes`, or nothing is decided.
        done: steps that were done before; a run that is past its first steps is left as it is.
        clock: seconds.
    """

    def __init__(self, config: TrainConfig, done: int, clock: Callable[[], float] = time.perf_counter):
        self._config, self._clock = config, clock
        self._ends: list[float] = []
        self._open = config.minutes is not None and done < FIRST

    def steps(self, step: int, engine: Engine) -> int:
        """How many steps the run is to have, asked after every step: `train.steps`, and from step `LAST` on what fits,
        no fewer than twice the warm-up and no more than `train.steps`.

        The median step counts, as single ones take far longer while memory and caches fill. At step `LAST` this is a
        collective, in which the first worker's clock counts.
        """
        config = self._config
        if not self._open or config.minutes is None:
            return config.steps
        if step >= FIRST:
            self._ends.append(self._clock())
        if step == LAST:
            self._open = False
            each = statistics.median(after - before for before, after in pairwise(self._ends))
            fitting = min(max(round(60 * config.minutes / each), 2 * config.warmup_steps), config.steps)
            steps = int(engine.sum(float(fitting if engine.rank == 0 else 0))[0])
            self._config = config.model_copy(update={"steps": steps})
        return self._config.steps
