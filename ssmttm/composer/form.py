"""The plan of a piece: phrases, chords, fills and introduction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from ssmttm.composer.attributes import Attributes
from ssmttm.composer.genres import GENRES
from ssmttm.composer.theory import KEYS, Chord, parse_chord


@dataclass(frozen=True)
class Form:
    """Bars of a piece: `chords` two per bar, `sections` a letter per bar, `fills` the bars that end in one,
    `intro` the bars before the lead enters; `tonic` (pitch class) and `mode` hold throughout."""

    tonic: int
    mode: str
    chords: tuple[Chord, ...]
    sections: str
    fills: frozenset[int]
    intro: int

    @property
    def bars(self) -> int:
        return len(self.sections)


def draw_form(rng: Random, attributes: Attributes, seconds: float) -> Form:
    """Lay out enough bars for `seconds`: phrases A A B A ..., each four chords; slow pieces change chord twice a bar.

    The first chord is the tonic, and so is the last bar, where the piece comes to rest.
    """
    genre = GENRES[attributes.genre]
    bar_s = 240 / attributes.bpm
    bars = max(2, math.ceil(seconds / bar_s))
    slow = bar_s > 2.6
    phrase_bars = 2 if slow else 4
    tonic = KEYS.index(attributes.key)
    progressions = rng.sample(genre.progressions[attributes.mode], 2)
    order = rng.choice(("AABA", "ABAB", "AAAB"))
    chords: list[Chord] = []
    sections = ""
    for bar in range(bars):
        letter = order[bar // phrase_bars % 4]
        numerals = progressions["AB".index(letter)].split()
        within = bar % phrase_bars
        halves = (2 * within, 2 * within + 1) if slow else (within, within)
        chords += [parse_chord(numerals[half], tonic, attributes.mode) for half in halves]
        sections += letter
    tonic_chord = parse_chord(progressions[0].split()[0], tonic, attributes.mode)
    whole_bars = int(seconds / bar_s + 1e-6)
    rest = max(whole_bars - 1, 1) if seconds / bar_s - whole_bars < 0.5 else whole_bars
    chords[2 * rest :] = [tonic_chord] * (len(chords) - 2 * rest)
    fills = frozenset(bar for bar in range(bars) if (bar + 1) % phrase_bars == 0 and bar > 0)
    intro = 1 if bars >= 5 and rng.random() < 0.25 else 0
    return Form(tonic, attributes.mode, tuple(chords), sections, fills, intro)
