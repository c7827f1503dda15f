"""A melody's notes, out of MIDI and out of sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.engine.melody import notes_of, runs, top_line
from ssmttm.engine.request import MusicRequest
from ssmttm.errors import UserError

RATE = 22_050
notes = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(40, 80)), max_size=8)


@given(notes)
def test_the_top_line_is_the_highest_note_at_each_time(notes: list[tuple[int, int, int]]) -> None:
    line = top_line([(float(start), float(duration), float(pitch)) for start, duration, pitch in notes])
    assert line == sorted(line)
    for time in np.arange(30) + 0.5:
        sounding = [pitch for start, duration, pitch in notes if start < time < start + duration]
        heard = [pitch for start, duration, pitch in line if start < time < start + duration]
        assert heard == ([max(sounding)] if sounding else [])


def test_midi_gives_its_top_line_without_drums(tmp_path: Path) -> None:
    pretty_midi = pytest.importorskip("pretty_midi")
    midi = pretty_midi.PrettyMIDI()
    lead, drums = pretty_midi.Instrument(0), pretty_midi.Instrument(0, is_drum=True)
    lead.notes = [pretty_midi.Note(80, pitch, start, end) for pitch, start, end in ((48, 0, 2), (72, 0, 1), (69, 1, 2))]
    drums.notes = [pretty_midi.Note(80, 90, 0, 2)]
    midi.instruments = [lead, drums]
    midi.write(str(tmp_path / "line.mid"))
    request = MusicRequest("x", melody=tmp_path / "line.mid")
    assert request.melody == notes_of(str(tmp_path / "line.mid"))
    assert np.allclose(request.melody, [(0, 1, 72), (1, 1, 69)], atol=0.01)  # type: ignore[arg-type]


def sung(pitches: list[int | None], seconds: float) -> Audio:
    """A voice with overtones; None: breath, which has no pitch."""
    time = np.arange(round(seconds * RATE)) / RATE
    random, parts = np.random.default_rng(0), []
    for pitch in pitches:
        if pitch is None:
            parts.append(0.02 * random.standard_normal(len(time)))
        else:
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            parts.append(sum(0.3 / k * np.sin(2 * np.pi * k * hertz * time) for k in range(1, 5)))
    return Audio(np.concatenate(parts).astype(np.float32)[None], RATE)


def test_what_is_sung_becomes_notes_and_breath_none(tmp_path: Path) -> None:
    audio.write(tmp_path / "hum.wav", sung([60, None, 64], 0.4))
    found = notes_of(tmp_path / "hum.wav")
    assert [pitch for _, _, pitch in found] == [60, 64]
    assert np.allclose([note[:2] for note in found], [(0, 0.4), (0.8, 0.4)], atol=0.08)
    with pytest.raises(UserError, match="melody: no note is heard in the sound"):
        notes_of(sung([None], 0.3))


def test_frames_become_notes_where_they_are_sung() -> None:
    pitch, is_sung = np.array([60, 60.2, 60.4, 64, np.nan, 64, 64, 64]), np.array([1, 1, 1, 1, 0, 1, 1, 0], bool)
    assert runs(pitch, is_sung, 0.1) == [(0, pytest.approx(0.3), 60), (pytest.approx(0.3), 0.1, 64), (0.5, 0.2, 64)]
    assert runs(pitch, is_sung, 0.03) == [(0, pytest.approx(0.09), 60)]  # the others are too short


@pytest.mark.parametrize(
    ("melody", "said"),
    [
        ("no/such.mid", "no/such.mid does not exist"),
        ([[1, 2]], r"melody is \[\[1, 2\]\]; give notes"),
        (5, "melody"),
    ],
)
def test_what_is_no_melody_is_refused(melody: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        MusicRequest("x", melody=melody)  # type: ignore[arg-type]


def test_bytes_that_are_no_midi_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pretty_midi")
    (tmp_path / "a.mid").write_bytes(b"MThd not really")
    with pytest.raises(UserError, match=r"a\.mid is no MIDI file"):
        notes_of(tmp_path / "a.mid")
