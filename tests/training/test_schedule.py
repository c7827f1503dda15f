"""Learning rates by step, and how many steps a run has that is given minutes and stays with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ssmttm import storage
from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.launch import train
from ssmttm.training.run import Run, decided
from ssmttm.training.schedule import FIRST, LAST, TimeBudget, decay_start, learning_rate
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
SHORT = ("train.steps=60", f"train.warmup_steps={LAST}", "train.checkpoint_every=30", "train.validate_every=60")
HURRIED = (*SHORT, "train.minutes=1e-6")


def test_warm_up_then_cosine_to_the_floor() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0, min_lr_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[54] == pytest.approx(0.55)  # half way down
    assert rates[99] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_constant_after_warm_up() -> None:
    config = TrainConfig(steps=20, warmup_steps=2, lr=0.5, schedule="constant")
    assert [learning_rate(step, config) for step in (0, 1, 2, 19)] == [0.25, 0.5, 0.5, 0.5]


@st.composite
def wsd_configs(draw: st.DrawFn) -> TrainConfig:
    """Warm-ups from none to longer than the run, decays from one step to all of them."""
    steps = draw(st.integers(1, 400))
    return TrainConfig(
        schedule="wsd",
        steps=steps,
        warmup_steps=draw(st.integers(0, steps + 5)),
        decay_share=draw(st.floats(0.001, 1)),
        lr=draw(st.floats(1e-6, 1)),
        min_lr_ratio=draw(st.floats(0, 1)),
    )


@hypothesis_settings(deadline=None)
@given(wsd_configs())
def test_wsd_warms_up_stays_and_decays(config: TrainConfig) -> None:
    start = decay_start(config)
    assert start is not None
    rates = [learning_rate(step, config) for step in range(config.steps)]
    warm, stable, decaying = rates[: config.warmup_steps], rates[config.warmup_steps : start], rates[start:]
    assert warm == sorted(warm)
    assert set(stable) <= {config.lr}  # the plateau, to the bit
    assert decaying == pytest.approx(sorted(decaying, reverse=True), rel=1e-12)
    assert all(config.lr * (1 + 1e-12) >= rate >= config.lr * config.min_lr_ratio * (1 - 1e-12) for rate in decaying)
    if decaying:
        assert rates[-1] == pytest.approx(config.lr * config.min_lr_ratio, rel=1e-12, abs=1e-18)
        # Continuous: no two steps lie further apart than even strides from end to end.
        stride = config.lr * (1 - config.min_lr_ratio) / len(decaying)
        assert all(before - after <= stride * (1 + 1e-6) + 1e-12 for before, after in pairwise([config.lr, *decaying]))


@hypothesis_settings(deadline=None)
@given(wsd_configs(), st.integers(0, 1000))
def test_more_steps_change_no_rate_before_the_decay(config: TrainConfig, more: int) -> None:
    longer = config.model_copy(update={"steps": config.steps + more})
    start, later = decay_start(config), decay_start(longer)
    assert start is not None
    assert later is not None
    assert later >= start
    for step in range(min(start, config.steps)):
        assert learning_rate(step, config) == learning_rate(step, longer)


def test_wsd_by_default_decays_over_the_last_tenth() -> None:
    config = TrainConfig(steps=200, warmup_steps=10, lr=1.0, schedule="wsd", min_lr_ratio=0.1)
    assert decay_start(config) == 180
    assert [learning_rate(step, config) for step in (9, 10, 179)] == [1.0, 1.0, 1.0]
    assert learning_rate(189, config) == pytest.approx(0.55)  # half way down
    assert learning_rate(199, config) == pytest.approx(0.1)
    assert decay_start(config.model_copy(update={"schedule": "cosine"})) is None


@hypothesis_settings(deadline=None)
@given(st.sampled_from(["cosine", "wsd", "constant"]), wsd_configs(), st.integers(0, 500))
def test_the_rate_follows_from_step_and_configuration_alone(schedule: str, config: TrainConfig, step: int) -> None:
    config = config.model_copy(update={"schedule": schedule})
    rate = learning_rate(step, config)
    learning_rate(step + 1, config)
    assert learning_rate(step, config) == rate
    assert 0 <= rate <= config.lr * (1 + 1e-12)


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
