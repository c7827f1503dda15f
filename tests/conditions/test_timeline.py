"""Timelines: what a request's JSON value may be, which frames take which of its values, and how scores are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.timeline import MAXIMUM_ENTRIES, Timeline, TimelineControl, middles, number
from ssmttm.errors import UserError

RATE = 25.0


class Level(TimelineControl[float]):
    """A number by frame, for these tests; where nothing is written it is heard as 9."""

    name, channels, form = "level", 1, "a number from 0 to 5"

    def value(self, given: Any, field: str) -> float:
        return number(given, 0, 5, field)

    def values(self, value: float) -> Sequence[float]:
        return [value]

    def hear(self, excerpt: Excerpt) -> np.ndarray | None:
        return np.full((1, excerpt.frames), 9.0)


def excerpt(score: dict[str, Any] | None, start_s: float = 0.0, frames: int = 50) -> Excerpt:
    metadata = {"tags": {}} if score is None else {"tags": {}, "score": score}
    return Excerpt(metadata, np.zeros((1, 8)), 24_000, start_s, frames, RATE)


def level(value: Any, frames: int = 50) -> list[float | None]:
    return [None if np.isnan(one) else float(one) for one in Level().encode(value, frames, RATE)[0]]


def test_one_value_holds_for_the_whole_piece() -> None:
    assert level(3) == [3.0] * 50
    assert level(None) == [None] * 50


def test_each_value_holds_until_the_next_and_none_before_the_first() -> None:
    assert level([[0.4, 1], [0.8, None], [1.2, 2]]) == [None] * 10 + [1.0] * 10 + [None] * 10 + [2.0] * 20
    assert level([]) == [None] * 50


def test_a_frame_takes_the_value_at_its_middle() -> None:
    """Frame 10 covers 0.40 s to 0.44 s."""
    assert level([[0.419, 1]])[9:11] == [None, 1.0]
    assert level([[0.421, 1]])[10:12] == [None, 1.0]


@settings(max_examples=40)
@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=6, unique=True).map(sorted),
    st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=6, max_size=6),
)
def test_every_frame_has_the_last_value_that_began_before_its_middle(starts: list[float], values: list[Any]) -> None:
    told = level([[start, value] for start, value in zip(starts, values, strict=False)])
    for time, value in zip(middles(50, RATE), told, strict=True):
        begun = [value for start, value in zip(starts, values, strict=False) if start <= time]
        assert value == (begun[-1] if begun else None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, r"controls\.level is 7; give a number from 0 to 5"),
        (True, r"controls\.level is True; give a number"),
        (10**400, r"controls\.level is 10000"),
        (float("nan"), r"controls\.level is nan"),
        ("3", r"controls\.level is '3'"),
        ([3], r"controls\.level\[0\] is 3; give \[seconds, value\]"),
        ([[0, 1], [1, 2, 3]], r"controls\.level\[1\] is \[1, 2, 3\]; give \[seconds, value\]"),
        ([[0, 1], [1, 9]], r"controls\.level\[1\] is 9; give a number from 0 to 5"),
        ([[-1, 1]], r"the time of controls\.level\[0\] is -1; give a number from 0"),
        ([[float("inf"), 1]], r"the time of controls\.level\[0\] is inf"),
        ([["bar 5", 1]], r"the time of controls\.level\[0\] is 'bar 5'"),
        ([[1, 1], [1, 2]], r"the time of controls\.level\[1\] is 1, not after the one before it; sort the entries"),
        ([[0, 1]] * (MAXIMUM_ENTRIES + 1), r"controls\.level has 10001 entries; give at most 10000"),
    ],
)
def test_what_is_no_timeline_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        level(value)
    assert "\n" not in str(refused.value)


def test_what_is_long_is_not_repeated_whole() -> None:
    with pytest.raises(UserError) as refused:
        level("x" * 10**6)
    assert len(str(refused.value)) < 200


@settings(max_examples=40)
@given(st.integers(0, 100))
def test_a_score_moves_with_the_excerpt(first: int) -> None:
    """Whatever frame an excerpt begins at, it says what the whole track says there."""
    score = {"level": [[0.3, 1], [1.7, None], [2.0, 4]]}
    (whole_T,) = Level().measure(excerpt(score, frames=150))
    (part_T,) = Level().measure(excerpt(score, start_s=first / RATE))
    np.testing.assert_array_equal(part_T, whole_T[first : first + 50])


def test_where_the_score_does_not_name_it_it_is_heard() -> None:
    for nothing in (None, {}, {"other": 1}):
        assert (Level().measure(excerpt(nothing)) == 9).all()


def test_nothing_is_made_up_where_the_score_says_that_it_is_not_known() -> None:
    assert np.isnan(Level().measure(excerpt({"level": None}))).all()
    assert np.isnan(Level().measure(excerpt({"level": [[1, 2]]}))[0, :25]).all()


def test_a_score_that_makes_no_sense_is_refused_under_its_own_name() -> None:
    with pytest.raises(UserError, match=r"score\.level is 7; give a number from 0 to 5"):
        Level().measure(excerpt({"level": 7}))


def test_entries_that_no_frame_asks_for_are_read_all_the_same() -> None:
    timeline = Timeline.read([[0, 1], [0.001, 2]], lambda value, field: value, "x")
    assert timeline.frames(1, lambda value: [value], np.array([0.02])).tolist() == [[2]]
