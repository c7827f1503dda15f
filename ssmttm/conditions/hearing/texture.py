"""How dense and how bright music is, as ranks among music: 0 below all of it, 1 above.

T fine frames, Q quantiles.
"""

from __future__ import annotations

import numpy as np

from ssmttm.audio import hz_to_mel, mel_to_hz
from ssmttm.conditions.hearing.beats import onset_envelope
from ssmttm.conditions.hearing.sound import FINE_RATE, NUM_MELS, RATE, Sound

STEP_S = 0.25  # of timelines
ONSET_HEIGHT = 0.12  # nats of rise, mean over the bands
# Every twentieth of 10 s segments of recorded music (soundtracks of free games) and composed music, half of each;
# `tests/benchmarks/hearing.py` takes them anew.
DENSITY = (
    0.0,
    0.0,
    0.667,
    1.0,
    1.667,
    2.333,
    2.789,
    3.333,
    3.6,
    3.75,
    4.0,
    4.333,
    4.667,
    5.0,
    5.294,
    5.333,
    5.667,
    6.087,
    6.667,
    7.333,
    13.907,
)
BRIGHTNESS = (
    7.006,
    8.075,
    8.295,
    8.423,
    8.528,
    8.615,
    8.701,
    8.785,
    8.867,
    8.945,
    9.03,
    9.111,
    9.177,
    9.24,
    9.299,
    9.364,
    9.437,
    9.527,
    9.622,
    9.74,
    11.035,
)
DENSITY_S, BRIGHTNESS_S = 3.0, 1.0  # standard width of what is averaged


def _smoothed(values_T: np.ndarray, seconds: float) -> np.ndarray:
    """A running mean; shorter at the ends."""
    width = min(max(round(seconds * FINE_RATE), 1), len(values_T))
    ones = np.ones(width)
    return np.convolve(values_T, ones, "same") / np.convolve(np.ones(len(values_T)), ones, "same")


def onsets_per_second(sound: Sound) -> np.ndarray:
    """Onsets around each fine frame [T]: peaks of the envelope that stand clear of the slow trend."""
    envelope = onset_envelope(sound.log_mel, FINE_RATE)
    peaks = np.zeros(len(envelope))
    middle = envelope[1:-1]
    peaks[1:-1] = (middle > envelope[:-2]) & (middle >= envelope[2:]) & (middle > ONSET_HEIGHT)
    return FINE_RATE * _smoothed(peaks, DENSITY_S)


def centroid(sound: Sound) -> np.ndarray:
    """Spectral centroid around each fine frame [T], in octaves over 1 Hz; of frames, loud ones count more."""
    centres = mel_to_hz(np.linspace(hz_to_mel(0.0), hz_to_mel(RATE / 2), NUM_MELS + 2)[1:-1])
    amplitude_TM = np.exp(sound.log_mel)
    total, weighted = amplitude_TM.sum(axis=1), amplitude_TM @ np.log2(centres)
    return _smoothed(weighted, BRIGHTNESS_S) / _smoothed(total, BRIGHTNESS_S)


def _ranks(values_T: np.ndarray, quantiles: tuple[float, ...]) -> list[list[float]]:
    """A timeline of ranks."""
    ranks_T = np.interp(values_T, quantiles, np.linspace(0, 1, len(quantiles)))
    step = round(STEP_S * FINE_RATE)
    return [[place / FINE_RATE, round(float(ranks_T[place]), 3)] for place in range(0, len(ranks_T), step)]


def density(sound: Sound) -> list[list[float]]:
    """A timeline of how much happens, by rank among the music that `DENSITY` was taken from."""
    return _ranks(onsets_per_second(sound), DENSITY)


def brightness(sound: Sound) -> list[list[float]]:
    """A timeline of how bright it is, by rank among the music that `BRIGHTNESS` was taken from."""
    return _ranks(centroid(sound), BRIGHTNESS)
