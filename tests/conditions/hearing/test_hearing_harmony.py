"""Chords and keys are named where they are clear, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from heard_music import RATE, tones

from ssmttm.conditions.hearing.beats import Beats
from ssmttm.conditions.hearing.harmony import chords, scale
from ssmttm.conditions.hearing.sound import Sound

TRIADS = {"C": (48, 60, 64, 67), "Am": (45, 57, 60, 64), "F": (41, 57, 60, 65), "G": (43, 59, 62, 67)}
EVERY_HALF = Beats(np.arange(0, 8.1, 0.5), 1.0)


def sound_of(names: list[str], semitones: float = 0.0) -> Sound:
    times = np.arange(len(names)) * 2.0
    pitches = [[pitch + semitones for pitch in TRIADS[name]] for name in names]
    return Sound(tones(times, pitches, 2.0 * len(names)).astype(np.float32), RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("off", [0.0, 0.35])
@pytest.mark.parametrize("beats", [EVERY_HALF, Beats(np.zeros(0), 0.0)])
def test_triads_are_named_from_where_they_begin_in_any_tuning(beats: Beats, off: float) -> None:
    told = chords(sound_of(["C", "Am", "F", "G"], off), beats)
    assert told is not None
    assert [name for _, name in told] == ["C", "Am", "F", "G"]
    np.testing.assert_allclose([start for start, _ in told], [0, 2, 4, 6], atol=0.5)


@pytest.mark.parametrize("kind", ["noise", "all twelve", "silence"])
def test_what_is_no_triad_is_not_named(kind: str) -> None:
    noise = np.random.default_rng(0).normal(size=4 * RATE) * 0.1
    sounds = {"noise": noise, "all twelve": tones([0.0], [tuple(range(60, 72))], 4.0), "silence": np.zeros(4 * RATE)}
    told = chords(Sound(sounds[kind].astype(np.float32), RATE), Beats(np.zeros(0), 0.0))
    assert {name for _, name in told or []} <= {None, "N"}


def test_a_key_is_named_from_its_chords() -> None:
    assert scale(sound_of(["C", "F", "G", "C"])) == "C major"


def test_relative_keys_that_sound_alike_are_a_pair() -> None:
    assert scale(sound_of(["Am", "F", "C", "G"])) in ("C major/A minor", "C major", "A minor")
    chromatic = Sound(tones([0.0], [tuple(range(60, 72))], 4.0).astype(np.float32), RATE)
    assert scale(chromatic) is None
