"""Where the beats and bars are.

An onset that falls on a sixteenth must be readable by a linear layer, so beside the phases there is a channel for each
sixteenth of the beat and of the bar: a bump where a frame lies on it. Shapes: C channels, T frames, N ticks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.timeline import ScoreControl, Timeline, number, shown
from ssmttm.errors import UserError

Metre = Literal[2, 3, 4, 5, 6, 7, "6/8"]
METRES: tuple[Metre, ...] = (2, 3, 4, 5, 6, 7, "6/8")
SLOWEST, FASTEST = 20.0, 400.0  # beats per minute
BUMP_S = 0.025  # a bump's standard deviation
REACH_S = 6 * BUMP_S  # beyond it a bump is nothing
IN_BEAT, IN_BAR = 6, 28  # sixteenths at most
FIELDS = ("bpm", "meter", "beat")


@dataclass(frozen=True)
class Grid:
    """Beats from one place on. beat: which one of the bar stands there, from 0. metre: None if bars are not known."""

    bpm: float
    metre: Metre | None = None
    beat: int = 0

    @property
    def sixteenths(self) -> int:
        """In a beat."""
        return 6 if self.metre == "6/8" else 4

    @property
    def beats(self) -> int:
        """In a bar."""
        return 2 if self.metre == "6/8" else self.metre or 1


class Beat(ScoreControl[Timeline[Grid]]):
    """Tempo, beats and bars. A value is `{"bpm": 96.5, "meter": 4}`: from its time on (a constant's is 0) beats follow
    one another, and the first of them begins a bar, or is its beat `"beat": 3`. In `6/8` a bar has two beats of six
    sixteenths; without a metre bars are not known.

    Channels: sine and cosine of the beat's and of the bar's phase (4); bumps at the beat's sixteenths (6, of which 4 in
    most metres) and at the bar's (28); the metre (7). Those of bars and metre are zero where these are not known.
    """

    name, channels = "beat", 4 + IN_BEAT + IN_BAR + len(METRES)
    form = '{"bpm": 20 to 400, "meter": 2 to 7 or "6/8"}'

    def read(self, value: Any, field: str) -> Timeline[Grid]:
        return Timeline.read(value, self._grid, field)

    def told(self, excerpt: Excerpt) -> Any:
        return excerpt.beats.timeline()

    def _grid(self, value: Any, field: str) -> Grid:
        if not isinstance(value, dict) or not {"bpm"} <= set(value) <= set(FIELDS):
            raise UserError(f"{field} is {shown(value)}; give {self.form}")
        bpm, metre = number(value["bpm"], SLOWEST, FASTEST, f"{field}.bpm"), value.get("meter")
        if metre is not None:
            if metre not in METRES:
                raise UserError(f'{field}.meter is {shown(metre)}; give 2 to 7, "6/8" or null')
            metre = METRES[METRES.index(metre)]  # 4, where 4.0 was given
        beats = Grid(bpm, metre).beats
        beat = value.get("beat", 1)
        if isinstance(beat, bool) or beat not in range(1, beats + 1):
            raise UserError(f"{field}.beat is {shown(beat)}; give the number of a beat of the bar, from 1 to {beats}")
        return Grid(bpm, metre, int(beat) - 1)

    def at(self, written: Timeline[Grid], times_T: np.ndarray) -> np.ndarray:
        def each(value: Callable[[Grid], float]) -> np.ndarray:
            """[T], NaN where no grid is."""
            table = [np.nan if grid is None else value(grid) for grid in written.values]
            return np.array([*table, np.nan])[places_T]  # a place of -1 is the last

        places_T = written.places(times_T)
        begun_T = times_T - np.array([*written.starts, 0.0])[places_T]
        beats_T = begun_T * each(lambda grid: grid.bpm) / 60
        bars_T = (beats_T + each(lambda grid: grid.beat)) / each(lambda grid: grid.beats)
        has_bars_T = each(lambda grid: grid.metre is not None)
        values_CT = np.zeros((self.channels, len(times_T)))
        values_CT[0:2] = np.sin(2 * np.pi * beats_T), np.cos(2 * np.pi * beats_T)
        values_CT[2:4] = np.sin(2 * np.pi * bars_T) * has_bars_T, np.cos(2 * np.pi * bars_T) * has_bars_T
        values_CT[4 : 4 + IN_BEAT + IN_BAR] = _bumps(written, times_T)
        for place, metre in enumerate(METRES, start=4 + IN_BEAT + IN_BAR):
            values_CT[place] = each(lambda grid, metre=metre: grid.metre == metre)  # type: ignore[misc]
        return np.where(np.isnan(beats_T), np.nan, values_CT)


def _ticks(timeline: Timeline[Grid], first_s: float, last_s: float) -> np.ndarray:
    """The sixteenths of all grids from `first_s` to `last_s`, [3, N]: their times in order, which of the beat each is,
    and which of the bar, -1 where bars are not known."""
    found = [np.empty((3, 0))]
    for place, grid in enumerate(timeline.values):
        if grid is None:
            continue
        start_s, stop_s, step_s = timeline.starts[place], last_s, 60 / grid.bpm / grid.sixteenths
        if place + 1 < len(timeline.starts):
            # The next grid's first beat stands for what comes within half a sixteenth of it. Where none follows, a
            # frame before the end may still lie on the beat that would have come there.
            half_s = step_s / 2 if timeline.values[place + 1] is None else -step_s / 2
            stop_s = min(stop_s, timeline.starts[place + 1] + half_s)
        first = max(0, int(np.ceil((first_s - start_s) / step_s)))
        numbers_N = np.arange(first, int(np.floor((stop_s - start_s) / step_s)) + 1)
        in_bar_N = (numbers_N + grid.beat * grid.sixteenths) % (grid.sixteenths * grid.beats)
        if grid.metre is None:
            in_bar_N = np.full(len(numbers_N), -1)
        found.append(np.stack([start_s + step_s * numbers_N, numbers_N % grid.sixteenths, in_bar_N]))
    return np.concatenate(found, axis=1)


def _bumps(timeline: Timeline[Grid], times_T: np.ndarray) -> np.ndarray:
    """[IN_BEAT + IN_BAR, T]: how near each frame is to the nearest of each sixteenth, of whichever beat, bar or grid:
    no bump ends where one of these does."""
    ticks_N, in_beat_N, in_bar_N = _ticks(timeline, times_T[0] - REACH_S, times_T[-1] + REACH_S)
    places = [in_beat_N == place for place in range(IN_BEAT)] + [in_bar_N == place for place in range(IN_BAR)]
    return np.stack([bumps(ticks_N[is_place_N], times_T) for is_place_N in places])


def bumps(places_N: np.ndarray, times_T: np.ndarray) -> np.ndarray:
    """A bump at each of the places in time, in order: [T], 1 on one, falling to 0 within `REACH_S`."""
    if not len(places_N):
        return np.zeros(len(times_T))
    after_T = np.searchsorted(places_N, times_T)
    before_s = np.abs(times_T - places_N[np.maximum(after_T - 1, 0)])
    distance_T = np.minimum(before_s, np.abs(places_N[np.minimum(after_T, len(places_N) - 1)] - times_T))
    return np.exp(-0.5 * (distance_T / BUMP_S) ** 2)
