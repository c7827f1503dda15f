"""From attributes to notes: each part of a piece over its form. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from ssmttm.composer.genres import DRUM_KEYS, GENRES, LEADS, STEPS, Genre, Layer, by_energy, read_pattern
from ssmttm.composer.pieces import Attributes, Form, draw_form, voicing, write_melody


class Note(NamedTuple):
    """Start and duration in seconds, MIDI pitch, velocity 1 to 127."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """Notes for one General MIDI program; drums take `program` as their kit."""

    role: Literal["lead", "chords", "bass", "drums"]
    program: int
    notes: tuple[Note, ...]


class Clock:
    """Places steps (sixteenths) in time: tempo, swing, and each player's small deviations."""

    def __init__(self, rng: Random, bpm: float, genre: Genre):
        self.rng = rng
        self.step_s = 15 / bpm
        self.swing = genre.swing
        self.unit = genre.swing_unit
        self.jitter_s = genre.jitter_s

    def exact(self, step: float) -> float:
        """Seconds at a step, swung."""
        pair = 2 * self.unit
        whole, rest = divmod(step, pair)
        half = pair / 2
        share = rest / half * self.swing if rest < half else self.swing + (rest - half) / half * (1 - self.swing)
        return (whole * pair + share * pair) * self.step_s

    def played(self, step: float) -> float:
        """Seconds at a step as a player hits it: never before the piece begins, at most three deviations off."""
        deviation = min(max(self.rng.gauss(0, self.jitter_s), -3 * self.jitter_s), 3 * self.jitter_s)
        return max(0.0, self.exact(step) + deviation)


def velocity_of(rng: Random, base: float, step: int) -> int:
    """Base velocity, stressed on the beat (most on the first), with a few units of chance."""
    stress = 6 if step % STEPS == 0 else 3 if step % 4 == 0 else -3
    return int(min(max(base + stress + rng.gauss(0, 4), 1), 127))


def write_chords(rng: Random, clock: Clock, form: Form, layer: Layer, energy: float) -> list[Note]:
    """Play a layer's pattern over the harmony, one pattern per section letter."""
    patterns = {letter: by_energy(rng, layer.patterns, energy) for letter in "AB"}
    notes = []
    for bar, letter in enumerate(form.sections):
        for step, length, symbol in read_pattern(patterns[letter]):
            tones = voicing(form.chords[2 * bar + step // 8], layer.centre)
            if symbol.isdigit():
                index = int(symbol)
                tones = [tones[index % len(tones)] + 12 * (index // len(tones))]
            at = bar * STEPS + step
            start = clock.played(at)
            duration = (clock.exact(at + length) - clock.exact(at)) * layer.gate
            base = layer.velocity + (12 if symbol == "X" else 0)
            for place, pitch in enumerate(tones):
                notes.append(Note(start + place * layer.spread, duration, pitch, velocity_of(rng, base, step)))
    return notes


def write_bass(rng: Random, clock: Clock, form: Form, layer: Layer, energy: float) -> list[Note]:
    """Roots and their neighbours, one pattern per section letter."""
    patterns = {letter: by_energy(rng, layer.patterns, energy) for letter in "AB"}
    notes = []
    for bar, letter in enumerate(form.sections):
        for step, length, symbol in read_pattern(patterns[letter]):
            slot = 2 * bar + step // 8
            chord = form.chords[slot]
            root = layer.centre + (chord.root - layer.centre) % 12
            third = chord.intervals[1] if chord.intervals[1] in (3, 4) else 0
            offsets = {"1": 0, "3": third, "5": 7, "6": -5, "8": 12}
            if symbol == "a":
                target = form.chords[min(slot + 1, len(form.chords) - 1)]
                pitch = layer.centre + (target.root - layer.centre) % 12 - (1 if target.root != chord.root else 5)
            else:
                pitch = root + offsets[symbol]
            at = bar * STEPS + step
            duration = (clock.exact(at + length) - clock.exact(at)) * layer.gate
            notes.append(Note(clock.played(at), duration, pitch, velocity_of(rng, layer.velocity, step)))
    return notes


def write_drums(rng: Random, clock: Clock, form: Form, genre: Genre, energy: float) -> list[Note]:
    """One groove throughout, a crash where a section begins after a fill, and fills at the ends of phrases."""
    groove = by_energy(rng, genre.grooves, energy)
    crashes = any(genre.fills)
    levels = {"X": 108, "x": 88, "o": 52}
    notes = []
    for bar in range(form.bars):
        pattern = {**groove, **rng.choice(genre.fills)} if bar in form.fills else groove
        if crashes and bar - 1 in form.fills:
            pattern = {**pattern, "crash": "x..............."}
        for name, hits in pattern.items():
            for step, _, symbol in read_pattern(hits):
                velocity = velocity_of(rng, levels[symbol], step)
                notes.append(Note(clock.played(bar * STEPS + step), 0.1, DRUM_KEYS[name], velocity))
    return notes


def arrange(rng: Random, attributes: Attributes, seconds: float) -> list[Part]:
    """Write all parts of a piece that lasts at least `seconds`."""
    genre = GENRES[attributes.genre]
    energy = attributes.energy
    clock = Clock(rng, attributes.bpm, genre)
    form = draw_form(rng, attributes, seconds)
    lead = LEADS[attributes.lead]
    melody = [
        Note(clock.played(step), clock.exact(step + length) - clock.exact(step), pitch, velocity_of(rng, 96, step))
        for step, length, pitch in write_melody(rng, lead, genre, form, energy)
    ]
    parts = [Part("lead", lead.program, tuple(melody))]
    for layer in genre.chords:
        program = next((program for program in layer.programs if program != lead.program), layer.programs[0])
        parts.append(Part("chords", program, tuple(write_chords(rng, clock, form, layer, energy))))
    bass = write_bass(rng, clock, form, genre.bass, energy)
    parts.append(Part("bass", genre.bass.programs[0], tuple(bass)))
    if attributes.drums:
        drums = write_drums(rng, clock, form, genre, energy)
        parts.append(Part("drums", genre.kit, tuple(drums)))
    return parts
