"""Where beats are: onsets, tempo, and a path of beats through them; or that nobody can tell.

T frames, K beats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmttm.conditions.hearing.sound import FINE_RATE, Sound, change

TEMPO_RANGE = (50.0, 210.0)  # beats per minute
TEMPO_CENTRE = 120.0
TEMPO_SPREAD = 0.9  # octaves
# Lags, in beats, at which a steady pulse repeats, and what each counts. The halves tell the beat from one and a half
# beats: on composed clips the share within 8 % (or half, or double) is 1.00 with them and 0.97 without.
PULSE = ((0.5, 0.5), (1, 1.0), (1.5, 0.5), (2, 1.0), (3, 1.0), (4, 1.0))

KNOWN = 0.4  # confidence from which beats are known
FEWEST = 6  # beats that a tempo can be read from
BASS_BELOW = 48  # MIDI
STEADY_S = 0.012  # what beats may lie off even ones and still be even: less than players do
UNEVEN = 0.04  # change of a beat's length to the next one's, as a share, from which nothing is believed
NEIGHBOURS = 3  # beats to either side that an uneven one is smoothed by
TIGHTNESS = 100.0  # how much the path of beats resents uneven steps (librosa's default)


def onset_envelope(log_mel_TM: np.ndarray, rate: float) -> np.ndarray:
    """Half-wave rectified spectral flux [T], without its slow trend.

    Args:
        rate: frames per second, about 100.
    """
    flux = np.maximum(log_mel_TM[2:] - log_mel_TM[:-2], 0).mean(axis=1)
    flux = np.concatenate([np.zeros(2), flux])
    width = int(rate)
    trend = np.convolve(np.pad(flux, width // 2, mode="edge"), np.ones(width) / width, mode="valid")[: len(flux)]
    return np.maximum(flux - trend, 0)


def tempo(envelope_T: np.ndarray, rate: float) -> float:
    """Beats per minute of an onset envelope; 0 if it has no onset.

    A candidate's score is the envelope's autocorrelation at the lags of `PULSE`, weighted by a log-normal prior over
    tempo (as in Ellis, Beat Tracking by Dynamic Programming, 2007).
    """
    if not envelope_T.any():
        return 0.0
    length = len(envelope_T)
    power = np.abs(np.fft.rfft(envelope_T, 2 * length)) ** 2
    correlation = np.fft.irfft(power)[:length] / np.maximum(length - np.arange(length), rate)
    candidates = np.geomspace(*TEMPO_RANGE, 400)
    beats, weights = np.array(PULSE).T
    lags = beats[:, None] * (60 * rate / candidates)[None]
    heights = weights @ np.interp(lags, np.arange(length), correlation, right=0.0)
    prior = np.exp(-0.5 * (np.log2(candidates / TEMPO_CENTRE) / TEMPO_SPREAD) ** 2)
    return float(candidates[np.argmax(heights * prior)])


def alignment(envelope_T: np.ndarray, phases_T: np.ndarray) -> float:
    """How onsets gather at one phase (in turns, whole numbers where they should be): the length of their mean vector,
    0 for any place, 1 for one."""
    total = float(envelope_T.sum())
    return float(abs(envelope_T @ np.exp(2j * np.pi * phases_T)) / total) if total else 0.0


@dataclass(frozen=True)
class Beats:
    """Times of beats [K] in seconds, ascending, and how far to trust them, 0 to 1."""

    times_K: np.ndarray
    confidence: float

    @property
    def known(self) -> bool:
        return self.confidence >= KNOWN

    @property
    def bpm(self) -> float:
        """The tempo of the whole; 0 if there is none."""
        return 60 / float(np.median(np.diff(self.times_K))) if len(self.times_K) > 1 else 0.0

    def phases(self, times_T: np.ndarray) -> np.ndarray:
        """Where times lie among the beats [T]: whole numbers at beats, going on evenly before the first and after the
        last."""
        times_K, places = self.times_K, np.arange(len(self.times_K))
        before = (times_T - times_K[0]) / (times_K[1] - times_K[0])
        after = places[-1] + (times_T - times_K[-1]) / (times_K[-1] - times_K[-2])
        inside = np.interp(times_T, times_K, places)
        return np.where(times_T < times_K[0], before, np.where(times_T > times_K[-1], after, inside))

    def timeline(self) -> list[list[Any]] | None:
        """As a score has it, from the first beat on, each beat at its own tempo where they are uneven; bars are not
        heard. None if nothing is known."""
        times_K = self.times_K[self.times_K >= 0]
        if not self.known or len(times_K) < 2:
            return None
        spans = np.diff(times_K)
        even = np.ptp(spans) < 1e-6
        told = zip(times_K[: 1 if even else -1].tolist(), spans.tolist(), strict=False)
        return [[time, {"bpm": 60 / span, "meter": None}] for time, span in told]


def beats_of(sound: Sound) -> Beats:
    """The beats of at least a few seconds of music. They are trusted as far as onsets gather on their quarters, halves
    and wholes, as they are even, and as it is clear which half of a beat is its beginning."""
    envelope_T = onset_envelope(sound.log_mel, FINE_RATE)
    bpm = tempo(envelope_T, FINE_RATE)
    places = _path(envelope_T, FINE_RATE, bpm) if bpm else np.zeros(0)
    if len(places) < FEWEST:
        return Beats(np.zeros(0), 0.0)
    beats = Beats(_smoothed(*_exact(envelope_T, places), FINE_RATE), 0.0)
    turns_T = beats.phases(np.arange(len(envelope_T)) / FINE_RATE)
    gathered = float(np.linalg.norm([alignment(envelope_T, times * turns_T) for times in (1, 2, 4)]))
    lead = _lead_of_first_half(sound, turns_T, envelope_T)
    times_K = beats.times_K if lead >= 0 else (beats.times_K[1:] + beats.times_K[:-1]) / 2
    spans = np.diff(times_K)
    # A path bends to meet onsets that lie anywhere, and then they gather, too.
    even = 1 - float(np.median(np.abs(np.diff(spans)) / spans[1:])) / UNEVEN
    return Beats(times_K, max(min(gathered * even, abs(lead), 1.0), 0.0))


def _lead_of_first_half(sound: Sound, turns_T: np.ndarray, envelope_T: np.ndarray) -> float:
    """By how much more a beat seems to begin where it was put than half a beat later, in shares of the mean: by onsets,
    low ones more, those of chords and melodies less (off-beat chords are common), and changes of harmony and bass.
    The weights were chosen on composed pieces."""

    def rise(bands: slice) -> np.ndarray:
        bands_TM = sound.log_mel[:, bands]
        return np.concatenate([np.zeros(2), np.maximum(bands_TM[2:] - bands_TM[:-2], 0).mean(axis=1)])

    signs = [
        (1.0, rise(slice(0, 3))),
        (-1.5, rise(slice(3, 20))),
        (1.0, envelope_T),
        (1.5, change(sound.chroma(), len(envelope_T))),
        (0.5, change(sound.chroma(high=BASS_BELOW), len(envelope_T), 2)),
    ]
    near_4T = np.exp(-0.5 * (((turns_T - np.arange(4)[:, None] / 4 + 0.5) % 1 - 0.5) / 0.05) ** 2)
    near_4T /= near_4T.sum(axis=1, keepdims=True)
    lead = 0.0
    for weight, sign_T in signs:
        quarters = near_4T @ sign_T
        lead += weight * (quarters[0] - quarters[2]) / max(float(quarters.mean()), 1e-9)
    return float(lead)


def _path(envelope_T: np.ndarray, rate: float, bpm: float) -> np.ndarray:
    """Frames of the beats on the best path at about a tempo (Ellis 2007)."""
    import librosa.beat  # takes a second or more

    # One hop of librosa's is a frame here.
    _, places = librosa.beat.beat_track(
        onset_envelope=envelope_T, sr=rate, hop_length=1, bpm=bpm, tightness=TIGHTNESS, trim=False
    )
    return places


def _exact(envelope_T: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the onsets nearby, not rounded, and their heights; a beat without one stays where it is at little."""
    around = np.arange(-3, 4)
    padded = np.pad(envelope_T, 4)
    windows = padded[places[:, None] + around + 4]
    heights = windows.max(axis=1)
    shift = np.where(heights > 0, windows.argmax(axis=1) - 3, 0)
    left, top, right = (padded[places + shift + 4 + step] for step in (-1, 0, 1))
    bend = np.minimum(left - 2 * top + right, -1e-9)
    return places + shift + np.clip(0.5 * (left - right) / bend, -0.5, 0.5), heights + 1e-3


def _smoothed(places: np.ndarray, weights: np.ndarray, rate: float) -> np.ndarray:
    """Times of beats: on a straight line if they are even but for what players and rounding add, else each on the line
    through its neighbours."""
    times, steps = places / rate, np.arange(len(places), dtype=float)
    line = np.polyval(np.polyfit(steps, times, 1, w=np.sqrt(weights)), steps)
    if np.sqrt(np.average((times - line) ** 2, weights=weights)) <= STEADY_S:
        return line
    smooth = np.empty_like(times)
    for k in range(len(times)):
        near = slice(max(k - NEIGHBOURS, 0), k + NEIGHBOURS + 1)
        smooth[k] = np.polyval(np.polyfit(steps[near] - k, times[near], 1, w=np.sqrt(weights[near])), 0.0)
    return smooth if (np.diff(smooth) > 0).all() else times
