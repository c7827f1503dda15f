"""A line to follow as notes: from a MIDI file the top line, from sound the pitch that is sung or played alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmttm import audio as audio_io
from ssmttm import storage
from ssmttm.audio import Audio
from ssmttm.conditions.handles import MOST_NOTES, Note
from ssmttm.errors import MissingExtraError, UserError

RATE, HOP = 22_050, 512  # of pitch tracking
LOWEST_HZ, HIGHEST_HZ = 65.4, 1_568.0  # C2 to G6: voices, and most of what is whistled
CONFIDENT = 0.5  # probability from which a frame counts as sung
SHORTEST_S = 0.08  # of a note: shorter ones are slides between two


def notes_of(source: str | os.PathLike[str] | Audio) -> tuple[Note, ...]:
    """Notes (start in s, duration in s, MIDI pitch) of a MIDI file (.mid), a file of sound, or sound.

    Raises:
        UserError: if it cannot be read, or there is no melody in it.
        MissingExtraError: where what reads it is not installed.
    """
    if isinstance(source, Audio) or not isinstance(source, str | os.PathLike):
        notes, what = _heard(audio_io.checked(source, "melody")), "the sound"
    else:
        what = storage.as_text(source)
        is_midi = what.lower().endswith((".mid", ".midi"))
        notes = _top_line(what) if is_midi else _heard(audio_io.read(what))
    if not notes:
        raise UserError(f"melody: no note is heard in {what}; give one voice, sung or played alone, or a MIDI file")
    if len(notes) > MOST_NOTES:
        raise UserError(f"melody: {what} has {len(notes)} notes; give up to {MOST_NOTES}")
    return tuple(notes)


def _top_line(uri: str) -> list[Note]:
    """The highest of the notes that sound at a time, drums left out."""
    try:
        import pretty_midi
    except ImportError:
        raise MissingExtraError("pretty_midi", "demo") from None
    import io

    try:
        midi = pretty_midi.PrettyMIDI(io.BytesIO(storage.read_bytes(uri)))
    except UserError:
        raise
    except Exception as error:  # whatever a parser may raise over bytes that are no MIDI
        raise UserError(f"melody: {uri} is no MIDI file ({' '.join(str(error).split())[:80]})") from None
    played = [note for part in midi.instruments if not part.is_drum for note in part.notes if note.end > note.start]
    return top_line([(note.start, note.end - note.start, note.pitch) for note in played])


def top_line(notes: Sequence[Note]) -> list[Note]:
    """Of notes that may sound together, the highest at each time; one that is hidden in between goes on after it."""
    times = sorted({time for start, duration, _ in notes for time in (start, start + duration)})
    waiting = sorted(notes, reverse=True)  # the first to begin is the last
    sounding: list[Note] = []
    line: list[tuple[float, float, Note]] = []
    for begin, end in itertools.pairwise(times):
        sounding = [note for note in sounding if note[0] + note[1] > begin]
        while waiting and waiting[-1][0] <= begin:
            sounding.append(waiting.pop())
        if sounding:
            top = max(sounding, key=lambda note: (note[2], note[0]))
            if line and line[-1][2] is top and line[-1][1] == begin:
                begin = line.pop()[0]
            line.append((begin, end, top))
    return [(float(begin), float(end - begin), float(top[2])) for begin, end, top in line]


def _heard(sound: Audio) -> list[Note]:
    """Notes of one voice, by probabilistic YIN (Mauch and Dixon, ICASSP 2014): runs of frames that are surely sung and
    whose pitch rounds to one semitone."""
    import librosa  # takes a second or more

    mono = audio_io.to_mono(audio_io.resample(sound, RATE)).samples[0]
    hertz_F, voiced_F, sure_F = librosa.pyin(mono, fmin=LOWEST_HZ, fmax=HIGHEST_HZ, sr=RATE, hop_length=HOP)
    return runs(librosa.hz_to_midi(hertz_F), voiced_F & (sure_F >= CONFIDENT), HOP / RATE)


def runs(pitch_F: np.ndarray, sung_F: np.ndarray[Any, np.dtype[np.bool_]], frame_s: float) -> list[Note]:
    """Notes of frames' pitches [F], where they are sung: equal semitones that follow one another."""
    key_F = np.where(sung_F, np.round(np.where(sung_F, pitch_F, 0.0)), -1)
    edges = [0, *(np.flatnonzero(np.diff(key_F)) + 1).tolist(), len(key_F)]
    spans = [(first, last, float(key_F[first])) for first, last in itertools.pairwise(edges) if last > first]
    return [
        (first * frame_s, (last - first) * frame_s, pitch)
        for first, last, pitch in spans
        if pitch >= 0 and (last - first) * frame_s >= SHORTEST_S
    ]
