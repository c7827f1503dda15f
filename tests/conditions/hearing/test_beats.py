"""Beats are heard where they are, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from heard_music import RATE, clicks, tones

from ssmttm.conditions.hearing.beats import Beats, alignment, beats_of
from ssmttm.conditions.hearing.sound import Sound


def groove(times_K: np.ndarray, seconds: float) -> np.ndarray:
    """A low stroke and a change of chord on each beat, weak strokes between."""
    roots = [(48 + 7 * (k % 2) + np.array([0, 12, 16, 19])).tolist() for k in range(len(times_K))]
    halves = (times_K[1:] + times_K[:-1]) / 2
    return (
        tones(times_K, roots, seconds) + clicks(times_K, seconds, 60.0) + 0.2 * clicks(halves, seconds, 6000.0)
    ).astype(np.float32)


@pytest.mark.parametrize("bpm", [73.4, 96.5, 128.0])
def test_even_beats_are_found_to_a_tenth_of_a_percent_and_a_hundredth_of_a_second(bpm: float) -> None:
    truth = np.arange(0.31, 11.9, 60 / bpm)
    beats = beats_of(Sound(groove(truth, 12.0), RATE))
    assert beats.known
    assert beats.bpm == pytest.approx(bpm, rel=1e-3)
    inside = beats.times_K[(beats.times_K > 0.2) & (beats.times_K < 11.8)]
    assert np.abs(inside[:, None] - truth).min(axis=1).max() < 0.01
    assert np.abs(truth[:, None] - beats.times_K).min(axis=1).max() < 0.01


def test_beats_that_slow_down_are_followed() -> None:
    spans = 0.45 * 1.012 ** np.arange(22)
    truth = 0.3 + np.concatenate([[0.0], np.cumsum(spans)])
    beats = beats_of(Sound(groove(truth, truth[-1] + 0.5), RATE))
    told = beats.timeline()
    assert told is not None
    bpms = [value["bpm"] for _, value in told]
    assert bpms[2] > 1.1 * bpms[-3]
    assert np.abs(truth[1:-1, None] - beats.times_K).min(axis=1).max() < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_what_has_no_pulse_has_no_known_beats(seed: int) -> None:
    random = np.random.default_rng(seed)
    anywhere = np.sort(random.uniform(0, 12, 30))
    for sound in (random.normal(size=12 * RATE) * 0.1, clicks(anywhere, 12.0, 500.0), np.zeros(12 * RATE)):
        assert beats_of(Sound(sound.astype(np.float32), RATE)).timeline() is None


def test_even_beats_are_one_entry_and_uneven_ones_an_entry_each() -> None:
    assert Beats(np.array([0.5, 1.0, 1.5]), 1.0).timeline() == [[0.5, {"bpm": 120.0, "meter": None}]]
    told = Beats(np.array([0.0, 0.5, 1.1]), 1.0).timeline()
    assert told is not None
    assert [[time, round(value["bpm"])] for time, value in told] == [[0.0, 120], [0.5, 100]]
    assert Beats(np.array([0.5, 1.0, 1.5]), 0.1).timeline() is None


def test_phases_go_on_evenly_at_both_ends() -> None:
    beats = Beats(np.array([1.0, 1.5, 2.5]), 1.0)
    np.testing.assert_allclose(beats.phases(np.array([0.5, 1.25, 2.0, 3.0])), [-1, 0.5, 1.5, 2.5])


def test_onsets_align_at_one_phase_and_cancel_at_two_opposite_ones() -> None:
    phases = np.arange(8) / 2
    assert alignment(np.array([1.0, 0] * 4), phases) == pytest.approx(1)
    assert alignment(np.ones(8), phases) == pytest.approx(0, abs=1e-9)
