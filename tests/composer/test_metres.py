"""Metres and their patterns."""

from __future__ import annotations

import pytest

from ssmttm.composer.genres import DRUM_KEYS, GENRES, read_pattern
from ssmttm.composer.metres import METERS, PATTERNS


def test_bars_are_as_long_as_their_beats() -> None:
    assert {name: (meter.steps, meter.value) for name, meter in METERS.items()} == {
        "2/4": (8, 2), "3/4": (12, 3), "4/4": (16, 4), "5/4": (20, 5), "6/8": (12, "6/8"), "7/4": (28, 7),
    }  # fmt: skip
    assert METERS["6/8"].bar_s(60) == 2.0
    assert METERS["3/4"].bar_s(60) == 3.0
    assert all(meter.split % meter.beat_steps == 0 and 0 < meter.split < meter.steps for meter in METERS.values())


@pytest.mark.parametrize("genre", GENRES)
def test_patterns_fill_their_bars(genre: str) -> None:
    """Melody, chords and bass to the last step, each with something to play; drums not beyond it."""
    for name, patterns in PATTERNS[genre].items():
        steps = METERS[name].steps
        assert len(patterns.chords) == len(GENRES[genre].chords)
        for pattern in (*patterns.melody, *patterns.bass, *(one for layer in patterns.chords for one in layer)):
            assert len(pattern) == steps, (name, pattern)
            assert read_pattern(pattern), (name, pattern)
            assert set(pattern) <= set(".-xX01235678a"), (name, pattern)
        for groove in (*patterns.grooves, *patterns.fills):
            assert set(groove) <= set(DRUM_KEYS)
            assert all(len(hits) <= steps and set(hits) <= set(".xXo") for hits in groove.values()), (name, groove)
        assert any(patterns.grooves) == bool(GENRES[genre].drums)
