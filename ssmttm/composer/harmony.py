"""Chords and scales. Pitches are MIDI numbers (60 = middle C), pitch classes 0 = C."""

from __future__ import annotations

import re
from typing import NamedTuple

KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # index = pitch class
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
MODES = tuple(SCALES)

_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii")
_SUFFIXES: dict[str, dict[bool, tuple[int, ...]]] = {  # for upper case, for lower case
    "": {True: (0, 4, 7), False: (0, 3, 7)},
    "5": {True: (0, 7), False: (0, 7)},
    "o": {True: (0, 3, 6), False: (0, 3, 6)},
    "7": {True: (0, 4, 7, 10), False: (0, 3, 7, 10)},
    "maj7": {True: (0, 4, 7, 11), False: (0, 3, 7, 11)},
    "h7": {True: (0, 3, 6, 10), False: (0, 3, 6, 10)},
    "6": {True: (0, 4, 7, 9), False: (0, 3, 7, 9)},
    "9": {True: (0, 4, 7, 10, 14), False: (0, 3, 7, 10, 14)},
    "add9": {True: (0, 4, 7, 14), False: (0, 3, 7, 14)},
    "sus2": {True: (0, 2, 7), False: (0, 2, 7)},
}
_SYMBOLS = {  # what stands behind the root's name for intervals above it
    (0, 4, 7): "",
    (0, 3, 7): "m",
    (0, 7): "5",
    (0, 3, 6): "dim",
    (0, 4, 7, 10): "7",
    (0, 3, 7, 10): "m7",
    (0, 4, 7, 11): "maj7",
    (0, 3, 7, 11): "mM7",
    (0, 3, 6, 10): "m7-5",
    (0, 4, 7, 9): "6",
    (0, 3, 7, 9): "m6",
    (0, 4, 7, 10, 14): "9",
    (0, 3, 7, 10, 14): "m9",
    (0, 4, 7, 14): "add9",
    (0, 3, 7, 14): "madd9",
    (0, 2, 7): "sus2",
}


class Chord(NamedTuple):
    """Root pitch class, intervals above it in semitones, ascending from 0, and the bass' pitch class unless it is the
    root's."""

    root: int
    intervals: tuple[int, ...]
    inversion: int | None = None

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        return tuple((self.root + interval) % 12 for interval in self.intervals)

    @property
    def bass(self) -> int:
        return self.root if self.inversion is None else self.inversion

    @property
    def symbol(self) -> str:
        """As lead sheets have it: `Am7/G`."""
        under = "" if self.bass == self.root else f"/{KEYS[self.bass]}"
        return f"{KEYS[self.root]}{_SYMBOLS[self.intervals]}{under}"


def parse_chord(numeral: str, tonic: int, mode: str) -> Chord:
    """Read a roman numeral: upper case major, lower case minor, suffix one of `5 o 7 maj7 h7 6 9 add9 sus2`.

    The root is the degree of the mode's scale, so `VI` in minor lies a minor sixth above the tonic.
    """
    match = re.fullmatch(r"([ivIV]+)(.*)", numeral)
    assert match is not None, f"bad numeral {numeral}"
    degree = _NUMERALS.index(match[1].lower())
    return Chord((tonic + SCALES[mode][degree]) % 12, _SUFFIXES[match[2]][match[1].isupper()])


def chord_scale(chord: Chord, tonic: int, mode: str) -> tuple[int, ...]:
    """The mode's seven pitch classes with those a chord alters replaced (the leading note over V in minor)."""
    scale = {(tonic + step) % 12 for step in SCALES[mode]}
    for pitch_class in chord.pitch_classes:
        if pitch_class not in scale:
            scale.discard((pitch_class - 1) % 12)
            scale.add(pitch_class)
    return tuple(sorted(scale))


def ladder(pitch_classes: tuple[int, ...], low: int, high: int) -> list[int]:
    """All pitches in [low, high] whose class is one of `pitch_classes`, ascending."""
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in pitch_classes]


def nearest(pitches: list[int], target: float) -> int:
    """The pitch closest to `target`; the lower of two equally close."""
    return min(pitches, key=lambda pitch: (abs(pitch - target), pitch))


def voicing(chord: Chord, centre: int) -> list[int]:
    """Close position around `centre`: each chord tone once, so neighbouring chords share or step between tones."""
    return sorted(
        (centre - 6) + (pitch_class - (centre - 6)) % 12 for pitch_class in dict.fromkeys(chord.pitch_classes)
    )
