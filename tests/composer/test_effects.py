"""Effects: what each of them changes, and what not."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from ssmttm.composer import effects
from ssmttm.composer.genres import GENRES

RATE = 24_000


@pytest.fixture
def tone() -> np.ndarray:
    """Two seconds of 440 Hz, the second one loud."""
    time = np.arange(2 * RATE) / RATE
    return (np.where(time < 1, 0.05, 0.5) * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def test_drive_adds_overtones_and_keeps_the_level(tone: np.ndarray) -> None:
    driven = effects.drive(tone, 2.0)
    assert effects.sounding_level(driven) == pytest.approx(effects.sounding_level(tone), rel=1e-4)
    third = [np.abs(np.fft.rfft(one))[1320 * 2] for one in (tone, driven)]
    assert third[1] > 20 * third[0]


def test_echo_repeats(tone: np.ndarray) -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 1.0
    heard = effects.echo(click, 0.5, 1000)
    assert np.flatnonzero(heard).tolist() == [100, 1100, 2100, 3100]
    np.testing.assert_allclose(heard[[100, 1100, 2100, 3100]], [1, 0.5, 0.25, 0.125])
    assert effects.echo(click, 0.5, RATE).tolist() == click.tolist()


def test_chorus_widens_a_line(tone: np.ndarray) -> None:
    wide = effects.chorus(tone[RATE:], 0.7, RATE)
    power = [np.abs(np.fft.rfft(one * np.hanning(len(one)))) ** 2 for one in (tone[RATE:], wide)]
    beside = [one[[*range(425, 437), *range(444, 456)]].sum() / one.sum() for one in power]
    assert beside[1] > 10 * beside[0]


def test_compression_brings_loud_and_soft_together(tone: np.ndarray) -> None:
    heard = effects.compress(tone, 4.0)

    def contrast(samples: np.ndarray) -> float:
        """Decibels from the soft second to the loud one."""
        soft, loud = (samples[at : at + RATE // 2].std() for at in (RATE // 4, RATE * 3 // 2))
        return float(20 * np.log10(loud / soft))

    assert contrast(tone) == pytest.approx(20, abs=0.1)
    assert 17 < contrast(heard) < 18.5  # of the 3 dB above the threshold go 2.25
    assert len(effects.compress(tone[:100], 4.0)) == 100


def test_the_limiter_touches_peaks_alone(tone: np.ndarray) -> None:
    heard = effects.limit(tone, 0.25)
    assert np.abs(heard).max() <= 0.25
    np.testing.assert_array_equal(heard[: RATE * 9 // 10], tone[: RATE * 9 // 10])
    np.testing.assert_array_equal(effects.limit(tone, 0.6), tone)


def test_effects_are_those_of_the_genre() -> None:
    drawn = {name: [effects.draw_effects(Random(i), genre, 0.5) for i in range(40)] for name, genre in GENRES.items()}
    assert not any(one.drive or one.echo or one.chorus for one in drawn["classical"])
    assert any(one.drive for one in drawn["rock"])
    assert any(one.echo for one in drawn["ambient"])
    assert drawn["rock"][3] == effects.draw_effects(Random(3), GENRES["rock"], 0.5)
