"""What can be measured on a clip without any model's weights: level, spectrum, movement, repetition, tempo, harmony.

None of these is better when higher or lower: they are read beside the same figures of real clips. N samples, T frames,
M mel bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ssmttm.audio import Audio, hz_to_mel, mel_to_hz
from ssmttm.conditions.hearing.beats import onset_envelope
from ssmttm.evaluation import music
from ssmttm.evaluation.embeddings import ANALYSIS_RATE, FLOOR, NUM_MELS, ONSET_RATE, as_mono, averaged, statistics_of

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

# Bounds set between music (real and synthesised) on one side and tones, hum and noise on the other.
MOVEMENT_FRAMES = 25  # of 10 ms: within a quarter of a second, noise has averaged out and music has moved on
SILENT_RMS = 0.003
NOISE_FLATNESS = 0.55
HUM_MOVEMENT = 0.15


@dataclass(frozen=True)
class ClipAnalysis:
    """Measurements of one clip.

    Attributes:
        seconds, peak, rms: length and level of the samples.
        flatness: see `flatness`.
        movement: deviation over time of a band's level in quarter seconds, in nats, mean over audible bands; a steady
            hum or hiss has next to none.
        statistics: see `embeddings.logmel_statistics`.
        bpm: see `music.tempo`.
        chroma: see `music.chroma`.
    """

    seconds: float
    peak: float
    rms: float
    flatness: float
    movement: float
    statistics: np.ndarray
    bpm: float
    chroma: np.ndarray

    @property
    def kind(self) -> str:
        """`silence`, `noise`, `hum` or, if it is none of these, `music`."""
        if self.rms < SILENT_RMS:
            return "silence"
        if self.movement < HUM_MOVEMENT:
            return "noise" if self.flatness > NOISE_FLATNESS else "hum"
        return "music"


def _movement(log_mel_TM: np.ndarray) -> float:
    blocks = np.array_split(np.exp(log_mel_TM), max(len(log_mel_TM) // MOVEMENT_FRAMES, 1))
    levels = np.log(np.stack([block.mean(axis=0) for block in blocks]))
    levels = levels[1:-1] if len(levels) > 4 else levels  # a tone's start and end are no movement
    audible = levels[:, levels.max(axis=0) > np.log(FLOOR) + 1]
    return float(audible.std(axis=0).mean()) if audible.size else 0.0


def analyse(clip: Audio, log_mel_TM: np.ndarray) -> ClipAnalysis:
    """Measure a clip (samples [C, N] in [-1, 1]) with its log-mel frames (`embeddings.log_mel`)."""
    mono_N = as_mono(clip.samples, clip.sample_rate, clip.sample_rate)
    return ClipAnalysis(
        seconds=clip.seconds,
        peak=float(np.abs(clip.samples).max(initial=0.0)),
        rms=float(np.sqrt(np.mean(np.square(mono_N, dtype=np.float64)))) if len(mono_N) else 0.0,
        flatness=flatness(log_mel_TM),
        movement=_movement(log_mel_TM),
        statistics=statistics_of(log_mel_TM),
        bpm=music.tempo(log_mel_TM),
        chroma=music.chroma(mono_N, clip.sample_rate),
    )


def flatness(log_mel_TM: np.ndarray) -> float:
    """Geometric over arithmetic mean of the mean spectrum's bands: 0 for a tone, 1 for noise."""
    spectrum = np.exp(log_mel_TM).mean(axis=0)
    return float(np.exp(np.log(spectrum).mean()) / spectrum.mean())


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
    envelope = onset_envelope(log_mel_TM, ONSET_RATE)
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
        "flatness": flatness(log_mel_TM),
        "onsets": _onsets(log_mel_TM),
        "repetition": repetition(log_mel_TM),
    }
