"""Beats and bars by frame: phases, and a bump where a frame lies on a sixteenth, of whichever bar, beat or grid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.beat import BUMP_S, IN_BAR, IN_BEAT, METRES, Beat
from ssmttm.conditions.timeline import middles
from ssmttm.errors import UserError

RATE = 25.0
BEAT = slice(4, 4 + IN_BEAT)
BAR = slice(4 + IN_BEAT, 4 + IN_BEAT + IN_BAR)
METRE = slice(4 + IN_BEAT + IN_BAR, None)
SIXTEENTHS = {**{n: (4, 4 * n) for n in range(2, 8)}, "6/8": (6, 12), None: (4, 0)}  # in a beat, in a bar

metres = st.sampled_from([*METRES, None])
tempi = st.floats(20, 400)


def beat(value: Any, frames: int = 100) -> np.ndarray:
    return Beat().encode(value, frames, RATE)


@settings(max_examples=40)
@given(tempi, metres, st.integers(1, 4))
def test_bumps_stand_at_the_sixteenths_of_beat_and_bar(bpm: float, metre: Any, number: int) -> None:
    """Against every place counted out: the bump of each frame is that of the nearest occurrence."""
    in_beat, in_bar = SIXTEENTHS[metre]
    number = min(number, in_bar // in_beat or 1)
    values_CT = beat({"bpm": bpm, "meter": metre, "beat": number})
    step = 60 / bpm / in_beat
    ticks = np.arange(int(5 / step) + 2)
    bumps_TN = np.exp(-0.5 * ((middles(100, RATE)[:, None] - step * ticks) / BUMP_S) ** 2)
    for channels, count, first in ((BEAT, in_beat, 0), (BAR, in_bar, (number - 1) * in_beat)):
        for place, found_T in enumerate(values_CT[channels]):
            here_N = (ticks + first) % count == place if count else np.zeros(len(ticks), bool)
            np.testing.assert_allclose(found_T, (bumps_TN * here_N).max(axis=1), atol=1e-6)


@settings(max_examples=40)
@given(tempi, metres)
def test_phases_go_round_once_a_beat_and_once_a_bar(bpm: float, metre: Any) -> None:
    values_CT = beat({"bpm": bpm, "meter": metre})
    beats_T = middles(100, RATE) * bpm / 60
    np.testing.assert_allclose(values_CT[0] + 1j * values_CT[1], 1j * np.exp(-2j * np.pi * beats_T), atol=1e-6)
    in_beat, in_bar = SIXTEENTHS[metre]
    bars = 1j * np.exp(-2j * np.pi * beats_T * in_beat / in_bar) if in_bar else 0
    np.testing.assert_allclose(values_CT[2] + 1j * values_CT[3], bars + np.zeros(100), atol=1e-6)
    assert (values_CT[METRE] == [[metre == one] for one in METRES]).all()


def test_without_a_metre_nothing_is_said_of_bars() -> None:
    values_CT = beat({"bpm": 96.5})
    assert not values_CT[2:4].any()
    assert not values_CT[BAR].any()
    assert not values_CT[METRE].any()
    assert values_CT[BEAT].max() > 0.9


@settings(max_examples=40)
@given(st.integers(0, 400))
def test_an_excerpt_says_what_the_whole_track_says_there(first: int) -> None:
    """Wherever it begins: the grid goes on from where the track has it."""
    score = {"beat": [[0.31, {"bpm": 96.5, "meter": 4}], [7.77, {"bpm": 141.3, "meter": 3}], [14.0, None]]}

    def measured(start_s: float, frames: int) -> np.ndarray:
        values = Beat().measure(Excerpt({"score": score}, np.zeros((1, 8)), 24_000, start_s, frames, RATE))
        assert values is not None
        return values

    np.testing.assert_allclose(
        measured(first / RATE, 60), measured(0.0, 460)[:, first : first + 60], atol=1e-6, equal_nan=True
    )


def test_no_bump_ends_where_a_grid_does() -> None:
    """The frame before a new grid lies near its first beat, and the one after it near the last sixteenth before it."""
    values_CT = beat([[0.0, {"bpm": 120, "meter": 4}], [1.0 + 0.005, {"bpm": 90, "meter": 4}]])
    near = np.exp(-0.5 * (np.array([0.025, 0.015]) / BUMP_S) ** 2)
    np.testing.assert_allclose(values_CT[BAR][0, 24:26], near, atol=1e-6)
    np.testing.assert_allclose(values_CT[BAR][7, 24], np.exp(-0.5 * ((0.98 - 0.875) / BUMP_S) ** 2), atol=1e-6)
    assert values_CT[BAR][8, :40].max() < 1e-3  # where the old grid would go on is the first beat of the new one


def test_beats_of_which_each_has_its_own_length() -> None:
    times = [0.5, 1.02, 1.49, 2.01, 2.5]
    steps = zip(times, times[1:], [1, 2, 3, 4], strict=False)
    values_CT = beat([[one, {"bpm": 60 / (other - one), "meter": 4, "beat": n}] for one, other, n in steps])
    assert np.isnan(values_CT[:, :12]).all()
    for time, place in zip(times, (0, 4, 8, 12, 0), strict=True):
        frame = int(time * RATE)
        assert values_CT[BAR][place, frame] == pytest.approx(
            np.exp(-0.5 * ((middles(100, RATE)[frame] - time) / BUMP_S) ** 2)
        )


def test_what_is_stored_is_what_was_asked() -> None:
    """Shards hold sixteen bits of a number."""
    values_CT = beat({"bpm": 96.53, "meter": 7}, 15_000)
    assert np.abs(values_CT - values_CT.astype(np.float16)).max() < 3e-4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (120, r'controls\.beat is 120; give {"bpm": 20 to 400, "meter": 2 to 7 or "6/8"}'),
        ({"meter": 4}, r"controls\.beat is {'meter': 4}; give {\"bpm\""),
        ({"bpm": 120, "metre": 4}, r"controls\.beat is .*; give {\"bpm\""),
        ({"bpm": 19}, r"controls\.beat\.bpm is 19; give a number from 20 to 400"),
        ({"bpm": "120"}, r"controls\.beat\.bpm is '120'"),
        ({"bpm": 120, "meter": 8}, r"controls\.beat\.meter is 8; give 2 to 7, \"6/8\" or null"),
        ({"bpm": 120, "meter": "3/4"}, r"controls\.beat\.meter is '3/4'"),
        ({"bpm": 120, "meter": [4]}, r"controls\.beat\.meter is \[4\]"),
        ({"bpm": 120, "meter": 3, "beat": 4}, r"controls\.beat\.beat is 4; give the number of a beat .* from 1 to 3"),
        ({"bpm": 120, "beat": 2}, r"from 1 to 1"),
        ([[0, {"bpm": 120}], [4, {"bpm": 401}]], r"controls\.beat\[1\]\.bpm is 401"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        beat(value)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bpm", "meter", "beat"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_json_value_is_taken_or_refused(value: Any) -> None:
    try:
        values_CT = beat(json.loads(json.dumps(value)), 5)
    except UserError:
        return
    assert values_CT.shape == (Beat.channels, 5)
