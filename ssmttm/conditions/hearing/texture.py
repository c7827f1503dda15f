"""How dense and how bright music is, as ranks among music: 0 below all of it, 1 above.

T fine frames, Q quantiles.
"""

from __future__ import annotations

import numpy as np

from ssmttm.audio import hz_to_mel, mel_to_hz
from ssmttm.conditions.hearing.beats import onset_envelope
from ssmttm.conditions.hearing.sound import FINE_RATE, NUM_MELS, RATE, Sound

ONSET_HEIGHT = 0.12  # nats of rise, mean over the bands
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
