"""From attributes to notes: each part of a piece over its form. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from ssmttm.composer.form import Form, Section, draw_form
from ssmttm.composer.genres import DRUM_KEYS, GENRES, LEADS, Genre, Layer, by_energy, read_pattern
from ssmttm.composer.harmony import voicing
from ssmttm.composer.melody import write_melody
from ssmttm.composer.metres import PATTERNS, Meter
from ssmttm.composer.pieces import Attributes

TAIL_S = 0.8  # after the last bar, for what still rings
STEP_S = 0.02  # from one section's level to the next's
CHORUS_ENERGY = 0.2  # how much denser the sections of letter B are

Role = Literal["lead", "chords", "bass", "drums"]


class Note(NamedTuple):
    """Start and duration in seconds, MIDI pitch, velocity 1 to 127."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """Notes for one General MIDI program; drums take `program` as their kit."""

    role: Role
    program: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Arrangement:
    """A piece as written: its form at `bpm`, and who plays what.

    line: the lead's notes by the clock, of doubled ones the upper: start and duration in seconds, MIDI pitch. levels:
    points (seconds, dB) of the dynamics, which run straight from each to the next.
    """

    form: Form
    bpm: float
    parts: tuple[Part, ...]
    line: tuple[tuple[float, float, int], ...]
    levels: tuple[tuple[float, float], ...]

    @property
    def bar_s(self) -> float:
        return self.form.meter.bar_s(self.bpm)

    @property
    def seconds(self) -> float:
        return self.form.bars * self.bar_s + TAIL_S


class Clock:
    """Places steps (sixteenths) in time: tempo, swing, and each player's small deviations."""

    def __init__(self, rng: Random, bpm: float, genre: Genre, meter: Meter):
        self.rng = rng
        self.step_s = 60 / bpm / meter.beat_steps
        self.swing = genre.swing if meter.beat_steps == 4 else 0.5  # eighths in threes are swung already
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


class Writer:
    """Writes the parts of one piece."""

    def __init__(self, rng: Random, attributes: Attributes, form: Form):
        self.rng, self.form, self.attributes = rng, form, attributes
        self.genre, self.meter = GENRES[attributes.genre], form.meter
        self.patterns = PATTERNS[attributes.genre][form.meter.name]
        self.clock = Clock(rng, attributes.bpm, self.genre, self.meter)
        self.bars = list(enumerate(form.by_bar()))

    def energy(self, letter: str) -> float:
        return min(1.0, self.attributes.energy + (CHORUS_ENERGY if letter == "B" else 0.0))

    def velocity(self, section: Section, base: float, bar: int, step: int) -> int:
        """Base velocity, stressed on the beat (most on the first), softer where the section is, with a few units of
        chance."""
        stress = 6 if step == 0 else 3 if step % self.meter.beat_steps == 0 else -3
        share = (bar - section.first) / section.bars
        level = section.level[0] + share * (section.level[1] - section.level[0])
        return int(min(max(base + stress + 1.5 * level + self.rng.gauss(0, 4), 1), 127))

    def note(
        self, section: Section, bar: int, hit: tuple[int, float], pitch: int, base: float, late: float = 0.0
    ) -> Note:
        """A note at a step of a bar, `hit` being (step, length in steps)."""
        step, length = hit
        at = bar * self.meter.steps + step
        duration = self.clock.exact(at + length) - self.clock.exact(at)
        return Note(self.clock.played(at) + late, duration, pitch, self.velocity(section, base, bar, step))

    def melody(self) -> tuple[tuple[Note, ...], tuple[tuple[float, float, int], ...]]:
        """The lead's notes as played, and the top line of them by the clock."""
        lead, steps = LEADS[self.attributes.lead], self.meter.steps
        notes: list[Note] = []
        top: dict[int, tuple[int, int]] = {}  # by step, pitch and length
        for at, length, pitch in write_melody(
            self.rng, lead, self.genre, self.patterns, self.form, self.attributes.energy
        ):
            notes.append(self.note(self.bars[at // steps][1], at // steps, (at % steps, length), pitch, 96))
            top[at] = max(top.get(at, (0, length)), (pitch, length))
        exact = self.clock.exact
        line = tuple((exact(at), exact(at + length) - exact(at), pitch) for at, (pitch, length) in top.items())
        return tuple(notes), line

    def chords(self, layer: Layer, choices: tuple[str, ...]) -> tuple[Note, ...]:
        """A layer's pattern over the harmony, one pattern for each letter."""
        patterns = {letter: by_energy(self.rng, choices, self.energy(letter)) for letter in "AB"}
        last_layer = layer is self.genre.chords[-1]
        notes = []
        for bar, section in self.bars:
            if not section.chords or (section.sparse and not last_layer):
                continue
            for step, length, symbol in read_pattern(self._pattern(bar, patterns[section.letter], "x")):
                tones = voicing(self.form.chord_at(bar, step), layer.centre)
                if symbol.isdigit():
                    index = int(symbol)
                    tones = [tones[index % len(tones)] + 12 * (index // len(tones))]
                base = layer.velocity + (12 if symbol == "X" else 0)
                hit = (step, length * layer.gate)
                notes += [
                    self.note(section, bar, hit, pitch, base, place * layer.spread) for place, pitch in enumerate(tones)
                ]
        return tuple(notes)

    def _pattern(self, bar: int, pattern: str, symbol: str) -> str:
        """A bar's pattern; of the last bar one held note."""
        return pattern if bar + 1 < self.form.bars else symbol.ljust(self.meter.steps, "-")

    def bass(self) -> tuple[Note, ...]:
        """Roots and their neighbours, one pattern for each letter."""
        layer = self.genre.bass
        patterns = {letter: by_energy(self.rng, self.patterns.bass, self.energy(letter)) for letter in "AB"}
        last_step = self.meter.steps - 1
        notes = []
        for bar, section in self.bars:
            if not section.bass:
                continue
            for step, length, symbol in read_pattern(self._pattern(bar, patterns[section.letter], "1")):
                chord = self.form.chord_at(bar, step)
                root = layer.centre + (chord.root - layer.centre) % 12
                bottom = layer.centre + (chord.bass - layer.centre) % 12
                third = chord.intervals[1] if chord.intervals[1] in (3, 4) else 0
                fifth = chord.intervals[-1] if len(chord.intervals) < 3 else chord.intervals[2]
                pitches = {"1": bottom, "3": root + third, "5": root + fifth, "6": root + fifth - 12, "8": bottom + 12}
                if symbol == "a":  # towards what follows
                    ahead = bar + (step >= self.meter.split)
                    follows = self.form.chord_at(min(ahead, self.form.bars - 1), last_step if ahead == bar else 0)
                    target = layer.centre + (follows.bass - layer.centre) % 12
                    pitch = target - (1 if follows != chord else 5)
                else:
                    pitch = pitches[symbol]
                notes.append(self.note(section, bar, (step, length * layer.gate), pitch, layer.velocity))
        return tuple(notes)

    def drums(self) -> tuple[Note, ...]:
        """A groove for each letter, a crash where a section begins after a fill, fills at the ends of sections, in a
        build a snare that grows; one stroke on the last bar."""
        grooves = {letter: by_energy(self.rng, self.patterns.grooves, self.energy(letter)) for letter in "AB"}
        crashes = any(self.patterns.fills)
        levels = {"X": 108, "x": 88, "o": 52}
        notes = []
        for bar, section in self.bars:
            if not section.drums:
                continue
            pattern = grooves[section.letter]
            if bar + 1 == self.form.bars:
                pattern = {name: "X" for name in ("kick", "crash") if name == "kick" or crashes}
            elif section.kind == "build" and crashes:
                pattern = {**pattern, "snare": "x.x." * (self.meter.steps // 4)}
            elif bar in self.form.fills:
                pattern = {**pattern, **self.rng.choice(self.patterns.fills)}
            if crashes and bar - 1 in self.form.fills:
                pattern = {**pattern, "crash": "x"}
            for name, hits in pattern.items():
                for step, _, symbol in read_pattern(hits):
                    at = self.clock.played(bar * self.meter.steps + step)
                    notes.append(Note(at, 0.1, DRUM_KEYS[name], self.velocity(section, levels[symbol], bar, step)))
        return tuple(notes)


def arrange(rng: Random, attributes: Attributes, phrases: int) -> Arrangement:
    """Compose a piece of a number of phrases and write all its parts."""
    genre, lead = GENRES[attributes.genre], LEADS[attributes.lead]
    form = draw_form(rng, attributes, phrases)
    writer = Writer(rng, attributes, form)
    notes, line = writer.melody()
    parts = [Part("lead", lead.program, notes)]
    for layer, choices in zip(genre.chords, writer.patterns.chords, strict=True):
        program = next((program for program in layer.programs if program != lead.program), layer.programs[0])
        parts.append(Part("chords", program, writer.chords(layer, choices)))
    parts.append(Part("bass", genre.bass.programs[0], writer.bass()))
    if attributes.drums:
        parts.append(Part("drums", genre.kit, writer.drums()))
    bar_s = form.meter.bar_s(attributes.bpm)
    levels: list[tuple[float, float]] = []
    for section in form.sections:
        begins, ends = section.first * bar_s, section.end * bar_s
        levels += [(begins, section.level[0]), (ends - STEP_S, section.level[1])]
    return Arrangement(form, attributes.bpm, tuple(parts), line, tuple(levels))
