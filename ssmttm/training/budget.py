"""How many steps fit into `train.minutes`: told by the first ones, decided once, and kept with the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

from ssmttm import storage
from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.engine import Engine
from ssmttm.training.run import Run, run_of
from ssmttm.training.schedule import decay_start
from ssmttm.training.task import Task
from ssmttm.training.writer import RunWriter

FIRST, LAST = 10, 25  # the steps between these are timed; those before load and warm up
FILE = "steps.json"


def check_budget(config: TrainConfig) -> None:
    """Refuse a warm-up that would be over before the number of steps is known: the rates of the first steps must not
    depend on it.

    Raises:
        UserError: naming the least.
    """
    if config.minutes is not None and config.warmup_steps < LAST:
        raise UserError(
            f"train.minutes is decided after {LAST} steps; set train.warmup_steps={LAST} or more, not "
            f"{config.warmup_steps}"
        )


def decided(config: Config, stage: str) -> Config:
    """The configuration with the number of steps that the run's first ones led to, if they did already."""
    note = run_of(config, stage).path(FILE)
    if config.train.minutes is None or not storage.exists(note):
        return config
    return config.model_copy(update={"train": config.train.model_copy(update=storage.read_json(note))})


class TimeBudget:
    """Told of every step, settles how many the run is to have.

    Args:
        config: with `minutes`, or nothing is decided.
        done: steps that were done before; a run that is past its first steps is left as it is.
        clock: seconds.
    """

    def __init__(self, config: TrainConfig, done: int, clock: Callable[[], float] = time.perf_counter):
        self._config, self._clock = config, clock
        self._ends: list[float] = []
        self._open = config.minutes is not None and done < FIRST

    def settle(self, step: int, task: Task, engine: Engine, writer: RunWriter | None, run: Run) -> None:
        """After step `LAST`, give the task's configuration the steps that fit, no fewer than twice the warm-up and no
        more than `train.steps`. The median step counts, as single ones take far longer while memory and caches fill.
        A collective there, in which the first worker's clock counts; that worker (it has a
        writer) also keeps the decision, and the run's own configuration states it from now on."""
        if not self._open or self._config.minutes is None:
            return
        if step >= FIRST:
            self._ends.append(self._clock())
        if step != LAST:
            return
        self._open, train = False, self._config
        each = statistics.median(after - before for before, after in pairwise(self._ends))
        fitting = min(max(round(60 * train.minutes / each), 2 * train.warmup_steps), train.steps)
        steps = int(engine.sum(float(fitting if engine.rank == 0 else 0))[0])
        if steps == train.steps:
            return
        config = task.config.model_copy(update={"train": train.model_copy(update={"steps": steps})})
        task.config = config
        if writer is None:
            return
        print(f"train.minutes={train.minutes:g} allow {steps} of {train.steps} steps", flush=True)

        def keep() -> None:
            storage.write_json(run.path(FILE), {"steps": steps})
            storage.write_json(run.path("config.json"), config.model_dump(mode="json"))

        writer.set_landmark(decay_start(config.train))
        writer.begin(keep, run.uri)
