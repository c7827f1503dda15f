from __future__ import annotations

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.evaluation import music
from ssmttm.evaluation.embeddings import log_mel

RATE = 24_000
MAJOR, MINOR = (0, 4, 7), (0, 3, 7)


def clicks(bpm: float, seconds: float = 10.0) -> np.ndarray:
    """A drum on each beat, a quieter one between."""
    samples, random = np.zeros(round(seconds * RATE), np.float32), np.random.default_rng(0)
    burst = random.normal(size=1200) * np.exp(-np.arange(1200) / 240)
    for step in range(int(seconds * bpm / 30) - 1):
        start = round(step * 30 / bpm * RATE)
        samples[start : start + 1200] += (0.4 if step % 2 == 0 else 0.15) * burst[: len(samples) - start]
    return samples


def chords(progression: list[tuple[int, tuple[int, ...]]], tonic: int) -> np.ndarray:
    """One second per chord (degree in semitones, intervals), with bass and three harmonics."""
    time, pieces = np.arange(RATE) / RATE, []
    for degree, intervals in progression:
        pitches = [36 + (tonic + degree) % 12, *(60 + (tonic + degree + step) % 12 for step in intervals)]
        hertz = [440 * 2 ** ((pitch - 69) / 12) for pitch in pitches]
        pieces.append(sum(np.sin(2 * np.pi * k * hz * time) / k for hz in hertz for k in (1, 2, 3)))
    return (0.05 * np.concatenate(pieces)).astype(np.float32)


@pytest.mark.parametrize("bpm", [70, 96, 120, 138, 170])
def test_tempo_of_a_steady_beat(bpm: int) -> None:
    assert music.tempo_matches(music.tempo(log_mel(clicks(bpm), RATE)), bpm, tolerance=0.02)


def test_silence_has_no_tempo() -> None:
    assert music.tempo(log_mel(np.zeros(RATE, np.float32), RATE)) == 0.0


def test_half_and_double_tempo_count() -> None:
    assert music.tempo_matches(60, 120)
    assert music.tempo_matches(129, 120)
    assert music.tempo_matches(245, 120)
    assert not music.tempo_matches(90, 120)
    assert not music.tempo_matches(0, 120)


@pytest.mark.parametrize("tonic", range(0, 12, 3))
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_key_of_a_cadence(tonic: int, mode: str) -> None:
    progressions = {
        "major": [(0, MAJOR), (5, MAJOR), (7, MAJOR), (0, MAJOR), (9, MINOR), (5, MAJOR), (7, MAJOR), (0, MAJOR)],
        "minor": [(0, MINOR), (5, MINOR), (7, MAJOR), (0, MINOR), (8, MAJOR), (5, MINOR), (7, MAJOR), (0, MINOR)],
    }
    found = music.chroma(chords(progressions[mode], tonic), RATE)
    assert found.sum() == pytest.approx(1)
    assert music.key_rank(found, music.TONICS[tonic], mode) == 0
    assert music.key_rank(found, music.TONICS[(tonic + 1) % 12], mode) > 3


def test_drums_do_not_move_the_key() -> None:
    song = chords([(0, MAJOR), (5, MAJOR), (7, MAJOR), (0, MAJOR)] * 2, tonic=2)
    song = song + clicks(120, seconds=8.0)
    assert music.key_rank(music.chroma(song, RATE), "D", "major") == 0


def test_note_names() -> None:
    assert [music.pitch_class(name) for name in ("C", "c#", "Db", "Bb", "Cb", "E##")] == [0, 1, 1, 10, 11, 6]
    assert [music.pitch_class(name) for name in music.TONICS] == list(range(12))
    for name in ("", "H", "C sharp"):
        with pytest.raises(UserError, match="not a note name"):
            music.pitch_class(name)
