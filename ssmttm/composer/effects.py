"""What a studio does to stems and mix: drive, chorus, echo, compression, limiting. Samples are float32 [N]."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np

from ssmttm.composer.genres import Genre

BLOCK = 240  # samples: the grid on which levels are measured and gains are set


class Effects(NamedTuple):
    """drive, chorus, echo: how much, by stem. echo_s: its delay. compression: ratio above the mix's usual level."""

    drive: dict[str, float]
    chorus: dict[str, float]
    echo: dict[str, float]
    echo_s: float
    compression: float


def draw_effects(rng: Random, genre: Genre, beat_s: float) -> Effects:
    """What a piece of a genre is treated with; echoes fall on the beat's parts."""

    def some(share: float, low: float, high: float, stems: tuple[str, ...]) -> dict[str, float]:
        return {stem: rng.uniform(low, high) for stem in stems if rng.random() < share}

    return Effects(
        drive=some(genre.drive, 0.5, 3.0, ("lead", "chords", "bass")),
        chorus=some(genre.chorus, 0.3, 0.7, ("lead", "chords")),
        echo=some(genre.echo, 0.15, 0.45, ("lead", "chords")),
        echo_s=beat_s * rng.choice((0.5, 0.75, 1.0)),
        compression=rng.uniform(2.0, 5.0) if rng.random() < genre.compression else 1.0,
    )


def block_power(samples: np.ndarray) -> np.ndarray:
    """Mean power of each whole block."""
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64) / BLOCK


def sounding_level(stem: np.ndarray) -> float:
    """RMS over the louder half of the blocks in which a stem sounds at all; 0 for silence."""
    power = np.sort(block_power(stem))
    power = power[power > 1e-9]
    return float(np.sqrt(power[len(power) // 2 :].mean())) if len(power) else 0.0


def drive(stem: np.ndarray, amount: float) -> np.ndarray:
    """Soft clipping, `amount` times the stem's level at its knee; the level stays."""
    level = sounding_level(stem)
    clipped = np.tanh(stem * np.float32(amount / level))
    return clipped * np.float32(level / sounding_level(clipped))


def chorus(stem: np.ndarray, share: float, rate: int) -> np.ndarray:
    """A second voice that lags 8 to 16 ms behind, slowly swaying, so that it is never in tune."""
    places = np.arange(len(stem), dtype=np.float32)
    lag = np.float32(0.012 * rate) + np.float32(0.004 * rate) * np.sin(places * np.float32(2 * np.pi * 0.6 / rate))
    source = np.maximum(places - lag, 0)
    whole = source.astype(np.int32)
    part = source - whole
    following = np.minimum(whole + 1, len(stem) - 1)
    voice = stem[whole] * (1 - part) + stem[following] * part
    return (stem + np.float32(share) * voice) * np.float32(1 / (1 + share**2) ** 0.5)


def echo(stem: np.ndarray, share: float, delay: int) -> np.ndarray:
    """Three repeats, each softer, `delay` samples apart."""
    repeated = stem.copy()
    for count in range(1, 4):
        if count * delay < len(stem):
            repeated[count * delay :] += np.float32(share**count) * stem[: -count * delay]
    return repeated


def _spread(gains: np.ndarray, length: int) -> np.ndarray:
    """Gains of blocks, at their middles, as a gain for every sample."""
    middles = (np.arange(len(gains)) + 0.5) * BLOCK
    return np.interp(np.arange(length), middles, gains).astype(np.float32)


def compress(mix: np.ndarray, ratio: float) -> np.ndarray:
    """Turn down what is louder than the mix's usual level, quickly, and let go slowly (10 and 150 ms)."""
    threshold = 20 * np.log10(max(sounding_level(mix), 1e-6)) - 3
    levels = 10 * np.log10(np.maximum(block_power(mix), 1e-9))
    wanted = np.maximum(levels - threshold, 0) * (1 - 1 / ratio)
    reduction, held = [], 0.0
    for one in wanted.tolist():
        held += (one - held) * (0.63 if one > held else 0.065)
        reduction.append(held)
    return mix * _spread(10 ** (-np.array(reduction or [0.0]) / 20), len(mix))


def limit(mix: np.ndarray, ceiling: float) -> np.ndarray:
    """Turn down around the samples that exceed `ceiling`, so that none does."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    padded = np.pad(np.abs(mix), (0, -len(mix) % BLOCK)).reshape(-1, BLOCK)
    gains = np.minimum(1, ceiling / np.maximum(padded.max(axis=1), 1e-9))
    if gains.min() >= 1:
        return mix
    gains = uniform_filter1d(minimum_filter1d(gains, 7), 3)
    return np.clip(mix * _spread(gains, len(mix)), -ceiling, ceiling)


def apply_to_stem(stem: np.ndarray, name: str, effects: Effects, rate: int) -> np.ndarray:
    """A stem after all that it is treated with."""
    if name in effects.drive:
        stem = drive(stem, effects.drive[name])
    if name in effects.chorus:
        stem = chorus(stem, effects.chorus[name], rate)
    if name in effects.echo:
        stem = echo(stem, effects.echo[name], round(effects.echo_s * rate))
    return stem
