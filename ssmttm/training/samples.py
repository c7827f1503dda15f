"""Audio that the model makes for validation prompts, while it learns and at the end."""

from __future__ import annotations

import re

import torch

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.model.weights import build_completer, build_lm
from ssmttm.training.engine import Engine, State
from ssmttm.training.listener import Listener
from ssmttm.training.run import Run
from ssmttm.training.stage_task import StageTask
from ssmttm.training.writer import RunWriter


def draw_samples(task: StageTask, engine: Engine, state: State) -> list[tuple[str, Audio]]:
    """`train.samples` prompts with what a copy of the model, made of these weights on the CPU, makes of them. Leaves
    the engine's own model, its mode and the random generators as they are."""
    build = build_lm if task.name == "stage1" else build_completer
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return task.sample(build(task.describe(engine.model), state), task.config.train.samples)


def write_samples(samples: list[tuple[str, Audio]], folder: str, run: Run) -> list[str]:
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
    with engine.averaged():
        state = engine.model_state()
    if writer is None:
        return
    clips, folder = draw_samples(task, engine, state), run.path("samples", f"step-{step:06d}")

    def write() -> None:
        uris = write_samples(clips, folder, run)
        if listener is not None:
            listener.samples(uris, step)

    writer.begin(write, folder)
