"""Melodies from motifs: a rhythm and a contour, repeated on each chord, varied, and brought to a cadence."""

from __future__ import annotations

from random import Random

from ssmttm.composer.form import Form
from ssmttm.composer.genres import Genre
from ssmttm.composer.instruments import Lead
from ssmttm.composer.patterns import STEPS, by_energy, read_pattern
from ssmttm.composer.theory import chord_scale, ladder, nearest

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
