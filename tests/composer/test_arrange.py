"""Pieces as they are written: form, harmony, parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from ssmttm.composer.arrange import arrange
from ssmttm.composer.compose import compose
from ssmttm.composer.form import draw_form
from ssmttm.composer.genres import DRUM_KEYS, GENRES, LEADS
from ssmttm.composer.harmony import KEYS, SCALES, Chord, chord_scale, parse_chord, voicing
from ssmttm.composer.metres import METERS
from ssmttm.composer.pieces import attributes_of
from ssmttm.evaluation.music import pitch_class


@pytest.mark.parametrize("index", range(16))
def test_arrangement(index: int) -> None:
    attributes = attributes_of(2, index)
    piece = arrange(Random(index), attributes, 6)
    assert piece == arrange(Random(index), attributes, 6)
    roles = Counter(part.role for part in piece.parts)
    assert roles["lead"] == roles["bass"] == 1
    assert roles["chords"] >= 1
    assert roles["drums"] == attributes.drums
    lead = next(part for part in piece.parts if part.role == "lead")
    instrument = LEADS[attributes.lead]
    assert lead.program == instrument.program
    assert all(instrument.low <= note.pitch <= instrument.high for note in lead.notes)
    assert all(part.program != lead.program for part in piece.parts if part.role == "chords")
    drums = {note.pitch for part in piece.parts if part.role == "drums" for note in part.notes}
    assert drums <= set(DRUM_KEYS.values())
    last = piece.form.bars * piece.bar_s
    for part in piece.parts:
        assert all(note.start >= 0 and note.duration > 0 and 1 <= note.velocity <= 127 for note in part.notes)
        assert all(note.start < last - 0.5 * 60 / piece.bpm for note in part.notes)  # and the last chord rings
    assert len({note.pitch for note in lead.notes}) >= 3
    assert {pitch for _, _, pitch in piece.line} <= {note.pitch for note in lead.notes}


def test_who_plays_is_as_the_sections_say() -> None:
    for index in range(20):
        piece = compose(4, index).arrangement
        for section in piece.form.sections:
            begins, ends = section.first * piece.bar_s - 0.05, section.end * piece.bar_s - 0.05
            plays = Counter(
                part.role for part in piece.parts if any(begins <= note.start < ends for note in part.notes)
            )
            for role in ("lead", "chords", "bass", "drums"):
                assert bool(plays[role]) == getattr(section, role), (index, section, role)
            assert plays["chords"] <= 1 or not section.sparse


def test_forms_are_varied() -> None:
    forms = [compose(4, index).arrangement.form for index in range(80)]
    kinds = Counter(kind for form in forms for kind in {section.kind for section in form.sections})
    assert set(kinds) == {"intro", "verse", "chorus", "break", "build", "ending"}
    assert min(kinds.values()) >= 8
    full = [form for form in forms if any(section.drums for section in form.sections)]
    assert sum(any(not section.drums for section in form.sections) for form in full) > 0.4 * len(full)
    assert sum(any(not section.bass for section in form.sections) for form in forms) > 0.4 * len(forms)
    levels = [[level for section in form.sections for level in section.level] for form in forms]
    assert np.mean([max(one) - min(one) for one in levels]) > 2.5


@pytest.mark.parametrize("meter", METERS)
def test_form_begins_and_rests_on_the_tonic(meter: str) -> None:
    for index in range(16):
        attributes = replace(attributes_of(3, index), meter=meter)
        form = draw_form(Random(index), attributes, 5)
        assert form.meter.name == meter
        assert len(form.chords) == 2 * form.bars == 2 * len(form.by_bar())
        home, last = form.sections[0], form.sections[-1]
        assert (home.tonic, home.mode) == (KEYS.index(attributes.key), attributes.mode)
        assert form.chords[0].root == home.tonic
        assert form.chords[-1].root == form.chords[-1].bass == last.tonic
        keys = {(section.tonic, section.mode) for section in form.sections}
        assert len(keys) == 1 + attributes.modulates
        scales = [(section, SCALES[section.mode]) for section in form.by_bar()]
        for bar, (section, scale) in enumerate(scales):
            assert (form.chords[2 * bar].root - section.tonic) % 12 in scale


def test_bass_plays_what_the_chord_stands_on() -> None:
    """On a bar's first beat the bass has the chord's lowest tone, which is not always its root."""
    inverted = 0
    for index in range(40):
        piece = compose(8, index).arrangement
        (bass,) = (part for part in piece.parts if part.role == "bass")
        for note in bass.notes:
            bar = round(note.start / piece.bar_s)
            if abs(note.start - bar * piece.bar_s) < 0.03 and bar < piece.form.bars:
                chord = piece.form.chord_at(bar, 0)
                assert note.pitch % 12 == chord.bass
                inverted += chord.bass != chord.root
    assert inverted > 15


def test_harmony() -> None:
    assert voicing(parse_chord("I", 0, "major"), 60) == [55, 60, 64]
    assert parse_chord("VI", 9, "minor").pitch_classes == (5, 9, 0)
    assert parse_chord("V7", 0, "major").pitch_classes == (7, 11, 2, 5)
    assert chord_scale(parse_chord("V", 9, "minor"), 9, "minor") == (0, 2, 4, 5, 8, 9, 11)  # G sharp for G
    assert Chord(9, (0, 3, 7, 10), 7).symbol == "Am7/G"


def test_chord_symbols_are_read_as_they_were_meant() -> None:
    """By pychord, of every chord that any genre has in any key and over any of its tones."""
    import pychord

    numerals = {
        (numeral, mode)
        for genre in GENRES.values()
        for mode, progressions in genre.progressions.items()
        for progression in progressions
        for numeral in progression.split()
    }
    for numeral, mode in sorted(numerals):
        for tonic in range(12):
            chord = parse_chord(numeral, tonic, mode)
            for bass in (None, chord.pitch_classes[1]):
                symbol = chord._replace(inversion=bass).symbol
                read = pychord.Chord(symbol)
                assert set(map(pitch_class, read.components())) == set(chord.pitch_classes), symbol
                assert pitch_class(read.root) == chord.root
                assert pitch_class(read.on or read.root) == (chord.root if bass is None else bass), symbol
