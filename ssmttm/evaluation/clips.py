"""What one clip holds: everything the evaluation needs, so that audio is read once and never kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmttm.evaluation import music
from ssmttm.evaluation.embeddings import FLOOR, as_mono, log_mel, statistics_of
from ssmttm.evaluation.frechet import Moments

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
        flatness: spectral flatness of the mean spectrum's bands (geometric over arithmetic mean), 0 tone, 1 noise.
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


def analyse(wav: np.ndarray, sample_rate: int) -> tuple[ClipAnalysis, Moments]:
    """Measure a clip.

    Args:
        wav: samples [N] or [C, N] in [-1, 1].
        sample_rate: in Hz.

    Returns:
        The measurements, and the clip's log-mel moments for Fréchet distances.
    """
    mono = as_mono(wav, sample_rate, sample_rate)
    frames = log_mel(mono, sample_rate)
    spectrum = np.exp(frames).mean(axis=0)
    analysis = ClipAnalysis(
        seconds=len(mono) / sample_rate,
        peak=float(np.abs(wav).max(initial=0.0)),
        rms=float(np.sqrt(np.mean(np.square(mono, dtype=np.float64)))) if len(mono) else 0.0,
        flatness=float(np.exp(np.log(spectrum).mean()) / spectrum.mean()),
        movement=_movement(frames),
        statistics=statistics_of(frames),
        bpm=music.tempo(frames),
        chroma=music.chroma(mono, sample_rate),
    )
    return analysis, Moments.of_clip(frames)
