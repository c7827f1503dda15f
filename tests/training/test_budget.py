"""A run that is given minutes: how many steps these become, and that it stays with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssmttm import storage
from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.launch import train
from ssmttm.training.run import Run, decided
from ssmttm.training.schedule import FIRST, LAST, TimeBudget, learning_rate
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
SHORT = ("train.steps=60", f"train.warmup_steps={LAST}", "train.checkpoint_every=30", "train.validate_every=60")
HURRIED = (*SHORT, "train.minutes=1e-6")


def settled(seconds_per_step: float, minutes: float | None, done: int = 0, rank: int = 0, first: float = 0.0) -> int:
    """Steps of a run with a clock that goes so fast; what the first worker found comes by `first`."""
    now = {"step": 0}
    config = TrainConfig(steps=1000, warmup_steps=LAST, minutes=minutes)
    engine: Any = SimpleNamespace(rank=rank, sum=lambda value: [value + first])
    budget = TimeBudget(config, done, clock=lambda: 100.0 + seconds_per_step * now["step"])
    for step in range(done + 1, 40):
        now["step"] = step
        steps = budget.steps(step, engine)
        assert steps == 1000 or step >= LAST
    return steps


def test_as_many_steps_as_fit() -> None:
    assert settled(0.5, 2.0) == 240
    assert settled(0.5, None) == 1000
    assert settled(0.01, 2.0) == 1000  # never more than were asked for
    assert settled(100.0, 2.0) == 2 * LAST  # nor fewer than twice the warm-up


def test_the_first_workers_clock_counts_for_all() -> None:
    assert settled(7.0, 2.0, rank=1, first=240.0) == 240


def test_a_run_past_its_first_steps_is_left_alone() -> None:
    assert settled(0.5, 2.0, done=FIRST) == 1000
    assert settled(0.5, 2.0, done=FIRST - 1) == 240


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_a_hurried_run_ends_with_a_whole_schedule(make_config: MakeConfig, schedule: str) -> None:
    config = make_config("stage1", *HURRIED, f"train.schedule={schedule}")
    run = train(config, "stage1")
    rows, summary = read_rows(run.metrics), storage.read_json(run.summary)
    assert summary["steps"] == len(rows) == 2 * LAST
    as_planned = config.train.model_copy(update={"steps": 2 * LAST})
    assert [row["lr"] for row in rows] == [learning_rate(step, as_planned) for step in range(2 * LAST)]
    assert storage.read_json(run.path("config.json"))["train"]["steps"] == 2 * LAST
    assert storage.read_json(storage.join(run.weights, "model.json"))["resolved_config"]["train"]["steps"] == 2 * LAST
    before = storage.read_json(run.summary)
    train(config, "stage1")  # finished, and not to be gone on with
    assert storage.read_json(run.summary) == before


def test_a_run_that_was_interrupted_keeps_its_number(make_config: MakeConfig, tmp_path: Path) -> None:
    whole = train(make_config("stage1", *HURRIED, "train.name=whole"), "stage1")
    cut = Run(str(tmp_path / "cut"))
    shutil.copytree(whole.uri, cut.uri)
    for name in ("checkpoints/step-000050", "weights", "samples"):
        shutil.rmtree(tmp_path / "cut" / name)
    storage.remove_tree(cut.summary)
    patient = make_config("stage1", *SHORT, "train.minutes=1000", "train.name=cut")
    assert decided(patient, "stage1").train.steps == 2 * LAST
    train(patient, "stage1")
    assert [(row["step"], row["loss"]) for row in read_rows(cut.metrics)] == [
        (row["step"], row["loss"]) for row in read_rows(whole.metrics)
    ]


def test_a_warm_up_that_would_be_over_too_soon_is_refused(make_config: MakeConfig) -> None:
    config = make_config("stage1", *HURRIED, f"train.warmup_steps={LAST - 1}")
    with pytest.raises(UserError, match=rf"set train\.warmup_steps={LAST} or more, not {LAST - 1}"):
        train(config, "stage1")
