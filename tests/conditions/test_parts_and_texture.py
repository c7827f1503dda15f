"""Parts, density and brightness by frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.base import ControlConditioner
from ssmttm.conditions.parts import Bass, Drums
from ssmttm.conditions.texture import Brightness, Density
from ssmttm.errors import UserError

parts = pytest.mark.parametrize("control", [Drums(), Bass()], ids=lambda control: control.name)
ranks = pytest.mark.parametrize("control", [Density(), Brightness()], ids=lambda control: control.name)


@parts
def test_a_part_that_is_there_is_told_from_one_that_is_not_and_from_one_unknown(control: ControlConditioner) -> None:
    values_T = control.encode([[0.04, True], [0.12, False], [0.2, None]], 7, 25.0)[0]
    np.testing.assert_array_equal(values_T, [np.nan, 1, 1, -1, -1, np.nan, np.nan])


@parts
@pytest.mark.parametrize("value", ["off", 1, 0, "true", {}])
def test_a_part_is_there_or_not(control: ControlConditioner, value: object) -> None:
    with pytest.raises(UserError, match=rf"controls\.{control.name} is .*; give true or false"):
        control.encode(value, 5, 25.0)


@ranks
@pytest.mark.parametrize(
    ("value", "steps"),
    [(0, [1, 0, 0, 0, 0]), (0.25, [0, 1, 0, 0, 0]), (0.3, [0, 0.8, 0.2, 0, 0]), (1, [0, 0, 0, 0, 1])],
)
def test_a_rank_is_shared_by_the_steps_next_to_it(
    control: ControlConditioner, value: float, steps: list[float]
) -> None:
    np.testing.assert_allclose(control.encode(value, 1, 25.0)[:, 0], [value, *steps], atol=1e-9)


@settings(max_examples=40)
@given(st.floats(0, 1))
def test_a_linear_layer_reads_any_rank_from_the_steps_alone(value: float) -> None:
    steps = Density().encode(value, 1, 25.0)[1:, 0]
    assert steps @ np.linspace(0, 1, 5) == pytest.approx(value, abs=1e-6)
    assert sum(steps) == pytest.approx(1)


@ranks
@pytest.mark.parametrize("value", [-0.1, 1.01, "0.5", True, float("nan"), [0.5]])
def test_a_rank_lies_between_0_and_1(control: ControlConditioner, value: object) -> None:
    with pytest.raises(UserError, match=rf"controls\.{control.name}"):
        control.encode(value, 5, 25.0)
