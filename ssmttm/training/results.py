"""What a run makes of its model: audio samples while it learns, and at the end weights that stand alone, samples and
summary."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.config import TrainConfig
from ssmttm.model.weights import BUILDERS, save_model
from ssmttm.training.checkpoint import Progress, folder_of
from ssmttm.training.engine import Engine, State
from ssmttm.training.run import Run, git_commit
from ssmttm.training.session import Listener
from ssmttm.training.stage_task import StageTask
from ssmttm.training.writer import RunWriter, persistently, read_rows

LOSS_WINDOW = 50  # steps over which the summary's training loss is averaged


def _draw_samples(task: StageTask, engine: Engine, state: State) -> list[tuple[str, Audio]]:
    """`train.samples` prompts with what a copy of the model, made of these weights on the CPU, makes of them. Leaves
    the engine's own model, its mode and the random generators as they are."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return task.sample(BUILDERS[task.name](task.describe(engine.model), state), task.config.train.samples)


def _write_samples(samples: list[tuple[str, Audio]], folder: str, run: Run) -> list[str]:
    """Write them as WAV files that say what they are; returns their URIs."""
    uris = []
    for number, (prompt, clip) in enumerate(samples):
        name = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:60].strip("-")
        uris.append(f"{folder}/{number}-{name}.wav")
        audio.write(uris[-1], clip, {"ai_generated": True, "prompt": prompt, "model": run.uri})
    return uris


def sample(
    task: StageTask, engine: Engine, step: int, writer: RunWriter | None, run: Run, listener: Listener | None
) -> None:
    """Make audio with the averaged weights on the first worker, which has a writer; every worker takes part in
    gathering them."""
    state = engine.averaged_state()
    if writer is None:
        return
    clips, folder = _draw_samples(task, engine, state), run.path("samples", f"step-{step:06d}")

    def write() -> None:
        uris = _write_samples(clips, folder, run)
        if listener is not None:
            listener.samples(uris, step)

    writer.begin(write, folder)


def write_results(
    task: StageTask,
    run: Run,
    train: TrainConfig,
    engine: Engine,
    progress: Progress,
    figures: dict[str, float],
    listener: Listener | None,
) -> None:
    """Write `weights/` (the average, if one is kept), `samples/` and, last of all, `summary.json`. A collective: every
    worker calls it, the first one writes.

    Args:
        train: as the run ended with it; `train.minutes` may have changed its steps.
        figures: of the last validation.
    """
    state = engine.averaged_state()
    if engine.rank != 0:
        return
    config = task.config.model_copy(update={"train": train})
    best, info = progress.best_step, task.data.info
    losses = [row["loss"] for row in read_rows(run.metrics)[-LOSS_WINDOW:]]
    summary: dict[str, Any] = {
        "stage": task.name,
        "run": run.uri,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "train_loss": float(np.mean(losses)),
        "unit": task.unit,
        "parameters": sum(state[name].numel() for name, _ in engine.model.named_parameters()),
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_s": progress.tokens / progress.seconds,
        "flops": task.flops() * progress.tokens,
        "launch": train.launch,
        "workers": engine.world_size,
        "zero": train.zero if train.launch == "ray" else None,
        "best_checkpoint": None if best is None else folder_of(run.checkpoints, best),
        "git": git_commit(),
        "validation": figures,
    }
    description = {
        **task.describe(engine.model),
        "codec": info["codec"],
        "text": info["text"],
        "generation": config.generation.model_dump(mode="json"),
        "training": summary,
        "data": {"uri": train.data, "rows": info["rows"]},
        "resolved_config": config.model_dump(mode="json"),
    }

    def write() -> list[str]:
        run.check_ours()
        save_model(run.weights, task.name, state, description)
        samples = _write_samples(_draw_samples(task, engine, state), run.path("samples"), run)
        storage.write_json(run.summary, summary)
        return samples

    samples = persistently(write, run.uri)
    if listener is not None:
        counted = {f"summary/{name}": summary[name] for name in ("parameters", "tokens", "seconds", "flops")}
        listener.metrics(counted, progress.step)
        listener.artifacts([run.summary])
        listener.samples(samples, progress.step)
    print(
        f"{task.name} finished: {progress.step} steps, {task.speed(summary['tokens_per_s'])}, weights in {run.weights}",
        flush=True,
    )
