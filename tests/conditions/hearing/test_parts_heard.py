"""Drums and bass are heard where they play, and ranks rise with what they rank."""

from __future__ import annotations

import numpy as np
import pytest
from heard_music import RATE, clicks, tones

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.beat import Beat
from ssmttm.conditions.harmony import Scale
from ssmttm.conditions.hearing import parts, texture
from ssmttm.conditions.hearing.sound import Sound
from ssmttm.conditions.parts import Bass, Drums
from ssmttm.conditions.texture import Brightness, Density


def heard(told: list[list] | None, second: float) -> bool | None:
    values = [value for start, value in told or [] if start <= second]
    return values[-1] if values else None


def test_drums_that_enter_and_a_bass_that_leaves_are_heard_where_they_do() -> None:
    chords = tones([0.0], [(64, 67, 72)], 16.0)
    strokes = np.concatenate([np.zeros(8 * RATE), clicks(np.arange(0, 8, 0.25), 8.0, 6000.0)])
    bass = np.concatenate([tones([0.0], [(36,)], 8.0), np.zeros(8 * RATE)])
    sound = Sound((chords + strokes + 2 * bass).astype(np.float32), RATE)
    drums, low = parts.drums(sound), parts.bass(sound)
    assert [heard(drums, second) for second in (3, 12)] == [False, True]
    assert [heard(low, second) for second in (3, 12)] == [True, False]


def test_silence_says_nothing_of_parts() -> None:
    sound = Sound(np.zeros(4 * RATE, np.float32), RATE)
    assert parts.drums(sound) is None
    assert parts.bass(sound) is None


@pytest.mark.parametrize("rank", [texture.density, texture.brightness])
def test_ranks_lie_between_0_and_1_and_rise(rank: object) -> None:
    sounds = [
        Sound(clicks(np.arange(0.1, 6, step), 6.0, hertz).astype(np.float32), RATE)
        for step, hertz in ((1.5, 150.0), (0.1, 6000.0))
    ]
    low, high = ([value for _, value in rank(sound)] for sound in sounds)  # type: ignore[operator]
    assert 0 <= min(low) <= max(high) <= 1
    assert np.mean(high) > np.mean(low) + 0.3


@pytest.mark.parametrize("table", [texture.DENSITY, texture.BRIGHTNESS])
def test_tables_of_ranks_never_fall(table: tuple[float, ...]) -> None:
    assert len(table) == 21
    assert (np.diff(table) >= 0).all()


def excerpt_of(samples: np.ndarray, score: dict | None = None, rate: int = RATE) -> Excerpt:
    return Excerpt({"score": score or {}}, samples[None].astype(np.float32), rate, 3.0, 250, 25.0)


def test_a_recording_without_a_score_is_heard_and_a_score_is_believed() -> None:
    beats = np.arange(0.3, 9.9, 0.5)
    pitches = [(57, 60, 64) if k // 4 % 2 else (53, 57, 60) for k in range(len(beats))]
    strokes = clicks(beats, 10.0, 60.0) + clicks(beats, 10.0, 6000.0)
    samples = tones(beats, pitches, 10.0) + strokes
    excerpt = excerpt_of(samples)
    values_CT = Beat().measure(excerpt)
    assert values_CT is not None
    on_beat_T = np.isclose((np.arange(250) + 0.5) / 25.0 % 0.5, 0.3, atol=0.021)
    assert values_CT[4, 25:225][on_beat_T[25:225]].min() > 0.6
    drums_1T = Drums().measure(excerpt)
    assert drums_1T is not None
    assert np.nanmean(drums_1T) > 0.9
    for control in (Bass(), Scale(), Density(), Brightness()):
        found = control.measure(excerpt)
        assert found is None or found.shape == (control.channels, 250)
    assert np.isnan(Drums().measure(excerpt_of(samples, {"drums": None}))).all()  # type: ignore[arg-type]
    np.testing.assert_array_equal(Drums().measure(excerpt_of(samples, {"drums": False})), -np.ones((1, 250)))


def test_an_excerpt_is_analysed_once_for_all_controls() -> None:
    excerpt = excerpt_of(np.random.default_rng(0).normal(size=4 * RATE) * 0.1)
    assert excerpt.sound is excerpt.sound
    assert excerpt.beats is excerpt.beats
    assert excerpt.sound.log_mel is excerpt.sound.log_mel


def test_any_sample_rate_is_heard_alike() -> None:
    from ssmttm.audio import Audio, resample

    samples = tones([0.0, 2.0], [(40, 64, 67), (45, 64, 69)], 4.0).astype(np.float32)
    other = resample(Audio(samples[None], RATE), 44_100).samples[0]
    for tell in (texture.brightness, texture.density):
        here, there = (np.array(tell(Sound(*given))) for given in ((samples, RATE), (other, 44_100)))
        np.testing.assert_allclose(here, there, atol=0.05)
