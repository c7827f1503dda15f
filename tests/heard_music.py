"""Sounds whose beats, chords and colours are known, for what listens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RATE = 24_000


def clicks(times: np.ndarray, seconds: float, hertz: float) -> np.ndarray:
    """Decaying strokes [N]: of noise above 1 kHz, else of a falling tone."""
    out = np.zeros(round(seconds * RATE))
    time = np.arange(round(0.08 * RATE)) / RATE
    noise = np.random.default_rng(0).normal(size=len(time))
    stroke = (noise if hertz > 1000 else np.sin(2 * np.pi * hertz * time)) * np.exp(-time / 0.02)
    for start in (np.asarray(times) * RATE).astype(int):
        part = out[max(start, 0) : start + len(stroke)]
        part += 0.4 * stroke[: len(part)]
    return out


def tones(times: Sequence[float] | np.ndarray, chords: Sequence[Sequence[int]], seconds: float) -> np.ndarray:
    """Chords of MIDI pitches [N], each from its time to the next one's, with four partials."""
    out = np.zeros(round(seconds * RATE))
    ends = [*list(times)[1:], seconds]
    for start, end, pitches in zip(times, ends, chords, strict=True):
        first, last = round(start * RATE), round(end * RATE)
        time = np.arange(last - first) / RATE
        fade = np.minimum(np.minimum(time / 0.01, (time[-1] - time) / 0.01 if len(time) else 1), 1)
        for pitch in pitches:
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            for partial in range(1, 5):
                if partial * hertz < RATE / 2:
                    out[first:last] += 0.06 / partial * fade * np.sin(2 * np.pi * partial * hertz * time)
    return out
