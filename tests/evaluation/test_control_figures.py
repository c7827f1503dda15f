"""Each control's figure is high where music does what was asked, and low where something else was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from heard_music import RATE, clicks, tones

from ssmttm.conditions.hearing.sound import Sound
from ssmttm.conditions.registry import CONDITIONERS, control_of
from ssmttm.conditions.timeline import ScoreControl, middles
from ssmttm.evaluation import controls

SECONDS, BPM = 12.0, 120.0
BEATS = np.arange(0.25, SECONDS - 0.1, 60 / BPM)
TRIADS = {"Am": (45, 57, 60, 64), "F": (41, 57, 60, 65), "C": (48, 60, 64, 67), "G": (43, 59, 62, 67)}
CHORDS = [[0.25 + 2 * bar, ("Am", "F", "C", "G")[bar % 4]] for bar in range(6)]
LINE = [[0.25 + n, 0.9, (72, 76, 74, 79)[n % 4]] for n in range(11)]


@pytest.fixture(scope="module")
def piece() -> Sound:
    """Four beats to the bar, a chord a bar from a quarter of a second on, with strokes on the beats."""
    times = [start for start, _ in CHORDS]
    harmony = tones(times, [TRIADS[name] for _, name in CHORDS], SECONDS)
    line = sum(
        tones([start], [[pitch]], SECONDS) * (np.arange(round(SECONDS * RATE)) < (start + length) * RATE)
        for start, length, pitch in LINE
    )
    strokes = clicks(BEATS, SECONDS, 60.0) + clicks(BEATS, SECONDS, 6000.0)
    return Sound((0.7 * harmony + 1.5 * line + strokes).astype(np.float32), RATE)


@pytest.mark.parametrize(
    ("figure", "asked", "others"),
    [
        ("asked_tempo", [[0.25, {"bpm": 120.5}]], [[[0.25, {"bpm": 123}]], {"bpm": 90}]),
        ("asked_beats", [[0.25, {"bpm": 120}]], [[[0.375, {"bpm": 120}]], [[0.25, {"bpm": 107}]]]),
        (
            "asked_downbeats",
            [[0.25, {"bpm": 120, "meter": 4}]],
            [[[0.75, {"bpm": 120, "meter": 4}]], [[0.25, {"bpm": 120, "meter": 4, "beat": 2}]]],
        ),
        ("asked_chords", CHORDS, [[[0, "E"]], [[start, f"{name[0]}#"] for start, name in CHORDS]]),
        ("asked_key", "A minor", ["C minor", "F# major"]),
        ("asked_drums", True, [False]),
        ("asked_bass", True, [False]),
        ("asked_melody", LINE, [[[start, length, pitch + 1] for start, length, pitch in LINE]]),
    ],
)
def test_what_is_as_asked_scores_high_and_another_low(
    piece: Sound, figure: str, asked: Any, others: Sequence[Any]
) -> None:
    (measure,) = [measure for figures in controls.FIGURES.values() for name, _, measure in figures if name == figure]
    assert measure(piece, asked) >= 0.8
    for other in others:
        assert measure(piece, other) <= 0.3


def test_silence_and_noise_have_neither_drums_nor_bass() -> None:
    noise = np.random.default_rng(0).normal(size=6 * RATE).astype(np.float32) * 0.05
    steady = Sound(tones([0.0], [(72, 76, 79)], 6.0).astype(np.float32), RATE)
    for sound in (Sound(noise, RATE), steady):
        assert controls.drums(sound, False) == 1
        assert controls.bass(sound, False) == 1


def test_ranks_are_correlated_over_the_clips_of_a_set() -> None:
    slow, fast = (
        Sound(clicks(np.arange(0.1, 8, step), 8.0, hertz).astype(np.float32), RATE)
        for step, hertz in ((1.0, 200.0), (0.12, 6000.0))
    )
    for measure in (controls.density, controls.brightness):
        right = [measure(slow, 0.1), measure(fast, 0.9)]
        wrong = [measure(slow, 0.9), measure(fast, 0.1)]
        assert controls.over_clips(right) > 0.8
        assert controls.over_clips(wrong) < -0.8


def test_what_was_not_asked_is_not_counted(piece: Sound) -> None:
    assert np.isnan(controls.tempo(piece, [[20, {"bpm": 120}]]))
    assert np.isnan(controls.chord(piece, [[0, None]]))
    assert np.isnan(controls.melody(piece, []))
    assert controls.over_clips([np.nan, 1.0, 0.0]) == 0.5
    assert np.isnan(controls.over_clips([np.nan]))


def frames_of(name: str, value: Any, start_s: float = 0.0) -> np.ndarray:
    control = control_of(name)
    assert isinstance(control, ScoreControl)
    return control.at(control.read(value, name), middles(100, 25.0, start_s))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beat", {"bpm": 97.5, "meter": 3}),
        ("beat", [[0.4, {"bpm": 120, "meter": 4}], [6, None], [6.5, {"bpm": 133, "meter": "6/8", "beat": 2}]]),
        ("chord", [[0, "Am"], [4, "F"], [6.2, None], [7, "G"]]),
        ("drums", True),
        ("melody", [[1, 3.5, 60], [5.1, 1, 64], [7.9, 1, 65]]),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 2.313, 5.013, 6.113])
def test_controls_of_a_part_of_a_piece_say_what_the_piece_says_there(name: str, value: Any, start_s: float) -> None:
    here, there = frames_of(name, controls.shifted(name, value, start_s)), frames_of(name, value, start_s)
    asked = np.isfinite(here).all(axis=0)
    assert not (asked & np.isnan(there).any(axis=0)).any()
    assert np.isfinite(there).all(axis=0).sum() - asked.sum() <= 25  # up to the next beat nothing is asked
    settled = asked.copy()
    if name in ("beat", "melody"):  # bumps of what lies before the part, and onsets that it cuts
        settled[:6] = settled[np.argmax(asked) : np.argmax(asked) + 6] = False
    np.testing.assert_allclose(here[:36, settled], there[:36, settled], atol=1e-6)


def test_every_control_has_a_figure() -> None:
    assert set(controls.FIGURES) == set(CONDITIONERS) - {"text"}
