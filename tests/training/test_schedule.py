from __future__ import annotations

import pytest

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.schedule import batch_shape, learning_rate


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


@pytest.mark.parametrize(
    ("global_batch", "micro", "world", "expected"),
    [(16, 8, 1, (8, 2)), (16, 8, 2, (8, 1)), (12, 8, 1, (6, 2)), (6, 4, 2, (3, 1)), (7, 4, 1, (1, 7))],
)
def test_batch_shape(global_batch: int, micro: int, world: int, expected: tuple[int, int]) -> None:
    assert batch_shape(TrainConfig(global_batch=global_batch, micro_batch=micro), world) == expected


def test_indivisible_batch_names_both_keys() -> None:
    with pytest.raises(UserError, match=r"train\.global_batch=5 .* train\.workers=2"):
        batch_shape(TrainConfig(global_batch=5), 2)
