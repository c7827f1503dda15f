"""The training loop, the same for every task and engine.

A step is a function of seed and position alone: which rows, which draws, which dropout. Killed anywhere, a run goes
on from its newest checkpoint with the numbers it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch

from ssmttm.bundle import initial
from ssmttm.config import full_name
from ssmttm.errors import UserError
from ssmttm.hardware import denormals_as_zero
from ssmttm.training.checkpoint import Checkpoint, Progress, check_fits, restore
from ssmttm.training.engine import Engine, LossModule, State, use_bf16
from ssmttm.training.order import Prefetcher, SampleOrder, batch_shape, keyed_generator, share
from ssmttm.training.progress import ProgressLine
from ssmttm.training.results import sample, write_results
from ssmttm.training.run import Run, keep_steps, note_change
from ssmttm.training.schedule import TimeBudget, decay_start, learning_rate
from ssmttm.training.session import DivergedError, Listener, PreemptedError, Signals, StartUp, TrainingStoppedError
from ssmttm.training.stage_task import StageTask
from ssmttm.training.task import Batch, Task
from ssmttm.training.validation import validate
from ssmttm.training.writer import RunWriter

EngineFactory = Callable[[LossModule, list[dict[str, Any]], State | None], Engine]


class Trainer:
    """Trains one task to `train.steps` optimizer steps.

    Args:
        make_engine: builds this worker's engine from the model, its parameter groups and its averaged weights.
        listener: gets every logged row; None on all workers but the first.
        report: called on every worker, equally often, after each checkpoint.
        stop_requested: asked at each step, on every worker.
        preempted: likewise; says that this worker is about to be taken away.
        startup: times until now; the first worker says, after the first step of a run, what they were.
        finish: called on every worker after the last step, with the arguments of `write_results` by name.
    """

    def __init__(
        self,
        task: Task,
        run: Run,
        make_engine: EngineFactory,
        listener: Listener | None = None,
        report: Callable[[dict[str, float]], None] = lambda _: None,
        stop_requested: Callable[[], bool] = lambda: False,
        preempted: Callable[[], bool] = lambda: False,
        startup: StartUp | None = None,
        finish: Callable[..., None] = write_results,
    ):
        self.task, self.run, self.config = task, run, task.config.train
        self._listener, self._report = listener, report
        self._stop_requested, self._preempted, self._startup = stop_requested, preempted, startup
        self._finish = finish
        checkpoint = restore(task.config, task.name, run.checkpoints)
        self.progress = checkpoint.progress if checkpoint else Progress()
        torch.manual_seed(self.config.seed)
        model = task.build()
        if checkpoint:
            if isinstance(task, StageTask):
                check_fits(checkpoint, model, run.checkpoints)
            model.load_state_dict(checkpoint.model)
        else:
            initial.load(model, task.config, task.name)
        module = LossModule(model, task.loss)
        self.engine = make_engine(module, task.optimizer_groups(model), checkpoint.average if checkpoint else None)
        if checkpoint:
            self.engine.load_optimizer_state(checkpoint.optimizer)
        self._check_precision()
        self.shape = batch_shape(self.config, self.engine.world_size)
        self.order = SampleOrder(len(task.data), self.config.seed)
        self._refused_in_a_row, self._begun = 0, False
        self._agreed, self._budget = Signals(), TimeBudget(self.config, self.progress.step)
        self._saved_at = time.monotonic()
        self._writer: RunWriter | None = None
        if self.engine.rank == 0:
            saved = None if listener is None else listener.checkpoint
            keep, landmark = self.config.keep_checkpoints, decay_start(self.config)
            # Restored at the last step, it is validated again: the row of then gives way.
            validated = self.progress.step - (self.progress.step == self.config.steps)
            self._writer = RunWriter(run, keep, self.progress.step, saved, landmark, validated)
            if checkpoint:
                print(f"continuing from step {self.progress.step}", flush=True)
            self._line = ProgressLine(task, self.engine, self.progress)
        if startup is not None:
            startup.ended("model")

    # The loop

    def fit(self) -> None:
        """Train to the last step, then `finish`.

        Raises:
            TrainingStoppedError: when asked to stop, after a checkpoint.
            PreemptedError: when a worker is about to be taken away, after a checkpoint.
            DivergedError: after `train.max_skipped` non-finite steps in a row.
            UserError: if the run's folder cannot be written.
        """
        try:
            with denormals_as_zero():
                self._fit()
        finally:
            if self._writer is not None:
                self._writer.join()

    def _fit(self) -> None:
        progress, first = self.progress, self.progress.step
        loader = Prefetcher(self._load, progress.position)
        figures: dict[str, float] = {}
        try:
            while progress.step < self.config.steps:
                batches, count = next(loader)
                row = self.train_step(batches, count)
                self._begin(first)
                if row is None:
                    continue
                row["loader_wait"] = loader.wait_seconds
                steps = self._budget.steps(progress.step, self.engine)
                if steps != self.config.steps:
                    self._change_steps(steps)
                self._log(row)
                config, agreed, best = self.config, self._agreed, False
                last = progress.step == config.steps
                if agreed.failed:
                    self._raise_failure()
                if last or progress.step % config.validate_every == 0:
                    figures = self._validate(last)
                    best = self._note_best(figures)
                if config.samples_every and progress.step % config.samples_every == 0 and not last:
                    assert isinstance(self.task, StageTask)  # no other is asked for samples
                    sample(self.task, self.engine, progress.step, self._writer, self.run, self._listener)
                leaving = agreed.stop or agreed.preempted
                due = progress.step % config.checkpoint_every == 0 or progress.step == decay_start(config)
                if last or leaving or best or agreed.save or due:
                    self.save_checkpoint()
                if leaving and not last:
                    self._finish_writing()
                    reason = "stopped" if agreed.stop else "a worker is about to be taken away: stopped"
                    kind = TrainingStoppedError if agreed.stop else PreemptedError
                    raise kind(f"{reason} at step {progress.step}, checkpoint saved")
        finally:
            loader.close()
        if not figures:  # restored at the last step
            self._begin(first)
            figures = self._validate(final=True)
        self._finish_writing()
        self._finish(
            task=self.task,
            run=self.run,
            train=self.config,
            engine=self.engine,
            progress=progress,
            figures=figures,
            listener=self._listener,
        )

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
            summed, *signals = self.engine.sum(float(loss.detach()), *map(float, self._signals()))
            if not math.isfinite(summed):
                self.engine.abandon(loss)
                self._skip()
                return None
            self.engine.backward(loss / count, is_last=number == len(batches) - 1)
            total += summed
        norm = self.engine.step(lr)
        if norm is None:
            self._skip()
            return None
        if self.config.ema:
            self.engine.update_average(self.config.ema)
        self._agreed, self._refused_in_a_row = Signals(*(signal > 0 for signal in signals)), 0
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
            **self.engine.figures,
        }

    # Its parts

    def _check_precision(self) -> None:
        """What `auto` means hangs on the machine: a run that goes on keeps to what it was, or is told to go on so."""
        before, now = self.progress.precision, "bf16" if use_bf16(self.config) else "fp32"
        self.progress.precision = now
        (others,) = self.engine.sum(float(before not in (None, now)))
        if not others:
            return
        if "train.precision" not in map(full_name, self.config.continue_with):
            raise UserError(
                f"{self.run.uri} was trained in {before}, and train.precision={self.config.precision} means {now} "
                f"here; choose another train.name, or train.continue_with=[precision]"
            )
        if self.engine.rank == 0:
            change = f"train.precision={now}, {before} before"
            note_change(self.run, self.task.name, self.progress.step, change)

    def _signals(self) -> Signals:
        stop, preempted, minutes = self._stop_requested(), self._preempted(), self.config.checkpoint_minutes
        if self._writer is None:
            return Signals(stop, preempted)
        save = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return Signals(stop, preempted, save, self._writer.error is not None)

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
                f"{self.progress.step}; {self.task.remedy()}"
            )
        if self._writer is not None:
            print(f"step {self.progress.step}: loss or gradient is not finite, batch skipped", flush=True)

    def _begin(self, step: int) -> None:
        """After the first step of this start, which went on from `step`: say how long that took, and let the listener
        load its libraries, which would have delayed it."""
        if self._begun or self._writer is None:
            return
        self._begun = True
        if self._startup is not None:
            self._startup.ended("step")
            print(self._startup, flush=True)
        if self._listener is not None:
            self._listener.begin(step)

    def _change_steps(self, steps: int) -> None:
        """Go on with another number of steps; the run's folder says so from now on."""
        before, self.config = self.config, self.config.model_copy(update={"steps": steps})
        if self._writer is None:
            return
        print(f"train.minutes={before.minutes:g} allow {steps} of {before.steps} steps", flush=True)
        config = self.task.config.model_copy(update={"train": self.config})
        self._writer.set_landmark(decay_start(self.config))
        self._writer.begin(lambda: keep_steps(self.run, config), self.run.uri)

    def _log(self, row: dict[str, float]) -> None:
        if self._writer is None:
            return
        row["save_wait"] = self._writer.wait_seconds
        self._writer.metrics.append(row)
        if self.progress.step % self.config.log_every == 0 or self.progress.step == self.config.steps:
            self._writer.flush()
            figures = self._line.show(row, self.config.steps)
            if self._listener is not None:
                self._listener.metrics({f"train/{key}": value for key, value in figures.items()}, self.progress.step)

    def _validate(self, final: bool) -> dict[str, float]:
        """Figures over the held-out rows; none where the task holds none out."""
        if not self.task.validation_rows:
            return {}
        start = time.perf_counter()
        with self.engine.averaged():
            figures = validate(self.engine, self.task, self.shape.micro, final)
        if self._writer is not None:
            seconds = time.perf_counter() - start
            self._writer.validation.append({"step": self.progress.step, **figures, "seconds": seconds})
            self._writer.flush()
            shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            print(f"step {self.progress.step}  validation ({self.task.unit})  {shown}  ({seconds:.1f} s)", flush=True)
            if self._listener is not None:
                self._listener.metrics({f"val/{key}": value for key, value in figures.items()}, self.progress.step)
        return figures

    def _note_best(self, figures: dict[str, float]) -> bool:
        """Whether this is the lowest validation loss so far; only with `train.keep_best`."""
        if not self.config.keep_best:
            return False
        best, loss = self.progress.best_loss, figures["own"]
        if not (best is None or loss < best) or not math.isfinite(loss):
            return False
        self.progress.best_loss, self.progress.best_step = loss, self.progress.step
        return True

    def save_checkpoint(self) -> None:
        """Gather the full state in the first worker's memory, from where it is written while training goes on; every
        worker takes part."""
        model, optimizer = self.engine.model_state(), self.engine.optimizer_state()
        average = self.engine.averaged_state() if self.config.ema else None
        if self._writer is not None:
            self._writer.save(Checkpoint(replace(self.progress), model, optimizer, average, self.task.name))
        self._saved_at = time.monotonic()
        self._report({"step": self.progress.step})

    def _finish_writing(self) -> None:
        """Wait until all rows and checkpoints are written; every worker calls it."""
        if self._writer is not None:
            self._writer.join()
            self._writer.flush()
            self._writer.join()
        (failures,) = self.engine.sum(float(self._writer is not None and self._writer.error is not None))
        if failures:
            self._raise_failure()

    def _raise_failure(self) -> NoReturn:
        if self._writer is not None and self._writer.error is not None:
            raise self._writer.error
        raise UserError(f"the first worker could not write to {self.run.uri}; its message says why")
