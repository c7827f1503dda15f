"""The melody by frame: of the notes that sound the highest, where notes begin, and where none sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.beat import BUMP_S
from ssmttm.conditions.melody import Melody
from ssmttm.conditions.timeline import middles
from ssmttm.errors import UserError

RATE, FRAMES = 25.0, 60
seconds = st.integers(0, 40).map(lambda place: place / 20)
# No note begins or ends in the middle of a frame, where rounding would decide.
notes = st.lists(st.tuples(seconds.map(lambda time: time + 0.003), seconds, st.integers(0, 127)).map(list), max_size=12)


def melody(value: Any, frames: int = FRAMES) -> np.ndarray:
    return Melody().encode(value, frames, RATE)


@settings(max_examples=40)
@given(notes)
def test_each_frame_says_what_the_highest_note_is(value: list[Any]) -> None:
    values_CT = melody(value)
    last = max((start + length for start, length, _ in value), default=0)
    for time, values_C in zip(middles(FRAMES, RATE), values_CT.T, strict=True):
        sounding = [pitch for start, length, pitch in value if start <= time < start + length]
        if time >= last:
            assert np.isnan(values_C).all()
        elif not sounding:
            assert values_C[-1] == 1
            assert not values_C[:19].any()
        else:
            highest, octave = max(sounding), min(max(max(sounding) // 12 - 1, 1), 7)
            assert np.flatnonzero(values_C[:19]).tolist() == [highest % 12, 12 + octave - 1]
            assert values_C[-1] == 0


@settings(max_examples=40)
@given(notes)
def test_bumps_stand_where_notes_begin_that_are_the_highest_then(value: list[Any]) -> None:
    onsets = [
        start
        for start, length, pitch in value
        if length and all(pitch >= other for at, long, other in value if at <= start < at + long)
    ]
    values_CT = melody(value)
    for time, bump in zip(middles(FRAMES, RATE), values_CT[-2], strict=True):
        nearest = min((abs(time - onset) for onset in onsets), default=np.inf)
        assert np.isnan(bump) or bump == pytest.approx(np.exp(-0.5 * (nearest / BUMP_S) ** 2), abs=1e-6)


def test_middle_c() -> None:
    assert np.flatnonzero(melody([[0, 1, 60]])[:19, 0]).tolist() == [0, 12 + 3]


def test_no_notes_ask_for_nothing() -> None:
    assert np.isnan(melody([])).all()
    assert np.isnan(melody(None)).all()


@settings(max_examples=40)
@given(notes, st.integers(0, 40))
def test_an_excerpt_says_what_the_whole_track_says_there(value: list[Any], first: int) -> None:
    part_CT = Melody().measure(Excerpt({"score": {"melody": value}}, np.zeros((1, 8)), 24_000, first / RATE, 20, RATE))
    assert part_CT is not None
    np.testing.assert_allclose(part_CT, melody(value)[:, first : first + 20], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("C4", r"controls\.melody is 'C4'; give \[\[start_s, duration_s, midi_pitch\], ...\]"),
        ([[0, 60]], r"controls\.melody\[0\] is \[0, 60\]; give \[start_s, duration_s, midi_pitch\]"),
        ([[0, 1, 60], [1, -1, 60]], r"the duration of controls\.melody\[1\] is -1"),
        ([[-1, 1, 60]], r"the start of controls\.melody\[0\] is -1"),
        ([[0, float("nan"), 60]], r"the duration of controls\.melody\[0\] is nan"),
        ([[0, 1, 128]], r"the pitch of controls\.melody\[0\] is 128; give a whole number from 0 to 127"),
        ([[0, 1, 60.5]], r"the pitch of controls\.melody\[0\] is 60\.5"),
        ([[0, 1, True]], r"the pitch of controls\.melody\[0\] is True"),
        ([[0, 1, 60]] * 10_001, r"controls\.melody has 10001 entries; give at most 10000"),
    ],
)
def test_what_are_no_notes_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        melody(value)
