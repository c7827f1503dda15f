"""The line on top.

Shapes: C channels, T frames, N notes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ssmttm.conditions.beat import bumps
from ssmttm.conditions.timeline import MAXIMUM_SECONDS, ScoreControl, entries, number, shown
from ssmttm.errors import UserError

PITCHES = 128  # of MIDI; 60 is middle C
OCTAVES = 7  # from C1 to B7; what lies beyond counts to the nearest


class Notes(NamedTuple):
    """First and last second and MIDI pitch of notes [N], in the order of their beginnings."""

    starts_N: np.ndarray
    ends_N: np.ndarray
    pitches_N: np.ndarray

    def highest(self, times_T: np.ndarray) -> np.ndarray:
        """Pitches [T] of the highest notes that sound at these times, which are in order; -1 where none does."""
        pitch_T = np.full(len(times_T), -1)
        first_N, stop_N = np.searchsorted(times_T, self.starts_N), np.searchsorted(times_T, self.ends_N)
        for note in np.argsort(self.pitches_N, kind="stable"):
            pitch_T[first_N[note] : stop_N[note]] = self.pitches_N[note]
        return pitch_T

    def onsets(self) -> np.ndarray:
        """When notes begin that are the highest then."""
        return self.starts_N[self.highest(self.starts_N) == self.pitches_N]


class Melody(ScoreControl[Notes]):
    """The melody, as notes `[[start_s, duration_s, midi_pitch], ...]` in any order; where several sound, the highest.
    Where none does, before and between them, none is asked for; after the last of them anything may come.

    Channels: pitch class (12), octave (7), a bump where a note begins (1), whether none sounds (1).
    """

    name, channels, dropout = "melody", 12 + OCTAVES + 2, 0.5
    form = "[[start_s, duration_s, midi_pitch], ...]"

    def read(self, value: Any, field: str) -> Notes:
        if value is None:
            value = []
        notes = []
        for place, (start, duration, pitch) in enumerate(entries(value, "[start_s, duration_s, midi_pitch]", field)):
            named = f"{field}[{place}]"
            begin = number(start, 0, MAXIMUM_SECONDS, f"the start of {named}")
            length = number(duration, 0, MAXIMUM_SECONDS, f"the duration of {named}")
            if isinstance(pitch, bool) or pitch not in range(PITCHES):
                raise UserError(f"the pitch of {named} is {shown(pitch)}; give a whole number from 0 to {PITCHES - 1}")
            notes.append((begin, begin + length, pitch))
        starts_N, ends_N, pitches_N = np.array(sorted(notes), float).reshape(-1, 3).T
        return Notes(starts_N, ends_N, pitches_N.astype(int))

    def at(self, written: Notes, times_T: np.ndarray) -> np.ndarray:
        values_CT = np.zeros((self.channels, len(times_T)))
        pitch_T = written.highest(times_T)
        sounds_T = pitch_T >= 0
        frames, pitches = np.flatnonzero(sounds_T), pitch_T[sounds_T]
        values_CT[pitches % 12, frames] = 1
        values_CT[12 + np.clip(pitches // 12 - 2, 0, OCTAVES - 1), frames] = 1  # MIDI's octave 1 begins at 24
        values_CT[-2] = bumps(written.onsets(), times_T)
        values_CT[-1] = ~sounds_T
        is_over_T = times_T >= written.ends_N.max(initial=-np.inf)
        return np.where(is_over_T, np.nan, values_CT)
