"""What a finished run leaves behind: weights that stand alone, audio samples, and last of all its summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmttm import storage
from ssmttm.model.weights import save_model
from ssmttm.training.checkpoint import Progress, folder_of
from ssmttm.training.engine import Engine
from ssmttm.training.listener import Listener
from ssmttm.training.rows import read_rows
from ssmttm.training.run import Run, git_commit
from ssmttm.training.samples import draw_samples, write_samples
from ssmttm.training.stage_task import StageTask
from ssmttm.training.writer import persistently

LOSS_WINDOW = 50  # steps over which the summary's training loss is averaged


def _summary(task: StageTask, run: Run, engine: Engine, progress: Progress, parameters: int) -> dict[str, Any]:
    train = task.config.train
    best = progress.best_step
    losses = [row["loss"] for row in read_rows(run.metrics)[-LOSS_WINDOW:]]
    return {
        "stage": task.name,
        "run": run.uri,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "train_loss": float(np.mean(losses)),
        "unit": task.unit,
        "parameters": parameters,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_s": progress.tokens / progress.seconds,
        "flops": task.flops() * progress.tokens,
        "launch": train.launch,
        "workers": engine.world_size,
        "zero": train.zero if train.launch == "ray" else None,
        "best_checkpoint": None if best is None else folder_of(run.checkpoints, best),
        "git": git_commit(),
    }


def _describe(task: StageTask, engine: Engine, summary: dict[str, Any]) -> dict[str, Any]:
    info = task.data.info
    return {
        **task.describe(engine.model),
        "codec": info["codec"],
        "text": info["text"],
        "generation": task.config.generation.model_dump(mode="json"),
        "training": summary,
        "data": {"uri": task.config.train.data, "rows": info["rows"]},
        "resolved_config": task.config.model_dump(mode="json"),
    }


def finish(
    task: StageTask,
    run: Run,
    engine: Engine,
    progress: Progress,
    parameters: int,
    figures: dict[str, float],
    listener: Listener | None,
) -> None:
    """Write `weights/` (the average, if one is kept), `samples/` and `summary.json`. A collective: every worker
    calls it, the first one writes."""
    with engine.averaged():
        state = engine.model_state()
    if engine.rank != 0:
        return
    summary = _summary(task, run, engine, progress, parameters) | {"validation": figures}

    def write() -> list[str]:
        save_model(run.weights, task.name, state, _describe(task, engine, summary))
        samples = write_samples(draw_samples(task, engine, state), run.path("samples"), run)
        storage.write_json(run.summary, summary)
        return samples

    samples = persistently(write, run.uri)
    if listener is not None:
        figures = {name: summary[name] for name in ("parameters", "tokens", "seconds", "flops")}
        listener.metrics({f"summary/{name}": value for name, value in figures.items()}, progress.step)
        listener.artifacts([run.summary])
        listener.samples(samples, progress.step)
    print(
        f"{task.name} finished: {progress.step} steps, {task.speed(summary['tokens_per_s'])}, weights in {run.weights}",
        flush=True,
    )
