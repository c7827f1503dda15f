"""The lead's line: motifs, their variations and cadences over a form's harmony. Steps are sixteenths."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from ssmttm.composer.form import Form
from ssmttm.composer.genres import Genre, Lead, by_energy, read_pattern
from ssmttm.composer.harmony import Chord, chord_scale, ladder, nearest
from ssmttm.composer.metres import Meter, Patterns

Motif = list[tuple[int, int, int]]  # (step, length in steps, scale steps above the bar's anchor)


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


def vary(rng: Random, motif: Motif, meter: Meter) -> Motif:
    """A variation: the bar's second half inverted, the whole shifted, or one long note split in two."""
    kind = rng.choice(("invert", "shift", "split"))
    if kind == "invert":
        pivot = motif[len(motif) // 2][2]
        return [(step, length, height if step < meter.split else 2 * pivot - height) for step, length, height in motif]
    if kind == "shift":
        amount = rng.choice((-1, 1, 2))
        return [(step, length, height + amount) for step, length, height in motif]
    split: Motif = []
    for step, length, height in motif:
        if length >= 4:
            half = length // 2
            split += [(step, half, height), (step + half, length - half, height + rng.choice((-1, 1)))]
        else:
            split.append((step, length, height))
    return split


def cadence(motif: Motif, meter: Meter) -> Motif:
    """What the motif has before the bar's split, then one long note on the anchor."""
    opening = [entry for entry in motif if entry[0] + entry[1] <= meter.split]
    return [*opening, (meter.split, meter.steps - meter.split - 1, 0)]


def write_melody(
    rng: Random, lead: Lead, genre: Genre, patterns: Patterns, form: Form, energy: float
) -> list[tuple[int, int, int]]:
    """The lead's notes as (step, length in steps, MIDI pitch), steps counted from the beginning of the piece.

    A section runs motif, motif, variation, cadence; section B has a motif of its own, and the last bar is one note.
    Notes where the harmony may change and long notes are chord tones, and cadences settle on the tonic where the chord
    has it.
    """
    meter = form.meter
    arpeggio = rng.random() < genre.arpeggio
    rhythms = {"A": by_energy(rng, patterns.melody, energy), "B": rng.choice(patterns.melody)}
    motifs = {letter: draw_motif(rng, rhythm, arpeggio) for letter, rhythm in rhythms.items()}
    variations = {letter: vary(rng, motif, meter) for letter, motif in motifs.items()}
    doubling = rng.choice((0, 0, -2, -7)) if lead.doubled and not arpeggio else 0
    anchor_height = (lead.low + lead.high) / 2 + rng.choice((-3, 0, 3))
    notes: list[tuple[int, int, int]] = []
    for bar, section in enumerate(form.by_bar()):
        if not section.lead:
            continue
        ends = bar + 1 == form.bars
        within = (bar - section.first) % 4
        last = ends or bar + 1 == section.end or (within == 3 and not arpeggio)
        motif = variations[section.letter] if within == 2 else motifs[section.letter]
        if ends:
            motif = [(0, meter.steps - 1, 0)]
        elif last:
            motif = cadence(motif, meter)
        for step, length, height in motif:
            chord = form.chord_at(bar, step)
            scale, tones = _pitches(chord, section.tonic, section.mode, lead)
            anchor = nearest(tones, anchor_height)
            if last and (ends or step == meter.split) and section.tonic in chord.pitch_classes:
                anchor = nearest(ladder((section.tonic,), lead.low, lead.high), anchor_height)
            index = min(max(scale.index(anchor) + height, 0), len(scale) - 1)
            pitch = scale[index]
            if step in (0, meter.split) or length >= 4 or arpeggio:
                pitch = nearest(tones, pitch)
            notes.append((bar * meter.steps + step, length, pitch))
            if doubling and length >= 2:
                second = scale[max(index + doubling, 0)]
                second = nearest(tones, second) if length >= 4 else second
                if second != pitch:
                    notes.append((bar * meter.steps + step, length, second))
    return notes


@lru_cache(maxsize=4096)
def _pitches(chord: Chord, tonic: int, mode: str, lead: Lead) -> tuple[list[int], list[int]]:
    """The pitches of a chord's scale and of its tones in a lead's range."""
    scale = ladder(chord_scale(chord, tonic, mode), lead.low, lead.high)
    return scale, ladder(chord.pitch_classes, lead.low, lead.high)
