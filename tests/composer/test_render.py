"""How arrangements are played: on their samples, in stems, as loud as told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmttm.composer.arrange import Note, Part
from ssmttm.composer.compose import compose, perform
from ssmttm.composer.effects import Effects
from ssmttm.composer.fonts import find_soundfonts
from ssmttm.composer.genres import GENRES, LEADS, Mix
from ssmttm.composer.render import SAMPLE_RATE, Player, render

DRY = Effects({}, {}, {}, 0.5, 1.0)


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(find_soundfonts()[-1])


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
    inaudible = (Part("lead", 0, (Note(0.0, 0.5, 130, 100),)),)  # no such key
    piece = replace(compose(0, 0).arrangement, parts=inaudible)
    with pytest.raises(RuntimeError, match="silent"):
        render(player, piece, Mix(0, 0, 0, 0.5, 0.1), DRY, 0.0, 1.0)


def test_dynamics_are_heard(player: Player) -> None:
    """One note again and again, its section's level falling by 12 dB."""
    notes = tuple(Note(0.25 * beat, 0.2, 60, 90) for beat in range(32))
    piece = replace(compose(0, 0).arrangement, parts=(Part("lead", 16, notes),), levels=((0.0, 0.0), (8.0, -12.0)))
    samples = render(player, piece, Mix(0, 0, 0, 0.5, 0.0), DRY, 0.0, 8.0).samples[0]
    early, late = (20 * np.log10(samples[part].std()) for part in (slice(0, 24_000), slice(168_000, 190_000)))
    assert early - late == pytest.approx(10.5, abs=1.0)


def test_an_excerpt_begins_with_what_rings_from_before(player: Player) -> None:
    """The room still answers a note that ended before the excerpt, whose own note comes a second later."""
    notes = (Note(1.0, 0.4, 60, 100), Note(2.5, 0.4, 60, 100))
    piece = replace(compose(0, 0).arrangement, parts=(Part("lead", 16, notes),), levels=((0.0, 0.0), (9.0, 0.0)))
    samples = render(player, piece, Mix(0, 0, 0, 2.0, 0.3), DRY, 1.5, 2.0).samples[0]
    assert 0.01 < samples[:6000].std() / samples.std() < 0.5


def test_whole_pieces_are_as_loud_as_records_and_not_clipped(player: Player) -> None:
    import pyloudnorm

    for index in (0, 2):
        samples = perform(player, compose(5, index)).samples[0]
        assert -18 < pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(samples) < -15
        assert 0.5 < np.abs(samples).max() <= 0.95
