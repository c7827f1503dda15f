"""Audio made while a run learns: it is there, of the right weights, and training does not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_faults import run_workers
from test_trainer import figures

from ssmttm import audio, storage
from ssmttm.config import Config
from ssmttm.model.weights import build_completer, build_lm
from ssmttm.training.checkpoint import load_checkpoint
from ssmttm.training.launch import make_task, train
from ssmttm.training.run import Run, run_of
from ssmttm.training.stage_task import StageName
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
SETTINGS = ("train.steps=6", "train.ema=0.5", "train.samples=2", "train.checkpoint_every=2", "train.keep_checkpoints=9")


def listing(run: Run) -> list[str]:
    return [name for name in storage.list_names(run.path("samples")) if name.startswith("step-")]


def sounds(run: Run, step: int) -> list[np.ndarray]:
    folder = run.path("samples", f"step-{step:06d}")
    return [audio.read(storage.join(folder, name)).samples for name in storage.list_names(folder)]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_samples_change_no_figure(make_config: MakeConfig, stage: StageName) -> None:
    """Bit for bit, dropout and validation included."""
    settings = (stage, *SETTINGS, *(("stage1.dropout=0.3",) if stage == "stage1" else ()))
    plain = train(make_config(*settings, "train.name=plain"), stage)
    heard = train(make_config(*settings, "train.name=heard", "train.samples_every=2"), stage)
    assert figures(heard) == figures(plain)
    for log in ("metrics", "validation"):
        rows = [[row["step"] for row in read_rows(getattr(run, log))] for run in (plain, heard)]
        assert rows[0] == rows[1]
    own = [[row["own"] for row in read_rows(run.validation)] for run in (plain, heard)]
    assert own[0] == own[1]
    last = [load_checkpoint(storage.join(run.checkpoints, "step-000006")) for run in (plain, heard)]
    for name in ("model", "optimizer", "average"):
        states = [getattr(checkpoint, name) for checkpoint in last]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert listing(plain) == []
    assert listing(heard) == ["step-000002", "step-000004"]  # the last step's are the run's own
    assert len(storage.list_names(heard.path("samples", "step-000002"))) == 2


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_samples_are_of_the_averaged_weights(make_config: MakeConfig, stage: StageName) -> None:
    config = make_config(stage, *SETTINGS, "train.samples_every=2")
    run = train(config, stage)
    checkpoint = load_checkpoint(storage.join(run.checkpoints, "step-000004"))
    task = make_task(stage, config)
    build = build_lm if stage == "stage1" else build_completer
    assert checkpoint.average is not None
    for state, same in ((checkpoint.average, True), (checkpoint.model, False)):
        clips = task.sample(build(task.describe(task.build()), state), 2)
        pairs = zip([clip.samples for _, clip in clips], sounds(run, 4), strict=True)
        assert all(np.allclose(mine, theirs, atol=1e-3) for mine, theirs in pairs) == same


def test_the_files_say_what_they_are(make_config: MakeConfig) -> None:
    run = train(make_config("stage1", "train.samples_every=2"), "stage1")
    (name,) = storage.list_names(run.path("samples", "step-000002"))
    assert name == "0-sound-number-0-version-0.wav"
    said = audio.read_metadata(run.path("samples", "step-000002", name))
    assert said == {"ai_generated": True, "prompt": "sound number 0, version 0", "model": run.uri}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [0, 3])
def test_two_workers_make_the_samples_of_one(make_config: MakeConfig, tmp_path: Path, zero: int) -> None:
    """Under ZeRO-3 every worker helps to gather the weights and only the first makes audio; figures stay what they
    are without samples, to the bit."""
    settings = (*SETTINGS, "stage1.dropout=0.2", f"train.zero={zero}", "train.workers=2", "train.launch=ray")
    plain = make_config("stage1", *settings, "train.name=plain")
    heard = make_config("stage1", *settings, "train.name=heard", "train.samples_every=2")
    for config in (plain, heard):
        assert run_workers(config, tmp_path, 2) == [0, 0]
    runs = [run_of(config, "stage1") for config in (plain, heard)]
    assert figures(runs[1]) == figures(runs[0])
    assert listing(runs[1]) == ["step-000002", "step-000004"]
    average = load_checkpoint(storage.join(runs[1].checkpoints, "step-000004")).average
    task = make_task("stage1", heard)
    assert average is not None
    clips = [clip.samples for _, clip in task.sample(build_lm(task.describe(task.build()), average), 2)]
    pairs = zip(clips, sounds(runs[1], 4), strict=True)
    assert all(np.allclose(mine, theirs, atol=1e-3) for mine, theirs in pairs)
