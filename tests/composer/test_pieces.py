"""What pieces are: varied, balanced, each genre in its own ways."""

from __future__ import annotations

from collections import Counter

from ssmttm.composer.genres import GENRES, LEADS
from ssmttm.composer.harmony import KEYS
from ssmttm.composer.metres import METERS
from ssmttm.composer.pieces import attributes_of


def test_attributes_are_varied_and_balanced() -> None:
    pieces = [attributes_of(1, index) for index in range(800)]
    assert set(Counter(piece.genre for piece in pieces).values()) == {100}
    assert {piece.key for piece in pieces} == set(KEYS)
    assert len(KEYS) == 12
    assert {piece.lead for piece in pieces} == set(LEADS)
    assert len(LEADS) >= 15
    assert min(piece.bpm for piece in pieces) < 50
    assert 170 < max(piece.bpm for piece in pieces) <= 180
    assert sum(piece.bpm != round(piece.bpm) for piece in pieces) > 780
    assert 0.15 < sum(piece.modulates for piece in pieces) / 800 < 0.25
    metres = Counter(piece.meter for piece in pieces)
    assert set(metres) == set(METERS)
    assert min(metres["3/4"], metres["6/8"]) > 80
    for genre, style in GENRES.items():
        own = [piece for piece in pieces if piece.genre == genre]
        assert {piece.mode for piece in own} == {"major", "minor"}
        assert {piece.drums for piece in own} == ({True, False} if style.drums else {False})
        assert max(Counter(piece.lead for piece in own).values()) <= 100 / len(style.leads) + 2
        assert {"3/4", "4/4", "6/8"} <= set(style.meters)
    genres_of_lead = {lead: {piece.genre for piece in pieces if piece.lead == lead} for lead in LEADS}
    assert min(len(genres) for genres in genres_of_lead.values()) >= 2  # a lead does not give its genre away


def test_mood_follows_the_mode() -> None:
    moods = {"major": {"happy", "calm"}, "minor": {"dark", "sad"}}
    for index in range(40):
        piece = attributes_of(1, index)
        assert piece.mood in moods[piece.mode]
        for mode in moods:
            moved = piece.in_key("D", mode)
            assert (moved.key, moved.mode, moved.modulates) == ("D", mode, False)
            assert moved.mood in moods[mode]
        assert piece.in_key(piece.key, piece.mode).mood == piece.mood
