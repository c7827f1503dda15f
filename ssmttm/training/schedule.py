"""The learning rate of every step, and how many steps there are where a run is given minutes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.registry import Registry
from ssmttm.training.engine import Engine

FIRST, LAST = 10, 25  # the steps between these are timed; those before load and warm up


def _half_cosine(step: int, config: TrainConfig) -> float:
    """SGDR's shape (arXiv 1608.03983), from the end of the warm-up to the last step."""
    return 0.5 * (1 + math.cos(math.pi * _progress(step, config.warmup_steps, config)))


def _cool_down(step: int, config: TrainConfig) -> float:
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): a straight line (arXiv 2405.18392) over the last steps."""
    start = _cool_down_start(config)
    return 1.0 if step < start else 1 - _progress(step, start, config)


def _cool_down_start(config: TrainConfig) -> int:
    return max(config.warmup_steps, config.steps - max(1, round(config.decay_share * config.steps)))


def _progress(step: int, start: int, config: TrainConfig) -> float:
    return min(1.0, (step + 1 - start) / max(1, config.steps - start))


class Schedule(NamedTuple):
    """What follows the warm-up. share: of the way from the last rate to the peak, by step (from 0). stable_until: the
    first step whose rate lies below the peak, where those before it do not depend on the number of steps; else None."""

    share: Callable[[int, TrainConfig], float]
    stable_until: Callable[[TrainConfig], int | None] = lambda _: None


SCHEDULES: Registry[Schedule] = Registry(
    "train.schedule",
    {
        "cosine": Schedule(_half_cosine),
        "wsd": Schedule(_cool_down, _cool_down_start),
        "constant": Schedule(lambda step, config: 1.0),
    },
)


def decay_start(config: TrainConfig) -> int | None:
    """The first step (from 0) whose rate lies below the peak, where the schedule is stable before it; else None. A run
    that has not come further can be given more steps: they change none of the rates it has had."""
    return SCHEDULES.find(config.schedule).stable_until(config)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step` (from 0): a linear warm-up to the peak, then what the schedule leaves of the way
    from `min_lr_ratio` of the peak to it."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = SCHEDULES.find(config.schedule).share(step, config)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * share)


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
