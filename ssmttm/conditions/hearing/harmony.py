"""Which chords and which key are heard; or that nobody can tell.

U pitch frames, S spans of a beat (or half a second), H chords: twelve major, twelve minor, and none.
"""

from __future__ import annotations

import numpy as np

from ssmttm.conditions.hearing.beats import Beats
from ssmttm.conditions.hearing.sound import PITCH_RATE, Sound

NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
CHORDS = (*NAMES, *(f"{name}m" for name in NAMES), "N")
# Probe-tone profiles of Temperley (Music and Probability, 2007, Kostka-Payne corpus).
PROFILES = {
    "major": (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
    "minor": (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
}

SPAN_S = 0.5  # where there are no beats
BASS_BELOW = 50  # MIDI
SHARPNESS = 14.0  # of the likelihood, per unit of a template's cosine
BASS_WEIGHT = 0.15  # of the root among the lowest tones, in the same unit
NO_CHORD = 0.62  # the cosine below which there is none
STAY = 0.8  # probability that a chord holds for another span
KNOWN_CHORD = 0.8  # probability from which a chord is known
KNOWN_KEY = 0.06  # by how much a key's correlation must exceed the next one's
LEAST_KEY = 0.6  # correlation


def _templates() -> np.ndarray:
    """Unit vectors of triads [24, 12]."""
    major, minor = np.zeros(12), np.zeros(12)
    major[[0, 4, 7]] = minor[[0, 3, 7]] = 3**-0.5
    return np.stack([np.roll(triad, root) for triad in (major, minor) for root in range(12)])


TEMPLATES = _templates()


def _spans(sound: Sound, beats: Beats) -> np.ndarray:
    """Borders of spans in seconds, from the beginning to the end."""
    if not beats.known:
        return np.append(np.arange(0.0, sound.seconds - SPAN_S / 2, SPAN_S), sound.seconds)
    inside = beats.times_K[(beats.times_K > 0.1) & (beats.times_K < sound.seconds - 0.1)]
    return np.concatenate([[0.0], inside, [sound.seconds]])


def _means(values_UC: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Means of frames by span; a span without a frame of its own takes the nearest."""
    first = np.clip(np.ceil(borders[:-1] * PITCH_RATE).astype(int), 0, len(values_UC) - 1)
    last = np.clip(np.ceil(borders[1:] * PITCH_RATE).astype(int), first + 1, len(values_UC))
    sums = np.concatenate([np.zeros((1, values_UC.shape[1])), np.cumsum(values_UC, axis=0)])
    return (sums[last] - sums[first]) / (last - first)[:, None]


def chord_probabilities(sound: Sound, beats: Beats) -> tuple[np.ndarray, np.ndarray]:
    """Borders of spans in seconds [S + 1], and how probable each of `CHORDS` is in each [S, H]: templates of triads,
    smoothed by a hidden Markov model in which chords tend to stay."""
    borders = _spans(sound, beats)
    chroma_S12 = _means(sound.chroma(), borders)
    bass_S12 = _means(sound.chroma(high=BASS_BELOW), borders)
    chroma_S12 /= np.maximum(np.linalg.norm(chroma_S12, axis=1, keepdims=True), 1e-9)
    bass_S12 /= np.maximum(bass_S12.sum(axis=1, keepdims=True), 1e-9)
    fit_SH = chroma_S12 @ TEMPLATES.T + BASS_WEIGHT * np.tile(bass_S12, 2)
    fit_SH = np.concatenate([fit_SH, np.full((len(fit_SH), 1), NO_CHORD)], axis=1)
    likelihood_SH = np.exp(SHARPNESS * (fit_SH - fit_SH.max(axis=1, keepdims=True)))
    return borders, _posterior(likelihood_SH)


def _posterior(likelihood_SH: np.ndarray) -> np.ndarray:
    """Probabilities of states given all of the likelihoods (forward and backward)."""
    states = likelihood_SH.shape[1]
    leave = (1 - STAY) / (states - 1)

    def passed(before_H: np.ndarray) -> np.ndarray:
        return (STAY - leave) * before_H + leave * before_H.sum()

    forward, backward = likelihood_SH.copy(), np.ones_like(likelihood_SH)
    for s in range(1, len(forward)):
        forward[s] *= passed(forward[s - 1] / forward[s - 1].sum())
    for s in range(len(backward) - 2, -1, -1):
        after = backward[s + 1] * likelihood_SH[s + 1]
        backward[s] = passed(after / after.sum())
    joint = forward * backward
    return joint / joint.sum(axis=1, keepdims=True)


def chords(sound: Sound, beats: Beats) -> list[list[float | str | None]] | None:
    """A timeline of major and minor triads and "N", null where none is probable enough; None if nothing is known."""
    borders, probabilities_SH = chord_probabilities(sound, beats)
    told: list[list[float | str | None]] = []
    for start, of_span in zip(borders[:-1].tolist(), probabilities_SH, strict=True):
        name = CHORDS[int(of_span.argmax())] if of_span.max() >= KNOWN_CHORD else None
        if not told or told[-1][1] != name:
            told.append([start, name])
    return told if any(name for _, name in told) else None


def key_correlations(chroma_12: np.ndarray) -> np.ndarray:
    """Of a chroma vector with the profiles of the twelve major and the twelve minor keys [24]."""
    profiles = np.stack([np.roll(PROFILES[mode], tonic) for mode in ("major", "minor") for tonic in range(12)])
    profiles -= profiles.mean(axis=1, keepdims=True)
    centred = chroma_12 - chroma_12.mean()
    lengths = np.linalg.norm(profiles, axis=1) * max(float(np.linalg.norm(centred)), 1e-12)
    return profiles @ centred / lengths


def scale(sound: Sound) -> str | None:
    """The key of all of it ("A minor"); a pair of relative keys ("C major/A minor") where these two cannot be told
    apart, and None where others come near."""
    heard = key_correlations(sound.chroma().sum(axis=0))
    first, *rest = (int(place) for place in np.argsort(-heard))
    relative = (first + 9) % 12 + 12 if first < 12 else (first + 3) % 12
    other = next(place for place in rest if place != relative)
    if heard[first] < LEAST_KEY or heard[first] - heard[other] < KNOWN_KEY:
        return None
    major, minor = sorted((first, relative))
    if heard[first] - heard[relative] < KNOWN_KEY:
        return f"{NAMES[major]} major/{NAMES[minor - 12]} minor"
    return f"{NAMES[first]} major" if first < 12 else f"{NAMES[first - 12]} minor"
