"""The training loop, the same for every stage and engine.

A step is a function of seed and position alone: which rows, which draws, which dropout. Killed anywhere, a run goes
on from its newest checkpoint with the numbers it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from ssmttm.config import Config
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore, Progress, load_checkpoint
from ssmttm.training.engine import Engine, LossModule, State, denormals_as_zero
from ssmttm.training.finish import finish
from ssmttm.training.listener import Listener
from ssmttm.training.order import Prefetcher, SampleOrder, keyed_generator, share
from ssmttm.training.progress import ProgressLine
from ssmttm.training.rows import RowLog
from ssmttm.training.run import Run
from ssmttm.training.schedule import batch_shape, learning_rate
from ssmttm.training.task import Batch, Task
from ssmttm.training.validation import validate

EngineFactory = Callable[[LossModule, list[dict[str, Any]], State | None], Engine]


class TrainingStoppedError(Exception):
    """Raised after the checkpoint that a request to stop (SIGTERM) asked for."""


class DivergedError(RuntimeError):
    """Raised on every worker after too many steps in a row that were not finite."""


def restore(config: Config, run: Run) -> Checkpoint | None:
    """The run's newest intact checkpoint, else the one that `train.resume` names, else None."""
    own = CheckpointStore(run.checkpoints, config.train.keep_checkpoints).load_newest()
    if own is None and config.train.resume not in ("auto", "never"):
        return load_checkpoint(config.train.resume)
    return own


class Trainer:
    """Trains one task to `train.steps` optimizer steps.

    Args:
        make_engine: builds this worker's engine from the model, its parameter groups and its averaged weights.
        listener: gets every logged row; None on all workers but the first.
        report: called on every worker, equally often, after each checkpoint.
        stop_requested: asked on the first worker after each step.
    """

    def __init__(
        self,
        task: Task,
        run: Run,
        make_engine: EngineFactory,
        listener: Listener | None = None,
        report: Callable[[dict[str, float]], None] = lambda _: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ):
        self.task, self.run_folder, self.config = task, run, task.config.train
        self._listener, self._report, self._stop_requested = listener, report, stop_requested
        checkpoint = restore(task.config, run)
        self.progress = checkpoint.progress if checkpoint else Progress()
        torch.manual_seed(self.config.seed)
        model = task.build()
        if checkpoint:
            model.load_state_dict(checkpoint.model)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        module = LossModule(model, task.loss)
        average = checkpoint.average if checkpoint else None
        self.engine = make_engine(module, task.optimizer_groups(model), average)
        if checkpoint:
            self.engine.load_optimizer_state(checkpoint.optimizer)
        self.shape = batch_shape(self.config, self.engine.world_size)
        self.order = SampleOrder(len(task.data), self.config.seed)
        self.store = CheckpointStore(run.checkpoints, self.config.keep_checkpoints)
        self.is_first = self.engine.rank == 0
        self._refused_in_a_row = 0
        self._agreed_stop = False
        if self.is_first:
            self._metrics = RowLog(run.metrics, self.progress.step)
            self._validation = RowLog(run.validation, self.progress.step)
            if checkpoint:
                print(f"continuing from step {self.progress.step}", flush=True)
            if listener is not None:
                listener.begin(self.progress.step)
            self._line = ProgressLine(task, self.engine, self.progress)

    # The loop

    def fit(self) -> None:
        """Train to the last step, then write weights, samples and summary.

        Raises:
            TrainingStoppedError: when asked to stop, after a checkpoint.
            DivergedError: after `train.max_skipped` non-finite steps in a row.
        """
        with denormals_as_zero():
            self._fit()

    def _fit(self) -> None:
        config, progress = self.config, self.progress
        loader = Prefetcher(self._load, progress.position)
        figures: dict[str, float] = {}
        try:
            while progress.step < config.steps:
                batches, count = next(loader)
                row = self.train_step(batches, count)
                if row is None:
                    continue
                row["loader_wait"] = loader.wait_seconds
                self._log(row)
                last, stopping = progress.step == config.steps, self._agreed_stop
                if last or progress.step % config.validate_every == 0:
                    figures = self._validate(last)
                if last or stopping or progress.step % config.checkpoint_every == 0:
                    self.save_checkpoint()
                if stopping and not last:
                    raise TrainingStoppedError(f"stopped at step {progress.step}, checkpoint saved")
        finally:
            loader.close()
        if not figures:  # restored at the last step
            figures = self._validate(final=True)
        finish(self.task, self.run_folder, self.engine, progress, self.parameters, figures, self._listener)

    def train_step(self, batches: list[Batch], count: int) -> dict[str, float] | None:
        """One optimizer step over this worker's micro-batches of a global batch with `count` loss terms.

        The loss is the global sum over the global count, so that neither the number of workers nor that of
        micro-batches changes it. Returns the row to log, or None if the loss or the gradient was not finite
        anywhere: then nothing was changed and the schedule stays where it is.
        """
        start, lr, total = time.perf_counter(), learning_rate(self.progress.step, self.config), 0.0
        self._seed_dropout()
        self.progress.position += 1
        for number, batch in enumerate(batches):
            loss = self.engine.forward(batch)
            summed, stops = self.engine.sum(float(loss.detach()), float(self._stop_requested()))
            if not math.isfinite(summed):
                self.engine.abandon(loss)
                return self._skip()
            self.engine.backward(loss / count, is_last=number == len(batches) - 1)
            total += summed
        norm = self.engine.step(lr)
        if norm is None:
            return self._skip()
        if self.config.ema:
            self.engine.update_average(self.config.ema)
        self._agreed_stop, self._refused_in_a_row = stops > 0, 0
        seconds = time.perf_counter() - start
        self.progress.step += 1
        self.progress.tokens += count
        self.progress.seconds += seconds
        return {
            "step": self.progress.step,
            "loss": total / count,
            "lr": lr,
            "grad_norm": norm,
            "tokens": count,
            "seconds": seconds,
            "skipped": self.progress.skipped,
        }

    # Its parts

    def _load(self, position: int) -> tuple[list[Batch], int]:
        draws = self.order.global_batch(position, self.config.global_batch)
        mine = share(draws, self.shape, self.engine.rank, self.engine.world_size)
        return [self.task.collate(part) for part in mine], sum(self.task.count(draw) for draw in draws)

    def _seed_dropout(self) -> None:
        key = keyed_generator("dropout", self.config.seed, self.progress.position, self.engine.rank)
        torch.manual_seed(int(key.integers(2**62)))

    def _skip(self) -> None:
        self.progress.skipped += 1
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= self.config.max_skipped:
            raise DivergedError(
                f"{self._refused_in_a_row} steps in a row had a loss or gradient that is not finite, at step "
                f"{self.progress.step}; lower train.lr, or look for broken rows in {self.config.data}"
            )
        if self.is_first:
            print(f"step {self.progress.step}: loss or gradient is not finite, batch skipped", flush=True)

    def _log(self, row: dict[str, float]) -> None:
        if not self.is_first:
            return
        self._metrics.append(row)
        if self.progress.step % self.config.log_every == 0 or self.progress.step == self.config.steps:
            self._metrics.flush()
            figures = self._line.show(row)
            if self._listener is not None:
                self._listener.metrics({f"train/{key}": value for key, value in figures.items()}, self.progress.step)

    def _validate(self, final: bool) -> dict[str, float]:
        start = time.perf_counter()
        with self.engine.averaged():
            figures = validate(self.engine, self.task, self.shape.micro, final)
        if self.is_first:
            seconds = time.perf_counter() - start
            self._validation.append({"step": self.progress.step, **figures, "seconds": seconds})
            self._validation.flush()
            shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            print(f"step {self.progress.step}  validation ({self.task.unit})  {shown}  ({seconds:.1f} s)", flush=True)
            if self._listener is not None:
                self._listener.metrics({f"val/{key}": value for key, value in figures.items()}, self.progress.step)
        return figures

    def save_checkpoint(self) -> None:
        """Gather the full state on the first worker and write it; every worker takes part."""
        model, optimizer, average = self.engine.model_state(), self.engine.optimizer_state(), None
        if self.config.ema:
            with self.engine.averaged():
                average = self.engine.model_state()
        if self.is_first:
            self._metrics.flush()
            uri = self.store.save(Checkpoint(self.progress, model, optimizer, average))
            if self._listener is not None:
                self._listener.checkpoint(uri, self.progress.step)
        self._report({"step": self.progress.step})
