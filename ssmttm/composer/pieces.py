"""What a piece is before it is played: its attributes, harmony, form and melody.

Pitches are MIDI numbers (60 = middle C), pitch classes 0 = C, steps sixteenths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from ssmttm.composer.genres import GENRES, STEPS, Genre, Lead, by_energy, read_pattern

KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # index = pitch class
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
MODES = tuple(SCALES)

Motif = list[tuple[int, int, int]]  # (step, length in steps, scale steps above the bar's anchor)

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


@dataclass(frozen=True)
class Attributes:
    """What a piece is: everything its captions may speak of, and `energy` (0 to 1), which picks the density."""

    genre: str
    lead: str
    mood: str
    key: str
    mode: str
    bpm: int
    drums: bool
    energy: float

    def tags(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("genre", "lead", "mood", "key", "mode", "bpm", "drums")}


def draw_attributes(rng: Random, genre_name: str, lead: str) -> Attributes:
    """Draw the rest of a piece's attributes within its genre; the mood follows from mode, tempo and energy."""
    genre = GENRES[genre_name]
    mode = "minor" if rng.random() < genre.minor else "major"
    bpm = rng.randint(*genre.tempo)
    energy = rng.random()
    lively = 0.5 * energy + 0.5 * (bpm - 60) / 120 > 0.5
    mood = {("major", True): "happy", ("major", False): "calm", ("minor", True): "dark", ("minor", False): "sad"}
    return Attributes(
        genre=genre_name,
        lead=lead,
        mood=mood[mode, lively],
        key=rng.choice(KEYS),
        mode=mode,
        bpm=bpm,
        drums=rng.random() < genre.drums,
        energy=energy,
    )


def _shuffled(seed: str, names: Sequence[str]) -> list[str]:
    order = list(names)
    Random(seed).shuffle(order)
    return order


def genre_order(seed: int, number: int) -> list[str]:
    """All genres, in the order in which round `number` of a corpus has them."""
    return _shuffled(f"{seed}/genres/{number}", list(GENRES))


def attributes_of(seed: int, index: int) -> Attributes:
    """The attributes of piece `index`. Genres come in shuffled rounds of all of them, and the leads of a genre too,
    so that any stretch of a corpus is balanced; everything else is drawn freely."""
    number, place = divmod(index, len(GENRES))
    genre = genre_order(seed, number)[place]
    leads = GENRES[genre].leads
    lead_round, place = divmod(number, len(leads))
    lead = _shuffled(f"{seed}/leads/{genre}/{lead_round}", leads)[place]
    return draw_attributes(Random(f"{seed}/attributes/{index}"), genre, lead)


class Chord(NamedTuple):
    """Root pitch class and intervals above it in semitones, ascending from 0."""

    root: int
    intervals: tuple[int, ...]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        return tuple((self.root + interval) % 12 for interval in self.intervals)


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


def draw_motif(rng: Random, pattern: str, arpeggio: bool) -> Motif:
    """A contour on a rhythm: a random walk in scale steps that turns back at its edges, or a run of chord tones."""
    hits = [(step, length) for step, length, _ in read_pattern(pattern)]
    if arpeggio:
        cell = rng.choice(((0, 2, 4), (0, 2, 4, 2), (4, 2, 0), (0, 4, 2, 4), (0, 2, 4, 7)))
        return [(step, length, cell[place % len(cell)]) for place, (step, length) in enumerate(hits)]
    height = rng.choice((0, 0, 2, 4))
    motif = []
    for step, length in hits:
        motif.append((step, length, height))
        move = rng.choice((-2, -1, -1, -1, 0, 1, 1, 1, 2, 3))
        if not -3 <= height + move <= 6:
            move = -move
        height += move
    return motif


def vary(rng: Random, motif: Motif) -> Motif:
    """A variation: the second half inverted, the whole shifted, or one long note split in two."""
    kind = rng.choice(("invert", "shift", "split"))
    if kind == "invert":
        pivot = motif[len(motif) // 2][2]
        return [(step, length, height if step < 8 else 2 * pivot - height) for step, length, height in motif]
    if kind == "shift":
        amount = rng.choice((-1, 1, 2))
        return [(step, length, height + amount) for step, length, height in motif]
    split: Motif = []
    for step, length, height in motif:
        if length >= 4:
            split += [
                (step, length // 2, height),
                (step + length // 2, length - length // 2, height + rng.choice((-1, 1))),
            ]
        else:
            split.append((step, length, height))
    return split


def cadence(motif: Motif) -> Motif:
    """The motif's first half, then one long note on the anchor."""
    opening = [entry for entry in motif if entry[0] + entry[1] <= 8]
    return [*opening, (8, 7, 0)]


def write_melody(rng: Random, lead: Lead, genre: Genre, form: Form, energy: float) -> list[tuple[int, int, int]]:
    """The lead's notes as (step, length in steps, MIDI pitch), steps counted from the beginning of the piece.

    A section runs motif, motif, variation, cadence; section B has a motif of its own, and the last bar is a cadence.
    Notes on the half-bar and long notes are chord tones, and cadences settle on the tonic where the chord has it.
    """
    arpeggio = rng.random() < genre.arpeggio
    patterns = {"A": by_energy(rng, genre.melody, energy), "B": rng.choice(genre.melody)}
    motifs = {letter: draw_motif(rng, pattern, arpeggio) for letter, pattern in patterns.items()}
    variations = {letter: vary(rng, motif) for letter, motif in motifs.items()}
    doubling = rng.choice((0, 0, -2, -7)) if lead.doubled and not arpeggio else 0
    anchor_height = (lead.low + lead.high) / 2 + rng.choice((-3, 0, 3))
    notes: list[tuple[int, int, int]] = []
    phrase_start = 0
    for bar, letter in enumerate(form.sections):
        if bar > 0 and form.sections[bar - 1] != letter:
            phrase_start = bar
        if bar < form.intro:
            continue
        within = (bar - phrase_start) % 4
        last = bar + 1 == form.bars or (within == 3 and not arpeggio)
        motif = variations[letter] if within == 2 else motifs[letter]
        motif = cadence(motif) if last else motif
        for step, length, height in motif:
            chord = form.chords[2 * bar + step // 8]
            scale = ladder(chord_scale(chord, form.tonic, form.mode), lead.low, lead.high)
            tones = ladder(chord.pitch_classes, lead.low, lead.high)
            anchor = nearest(tones, anchor_height)
            if last and step == 8 and form.tonic in chord.pitch_classes:
                anchor = nearest(ladder((form.tonic,), lead.low, lead.high), anchor_height)
            index = min(max(scale.index(anchor) + height, 0), len(scale) - 1)
            pitch = scale[index]
            if step % 8 == 0 or length >= 4 or arpeggio:
                pitch = nearest(tones, pitch)
            notes.append((bar * STEPS + step, length, pitch))
            if doubling and length >= 2:
                second = scale[max(index + doubling, 0)]
                second = nearest(tones, second) if length >= 4 else second
                if second != pitch:
                    notes.append((bar * STEPS + step, length, second))
    return notes
