"""Tempo and key of a recording, without training: onset autocorrelation and pitch-class profiles.

N samples, T frames, M mel bands. Light enough to run on hundreds of clips (about 10 ms per 10 s clip).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ssmttm.conditions.hearing import beats
from ssmttm.conditions.hearing.harmony import PROFILES
from ssmttm.errors import UserError
from ssmttm.evaluation.embeddings import ONSET_RATE, as_mono, magnitudes

TEMPO_TOLERANCE = 0.08

CHROMA_RATE = 12_000
CHROMA_FFT = 8192  # 1.5 Hz bins: semitones are apart from 55 Hz up
CHROMA_HOP = 2048
CHROMA_RANGE = (55.0, 2100.0)  # Hz
PEAK_PROMINENCE, PEAK_WIDTH = 3.0, 41  # a partial stands this high over the mean of the 60 Hz around it; noise does not

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def tempo(log_mel_TM: np.ndarray) -> float:
    """Beats per minute of log-mel frames at `ONSET_RATE`; 0 if nothing in the clip has an onset."""
    return beats.tempo(beats.onset_envelope(log_mel_TM, ONSET_RATE), ONSET_RATE)


def tempo_matches(heard: float, asked: float, tolerance: float = TEMPO_TOLERANCE) -> bool:
    """Within `tolerance` of the tempo asked for, or of its half or double (both are fair ways to count)."""
    return any(abs(heard / (asked * factor) - 1) <= tolerance for factor in (0.5, 1.0, 2.0))


@lru_cache(maxsize=1)
def _pitch_bins() -> tuple[np.ndarray, np.ndarray]:
    frequencies = np.arange(CHROMA_FFT // 2 + 1) * CHROMA_RATE / CHROMA_FFT
    low, high = CHROMA_RANGE
    usable = (frequencies >= low) & (frequencies <= high)
    pitch = np.round(69 + 12 * np.log2(np.where(usable, frequencies, 440.0) / 440)).astype(int)
    return usable, pitch % 12


def chroma(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Strength of the twelve pitch classes, C first, float64 [12] summing to 1 (zeros for silence).

    Only spectral peaks that stand out count, in their square root: drums have none, and one loud instrument does not
    drown the harmony. With them the key of 0.98 of composed clips is found, of 0.83 without regard to prominence.

    Args:
        wav: samples [N] or [C, N].
        sample_rate: of `wav`, in Hz.
    """
    from scipy.ndimage import uniform_filter1d

    spectrum = magnitudes(as_mono(wav, sample_rate, CHROMA_RATE), CHROMA_FFT, CHROMA_HOP)
    middle = spectrum[:, 1:-1]
    floor = np.maximum(PEAK_PROMINENCE * uniform_filter1d(spectrum, PEAK_WIDTH, axis=1)[:, 1:-1], 1e-4)
    peaks = np.zeros_like(spectrum)
    is_peak = (middle > spectrum[:, :-2]) & (middle >= spectrum[:, 2:]) & (middle > floor)
    peaks[:, 1:-1] = np.where(is_peak, np.sqrt(middle), 0)
    usable, classes = _pitch_bins()
    strengths = np.bincount(classes[usable], weights=peaks.sum(axis=0)[usable], minlength=12)
    return strengths / max(float(strengths.sum()), 1e-12)


def pitch_class(name: str) -> int:
    """Number of a note name: "C" is 0, "F#" 6, "Bb" 10.

    Raises:
        UserError: if it is no note name.
    """
    letter, accidentals = name[:1].upper(), name[1:]
    if letter not in PITCH_CLASSES or accidentals.strip("#b♯♭"):
        raise UserError(f"'{name}' is not a note name; write a letter A-G and #, b or nothing")
    shift = sum(1 if sign in "#♯" else -1 for sign in accidentals)
    return (PITCH_CLASSES[letter] + shift) % 12


def key_scores(chroma_12: np.ndarray, mode: str) -> np.ndarray:
    """Correlation of a chroma vector with the mode's profile on each of the twelve tonics, float64 [12].

    Modes with a minor third above the tonic use the minor profile, all others the major one.
    """
    profile = np.array(PROFILES["minor" if mode in ("minor", "dorian", "phrygian", "aeolian") else "major"])
    centred = chroma_12 - chroma_12.mean()
    norm = max(float(np.linalg.norm(centred)), 1e-12) * np.linalg.norm(profile - profile.mean())
    return np.array([centred @ np.roll(profile - profile.mean(), tonic) for tonic in range(12)]) / norm


def key_rank(chroma_12: np.ndarray, key: str, mode: str) -> int:
    """How many tonics fit better than `key` does, 0 (it fits best) to 11; 5.5 by chance."""
    scores = key_scores(chroma_12, mode)
    return int((scores > scores[pitch_class(key)]).sum())
