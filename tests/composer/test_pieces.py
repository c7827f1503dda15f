"""Pieces and how they are played: attributes, harmony, form, parts, stems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ssmttm.composer.arrange import Note, Part, arrange
from ssmttm.composer.genres import DRUM_KEYS, GENRES, LEADS, Mix
from ssmttm.composer.pieces import KEYS, SCALES, attributes_of, chord_scale, draw_form, parse_chord, voicing
from ssmttm.composer.render import SAMPLE_RATE, Player, find_soundfont, render
from ssmttm.errors import UserError


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(find_soundfont())


def test_attributes_are_varied_and_balanced() -> None:
    pieces = [attributes_of(1, index) for index in range(800)]
    assert set(Counter(piece.genre for piece in pieces).values()) == {100}
    assert {piece.key for piece in pieces} == set(KEYS)
    assert len(KEYS) == 12
    assert {piece.lead for piece in pieces} == set(LEADS)
    assert len(LEADS) >= 15
    assert 60 <= min(piece.bpm for piece in pieces) < 70
    assert 170 < max(piece.bpm for piece in pieces) <= 180
    for genre, style in GENRES.items():
        own = [piece for piece in pieces if piece.genre == genre]
        assert {piece.mode for piece in own} == {"major", "minor"}
        assert {piece.drums for piece in own} == ({True, False} if style.drums else {False})
        assert max(Counter(piece.lead for piece in own).values()) <= 100 / len(style.leads) + 2
    genres_of_lead = {lead: {piece.genre for piece in pieces if piece.lead == lead} for lead in LEADS}
    assert min(len(genres) for genres in genres_of_lead.values()) >= 2  # a lead does not give its genre away


@pytest.mark.parametrize("index", range(24))
def test_arrangement(index: int) -> None:
    attributes = attributes_of(2, index)
    parts = arrange(Random(index), attributes, 10.0)
    assert parts == arrange(Random(index), attributes, 10.0)
    roles = Counter(part.role for part in parts)
    assert roles["lead"] == roles["bass"] == 1
    assert roles["chords"] >= 1
    assert roles["drums"] == attributes.drums
    lead = next(part for part in parts if part.role == "lead")
    instrument = LEADS[attributes.lead]
    assert lead.program == instrument.program
    assert all(instrument.low <= note.pitch <= instrument.high for note in lead.notes)
    assert all(part.program != lead.program for part in parts if part.role == "chords")
    drums = {note.pitch for part in parts if part.role == "drums" for note in part.notes}
    assert drums <= set(DRUM_KEYS.values())
    for part in parts:
        assert all(note.start >= 0 and note.duration > 0 and 1 <= note.velocity <= 127 for note in part.notes)
    beat = 60 / attributes.bpm
    sounding = np.zeros(100, bool)
    for note in lead.notes:
        sounding[int(note.start * 10) : int((note.start + note.duration) * 10) + 1] = True
    assert sounding[int(40 * beat) :].mean() > 0.6  # the intro is one bar at most
    tonic, scale = KEYS.index(attributes.key), SCALES[attributes.mode]
    inside = [(note.pitch - tonic) % 12 in scale for note in lead.notes]
    assert np.mean(inside) > 0.85
    assert len({note.pitch for note in lead.notes}) >= 3


@pytest.mark.parametrize("bpm", [60, 90, 120, 180])
def test_form_begins_and_rests_on_the_tonic(bpm: int) -> None:
    for index in range(16):
        attributes = replace(attributes_of(3, index), bpm=bpm)
        form = draw_form(Random(index), attributes, 10.0)
        assert form.bars * 240 / bpm >= 10.0
        assert len(form.chords) == 2 * form.bars
        assert form.chords[0].root == form.chords[-1].root == KEYS.index(attributes.key)


def test_harmony() -> None:
    assert voicing(parse_chord("I", 0, "major"), 60) == [55, 60, 64]
    assert parse_chord("VI", 9, "minor").pitch_classes == (5, 9, 0)
    assert parse_chord("V7", 0, "major").pitch_classes == (7, 11, 2, 5)
    assert chord_scale(parse_chord("V", 9, "minor"), 9, "minor") == (0, 2, 4, 5, 8, 9, 11)  # G sharp for G


def test_notes_fall_on_their_sample_and_stems_do_not_depend_on_what_was_played_before(player: Player) -> None:
    piece = [Part("lead", 0, (Note(0.25, 0.4, 72, 100), Note(0.5, 0.3, 76, 90)))]
    first = player.play(piece, SAMPLE_RATE)
    onset = int(np.flatnonzero(np.abs(first) > 1e-5)[0])
    assert 0 <= onset - SAMPLE_RATE // 4 < 120  # 5 ms of attack
    player.play([Part("drums", 0, tuple(Note(0.01 * i, 0.1, 49, 127) for i in range(50)))], SAMPLE_RATE)
    np.testing.assert_array_equal(player.play(piece, SAMPLE_RATE), first)


def test_every_program_in_use_sounds(player: Player) -> None:
    programs = {lead.program for lead in LEADS.values()}
    for genre in GENRES.values():
        programs |= {program for layer in (*genre.chords, genre.bass) for program in layer.programs}
    for program in programs:
        notes = (Note(0.0, 0.5, 57, 100),)
        assert np.abs(player.play([Part("lead", program, notes)], SAMPLE_RATE // 2)).max() > 1e-3, program


def test_silence_is_an_error(player: Player) -> None:
    inaudible = [Part("lead", 0, (Note(0.0, 0.5, 130, 100),))]  # no such key
    with pytest.raises(RuntimeError, match="silent"):
        render(player, inaudible, Mix(0, 0, 0, 0.5, 0.1), 1.0)


def test_soundfont_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "Mine.sf2"
    other.write_bytes(b"RIFF")
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(other))
    assert (find_soundfont().path, find_soundfont().name) == (str(other), "Mine")
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(tmp_path / "absent.sf2"))
    with pytest.raises(UserError, match="SSMTTM_SOUNDFONT"):
        find_soundfont()
    monkeypatch.delenv("SSMTTM_SOUNDFONT")
    monkeypatch.setattr("ssmttm.composer.render.SYSTEM_FOLDERS", ())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="SSMTTM_SOUNDFONT"):
        find_soundfont()
