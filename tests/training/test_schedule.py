from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.order import batch_shape
from ssmttm.training.schedule import decay_start, learning_rate


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


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.sampled_from(["cosine", "wsd", "constant"]), wsd_configs(), st.integers(0, 500))
def test_the_rate_follows_from_step_and_configuration_alone(schedule: str, config: TrainConfig, step: int) -> None:
    config = config.model_copy(update={"schedule": schedule})
    rate = learning_rate(step, config)
    learning_rate(step + 1, config)
    assert learning_rate(step, config) == rate
    assert 0 <= rate <= config.lr * (1 + 1e-12)


@pytest.mark.parametrize(
    ("global_batch", "micro", "world", "expected"),
    [(16, 8, 1, (8, 2)), (16, 8, 2, (8, 1)), (12, 8, 1, (6, 2)), (6, 4, 2, (3, 1)), (7, 4, 1, (1, 7))],
)
def test_batch_shape(global_batch: int, micro: int, world: int, expected: tuple[int, int]) -> None:
    assert batch_shape(TrainConfig(global_batch=global_batch, micro_batch=micro), world) == expected


def test_indivisible_batch_names_both_keys() -> None:
    with pytest.raises(UserError, match=r"train\.global_batch=5 .* train\.workers=2"):
        batch_shape(TrainConfig(global_batch=5), 2)
