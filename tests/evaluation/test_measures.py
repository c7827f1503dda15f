from __future__ import annotations

import numpy as np
import pytest

from ssmttm.audio import Audio
from ssmttm.evaluation import measures
from ssmttm.evaluation.embeddings import log_mel
from ssmttm.evaluation.frechet import Moments

RATE = 24_000
SECONDS = 8
TIME = np.arange(SECONDS * RATE) / RATE


def figures(wav: np.ndarray) -> dict[str, float]:
    return measures.measure(Audio(np.atleast_2d(wav).astype(np.float32), RATE), log_mel(wav, RATE))


def phrase(seed: int, seconds: float = 2.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    notes = np.repeat(random.uniform(100, 3000, round(4 * seconds)), RATE // 4)
    return 0.5 * np.sin(2 * np.pi * np.cumsum(notes) / RATE) * np.exp(-6 * (np.arange(len(notes)) % (RATE // 4)) / RATE)


def test_loudness_is_the_standards() -> None:
    """ITU-R BS.1770-4: a sine of 997 Hz at full scale in one channel reads -3.01 LUFS."""
    assert figures(np.sin(2 * np.pi * 997 * TIME))["loudness"] == pytest.approx(-3.01, abs=0.1)
    assert figures(0.1 * np.sin(2 * np.pi * 997 * TIME))["loudness"] == pytest.approx(-23.01, abs=0.1)
    assert np.isnan(figures(np.zeros(RATE))["loudness"])
    assert np.isnan(figures(np.ones(RATE // 4))["loudness"])


def test_silence_and_clipping_are_shares() -> None:
    half = np.where(SECONDS / 2 > TIME, 0.3 * np.sin(2 * np.pi * 440 * TIME), 0)
    assert figures(half)["silent"] == pytest.approx(0.5, abs=0.02)
    clipped = np.clip(2 * np.sin(2 * np.pi * 440 * TIME), -1, 1)
    assert figures(clipped)["clipped"] == pytest.approx(2 / 3, abs=0.02)  # |sin| is above a half for two thirds
    assert figures(half)["clipped"] == 0


def test_a_loop_repeats_and_noise_does_not() -> None:
    loop = np.tile(phrase(0), 4)
    through = np.concatenate([phrase(seed) for seed in range(4)])
    noise = np.random.default_rng(0).normal(size=len(TIME)) * 0.1
    assert figures(loop)["repetition"] > 0.98
    assert figures(through)["repetition"] < 0.5
    assert figures(noise)["repetition"] < 0.3
    assert np.isnan(figures(np.sin(2 * np.pi * 440 * TIME))["repetition"])
    assert np.isnan(figures(phrase(0, 1.5))["repetition"])


def test_spectrum_and_onsets() -> None:
    low, high = (figures(0.3 * np.sin(2 * np.pi * hz * TIME)) for hz in (200, 4000))
    assert low["centroid"] < 500 < 3000 < high["centroid"] < 5000
    assert low["rolloff"] < 500 < 3500 < high["rolloff"] < 5000
    noise = figures(np.random.default_rng(0).normal(size=len(TIME)) * 0.1)
    assert noise["flatness"] > 0.6 > 0.2 > low["flatness"]
    clicks = np.where(TIME % 0.5 < 0.01, np.random.default_rng(0).normal(size=len(TIME)) * 0.3, 0)
    assert figures(clicks)["onsets"] == pytest.approx(2, abs=0.3)
    assert set(low) == set(measures.NAMES)


def test_level_range() -> None:
    steps = np.where(TIME % 2 < 1, 0.5, 0.05) * np.sin(2 * np.pi * 440 * TIME)
    assert figures(steps)["level_range"] == pytest.approx(20, abs=0.5)


SHORT = np.arange(5 * RATE) / RATE


def analysed(wav: np.ndarray) -> measures.ClipAnalysis:
    return measures.analyse(Audio(np.atleast_2d(wav).astype(np.float32), RATE), log_mel(wav, RATE))


def melody() -> np.ndarray:
    notes = np.repeat(220 * 2 ** (np.array([0, 4, 7, 12, 7, 4, 0, 5, 9, 12]) / 12), RATE // 2)
    envelope = np.exp(-3 * (SHORT % 0.5))
    return (0.4 * np.sin(2 * np.pi * np.cumsum(notes) / RATE) * envelope).astype(np.float32)


SOUNDS = {
    "silence": np.zeros_like(SHORT),
    "hum": 0.3 * np.sin(2 * np.pi * 50 * SHORT) + 0.1 * np.sin(2 * np.pi * 100 * SHORT),
    "noise": np.random.default_rng(0).normal(size=len(SHORT)) * 0.1,
    "music": melody(),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_kinds_of_sound(kind: str) -> None:
    assert analysed(SOUNDS[kind]).kind == kind


def test_levels_and_length() -> None:
    wav = np.zeros((2, RATE), np.float32)
    wav[0, 100] = -0.5
    clip = analysed(wav)
    assert (clip.seconds, clip.peak) == (1.0, 0.5)
    assert clip.rms == pytest.approx(0.25 / np.sqrt(RATE))
    assert Moments.of_clip(log_mel(wav, RATE)).count == 25
