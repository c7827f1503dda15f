"""What can be measured on a clip without any model's weights: level, spectrum, movement, repetition.

None of these is better when higher or lower: they are read beside the same figures of real clips. N samples, T frames,
M mel bands.
"""

from __future__ import annotations

import math

import numpy as np

from ssmttm.audio import Audio, hz_to_mel, mel_to_hz
from ssmttm.evaluation.embeddings import ANALYSIS_RATE, NUM_MELS, ONSET_RATE, averaged
from ssmttm.evaluation.music import onset_envelope

FULL_SCALE = 0.999
SILENT_DB = -60.0
BLOCK_S = 0.1
GATING_S = 0.4  # the block of ITU-R BS.1770, below which a clip has no loudness
REPEAT_FRAMES = 10  # of 10 ms: fine enough to find a beat again, coarse enough for small shifts
SHORTEST_LOOP_S = 1.0
STEADY = 1e-4  # mean square of a level's movement, in nats, below which nothing moves
ONSET_HEIGHT = 2.0  # standard deviations of the onset envelope

NAMES = {
    "loudness": "loudness, LUFS (ITU-R BS.1770)",
    "level_range": "level range, dB (95th less 10th percentile of 0.1 s blocks)",
    "clipped": "share of samples at full scale",
    "silent": "share of 0.1 s blocks below -60 dBFS",
    "centroid": "spectral centroid, Hz",
    "rolloff": "frequency below which 95 % of the mel amplitude lies, Hz",
    "flatness": "spectral flatness (0 tone, 1 noise)",
    "onsets": "onsets per second",
    "repetition": "repetition index (1: a loop)",
}


def loudness(audio: Audio) -> float:
    """Integrated loudness in LUFS; NaN for silence and for clips shorter than one gating block."""
    import pyloudnorm

    if audio.seconds <= GATING_S:
        return math.nan
    measured = float(pyloudnorm.Meter(audio.sample_rate).integrated_loudness(audio.samples.T))
    return measured if math.isfinite(measured) else math.nan


def _block_levels(wav_N: np.ndarray, sample_rate: int) -> np.ndarray:
    size = max(round(BLOCK_S * sample_rate), 1)
    blocks = max(len(wav_N) // size, 1)
    power = np.square(wav_N[: blocks * size], dtype=np.float64).reshape(blocks, -1).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1e-12))


def repetition(log_mel_TM: np.ndarray) -> float:
    """How well the clip matches itself, shifted: the highest correlation of its spectra, less their mean over time,
    with those a lag of one second to half the clip later. 1 is an exact loop, 0 never the same twice; NaN for clips
    below two seconds and for those that never change."""
    frames = averaged(log_mel_TM, REPEAT_FRAMES)[1:-1]  # a tone's start and end are no movement
    moving = frames - frames.mean(axis=0) if len(frames) else frames
    first = round(SHORTEST_LOOP_S * ONSET_RATE / REPEAT_FRAMES)
    lags = range(first, len(frames) // 2 + 1)
    if not lags or np.square(moving).mean() < STEADY:
        return math.nan

    def match(lag: int) -> float:
        early, late = moving[:-lag], moving[lag:]
        scale = math.sqrt(np.square(early).sum() * np.square(late).sum())
        return float((early * late).sum() / scale) if scale else 0.0

    return max(match(lag) for lag in lags)


def _centres() -> np.ndarray:
    return mel_to_hz(np.linspace(hz_to_mel(0.0), hz_to_mel(ANALYSIS_RATE / 2), NUM_MELS + 2)[1:-1])


def _onsets(log_mel_TM: np.ndarray) -> float:
    envelope = onset_envelope(log_mel_TM)
    middle = envelope[1:-1]
    high = middle > envelope.mean() + ONSET_HEIGHT * envelope.std()
    peaks = (middle > envelope[:-2]) & (middle >= envelope[2:]) & high
    return float(peaks.sum() / (len(envelope) / ONSET_RATE))


def measure(audio: Audio, log_mel_TM: np.ndarray) -> dict[str, float]:
    """The figures of `NAMES` for a clip and its log-mel frames (`embeddings.log_mel`); NaN where one has no meaning."""
    mono_N = audio.samples.mean(axis=0)
    levels = _block_levels(mono_N, audio.sample_rate)
    low, high = np.percentile(levels, (10, 95))
    spectrum = np.exp(log_mel_TM).mean(axis=0)
    spectrum_sum = np.cumsum(spectrum)
    centres = _centres()
    return {
        "loudness": loudness(audio),
        "level_range": float(high - low),
        "clipped": float((np.abs(audio.samples) >= FULL_SCALE).mean()),
        "silent": float((levels < SILENT_DB).mean()),
        "centroid": float(centres @ spectrum / spectrum.sum()),
        "rolloff": float(centres[np.searchsorted(spectrum_sum, 0.95 * spectrum_sum[-1])]),
        "flatness": float(np.exp(np.log(spectrum).mean()) / spectrum.mean()),
        "onsets": _onsets(log_mel_TM),
        "repetition": repetition(log_mel_TM),
    }
