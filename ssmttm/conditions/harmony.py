"""What notes fit: chords, and the scale that they come from. Pitch classes count semitones from C = 0."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pychord import QualityManager
from pychord.utils import note_to_val

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.hearing import harmony as hearing
from ssmttm.conditions.timeline import TimelineControl, shown
from ssmttm.errors import UserError

PITCH_CLASSES = 12
MOST_LETTERS = 40
NO_CHORD = frozenset({"N", "NC", "N.C."})
_NOTE = r"[A-G](?:#{1,2}|b{1,2})?"
_CHORD = re.compile(rf"({_NOTE})(.*?)(?:/({_NOTE}))?")
# How qualities are written that the library knows under another spelling, in the order in which they are replaced.
_SPELLINGS = (
    (r"^b5$", "(b5)"),
    (r"^(?:Δ|△|\^)$", "M7"),
    (r"^(?:major|Major|maj|Maj|ma(?=\d|$)|Δ|△|\^)", "M"),
    (r"^M6", "6"),
    (r"^M$", ""),
    (r"^(?:minor|min|Min|mi|-)", "m"),
    (r"^m(?:Δ|△|\^)7?$", "mM7"),
    (r"^m(?:major|maj|Maj|ma|Δ|△|\^)", "mM"),
    (r"^(?:ø|Ø|hdim|m7dim)7?$", "m7b5"),
    (r"^(?:[°º˚]|o(?!mit))", "dim"),
    (r"^(?:aug|\+)(7|9)", r"\1#5"),
    (r"^(?:aug|\+)(?:M|maj)7", "M7#5"),
    (r"^\+$", "aug"),
    (r"sus$", "sus4"),
    (r"^alt$", "7alt"),
    (r"add2", "add9"),
)
# Those that it does not know; in intervals above the root, as it writes them.
_QUALITIES = {
    "M7#5": ("1", "3", "#5", "7"),
    "M7b5": ("1", "3", "b5", "7"),
    "M9#11": ("1", "3", "5", "7", "9", "#11"),
    "M11": ("1", "3", "5", "7", "9", "11"),
    "mM9": ("1", "b3", "5", "7", "9"),
    "m13": ("1", "b3", "5", "b7", "9", "11", "13"),
    "m9b5": ("1", "b3", "b5", "b7", "9"),
    "7sus2": ("1", "2", "5", "b7"),
    "13sus4": ("1", "4", "5", "b7", "9", "13"),
    "7b9sus4": ("1", "4", "5", "b7", "b9"),
    "7b5b9": ("1", "3", "b5", "b7", "b9"),
    "7b5#9": ("1", "3", "b5", "b7", "#9"),
    "7#5b9": ("1", "3", "#5", "b7", "b9"),
    "7#5#9": ("1", "3", "#5", "b7", "#9"),
    "7alt": ("1", "3", "b5", "#5", "b7", "b9", "#9"),
    "dimM7": ("1", "b3", "b5", "7"),
}
for _name, _intervals in _QUALITIES.items():
    QualityManager().set_quality(_name, _intervals)
# Semitones above the tonic, and whether the third is a major one.
_MODES = {
    "major": ((0, 2, 4, 5, 7, 9, 11), True),
    "minor": ((0, 2, 3, 5, 7, 8, 10), False),
    "dorian": ((0, 2, 3, 5, 7, 9, 10), False),
    "phrygian": ((0, 1, 3, 5, 7, 8, 10), False),
    "lydian": ((0, 2, 4, 6, 7, 9, 11), True),
    "mixolydian": ((0, 2, 4, 5, 7, 9, 10), True),
    "locrian": ((0, 1, 3, 5, 6, 8, 10), False),
}
_MODE_NAMES = {**{name: name for name in _MODES}, "maj": "major", "ionian": "major"}
_MODE_NAMES |= dict.fromkeys(("min", "m", "aeolian", "natural minor"), "minor")
_KEY = re.compile(rf"({_NOTE})[\s:_-]*(.*)")


def _plain(text: str) -> str:
    """With # and b for sharps and flats."""
    return unicodedata.normalize("NFC", text).strip().replace("♯", "#").replace("♭", "b")


def _one_hot(*classes: int | None) -> np.ndarray:
    hot = np.zeros(PITCH_CLASSES)
    hot[[one for one in classes if one is not None]] = 1
    return hot


@dataclass(frozen=True)
class Harmony:
    """Of a chord: pitch classes of its root, its bass and all its notes."""

    root: int
    bass: int
    notes: frozenset[int]


@lru_cache(maxsize=4096)
def read_chord(symbol: str) -> Harmony | None:
    """A chord symbol such as `Am7/G`, as musicians write it in various ways; None for `N`, no chord.

    Raises:
        ValueError: for what is none.
    """
    text = _plain(symbol).replace("6/9", "69")
    if text in NO_CHORD:
        return None
    parts = _CHORD.fullmatch(text)
    if parts is None or len(symbol) > MOST_LETTERS:
        raise ValueError(f"{symbol} is no chord")
    root, bass = note_to_val(parts[1]), note_to_val(parts[3] or parts[1])
    quality = re.sub(r"[\s(),]", "", parts[2])
    for written, known in _SPELLINGS:
        quality = re.sub(written, known, quality)
    notes = {(root + step) % PITCH_CLASSES for step in QualityManager().get_quality(quality).components}
    return Harmony(root, bass, frozenset(notes | {bass}))


class Chord(TimelineControl[Harmony | str]):
    """The chord, by its symbol: `Am7/G`, `F`; `N`: none.

    Channels: its root (12), its bass (12), its pitch classes (12), and whether there is none (1).
    """

    name, channels = "chord", 3 * PITCH_CLASSES + 1
    form = 'a chord symbol, as "Am7/G", or "N" for none'

    def value(self, given: Any, field: str) -> Harmony | str:
        if isinstance(given, str):
            try:
                return read_chord(given) or "N"
            except ValueError:
                pass
        raise UserError(f"{field} is {shown(given)}; give {self.form}")

    def told(self, excerpt: Excerpt) -> Any:
        return hearing.chords(excerpt.sound, excerpt.beats)

    def values(self, value: Harmony | str) -> np.ndarray:
        if isinstance(value, str):
            return np.eye(self.channels)[-1]
        return np.concatenate([_one_hot(value.root), _one_hot(value.bass), _one_hot(*value.notes), [0]])


@dataclass(frozen=True)
class Key:
    """Pitch classes of a scale; tonic and whether its third is major, None of two relative keys."""

    notes: frozenset[int]
    tonic: int | None
    is_major: bool | None


@lru_cache(maxsize=4096)
def read_key(text: str) -> Key:
    """A key such as `A minor`, `F# dorian` or `Bbm`, or two relative ones, `C major/A minor`.

    Raises:
        ValueError: for what is none.
    """
    keys = [_read_one_key(part) for part in _plain(text).split("/")] if len(text) <= MOST_LETTERS else []
    if len(keys) == 1:
        return keys[0]
    if len(keys) == 2 and keys[0].notes == keys[1].notes:
        return Key(keys[0].notes, None, None)
    raise ValueError(f"{text} is no key")


def _read_one_key(text: str) -> Key:
    spelled = re.sub(r"[\s-]*sharp", "#", re.sub(r"[\s-]*flat", "b", text.strip()))
    parts = _KEY.fullmatch(spelled[:1].upper() + spelled[1:])
    if parts is None:
        raise ValueError(f"{text} is no key")
    mode = "major" if parts[2] == "M" else _MODE_NAMES.get(parts[2].lower())
    if mode is None:
        raise ValueError(f"{text} names no mode")
    tonic, (steps, is_major) = note_to_val(parts[1]), _MODES[mode]
    return Key(frozenset((tonic + step) % PITCH_CLASSES for step in steps), tonic, is_major)


class Scale(TimelineControl[Key]):
    """The key, by its name: `A minor`, `F# dorian`; of two relative ones, `C major/A minor`, either.

    Channels: pitch classes (12), the tonic (12), and whether the third above it is major or minor (2), the latter two
    zero for relative keys.
    """

    name, channels = "scale", 2 * PITCH_CLASSES + 2
    form = 'a key, as "A minor", or two relative ones, as "C major/A minor"'

    def value(self, given: Any, field: str) -> Key:
        if isinstance(given, str):
            try:
                return read_key(given)
            except ValueError:
                pass
        raise UserError(f"{field} is {shown(given)}; give {self.form}")

    def told(self, excerpt: Excerpt) -> Any:
        return hearing.scale(excerpt.sound)

    def values(self, value: Key) -> np.ndarray:
        mode = [value.is_major is True, value.is_major is False]
        return np.concatenate([_one_hot(*value.notes), _one_hot(value.tonic), mode])
