"""What is asked of a piece, or known of a track, in the course of time.

A timeline as JSON is one value for the whole piece, or `[[seconds, value], ...]`: each value holds until the next one,
`null` asks for nothing, and before the first one nothing is asked. A frame takes the value that holds at its middle.

Shapes: C channels, T frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from ssmttm.conditions.base import ControlConditioner, Excerpt
from ssmttm.errors import UserError

MAXIMUM_ENTRIES = 10_000  # of a timeline or a melody
MAXIMUM_SECONDS = 1e6

Value = TypeVar("Value")
Written = TypeVar("Written")


def shown(value: Any) -> str:
    """A JSON value as messages show it: on one line, and not all of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(value: Any, low: float, high: float, field: str) -> float:
    """A number from `low` to `high`.

    Raises:
        UserError: for anything else, naming the field.
    """
    if (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and low <= value <= high
    ):
        return float(value)
    raise UserError(f"{field} is {shown(value)}; give a number from {low:g} to {high:g}")


def entries(value: Any, form: str, field: str) -> list[Any]:
    """A list of at most `MAXIMUM_ENTRIES` lists, each of as many values as `form` names: `[seconds, value]`.

    Raises:
        UserError: for anything else, naming the field.
    """
    if not isinstance(value, list | tuple):
        raise UserError(f"{field} is {shown(value)}; give [{form}, ...]")
    if len(value) > MAXIMUM_ENTRIES:
        raise UserError(f"{field} has {len(value)} entries; give at most {MAXIMUM_ENTRIES}")
    for place, entry in enumerate(value):
        if not isinstance(entry, list | tuple) or len(entry) != form.count(",") + 1:
            raise UserError(f"{field}[{place}] is {shown(entry)}; give {form}")
    return list(value)


def middles(frames: int, frame_rate: float, start_s: float = 0.0) -> np.ndarray:
    """The middles of frames [T] in seconds; the first frame begins at `start_s`."""
    return start_s + (np.arange(frames) + 0.5) / frame_rate


@dataclass(frozen=True)
class Timeline(Generic[Value]):
    """Values, and the seconds from which each of them holds; None where nothing is asked."""

    starts: tuple[float, ...]
    values: tuple[Value | None, ...]

    @classmethod
    def read(cls, given: Any, read: Callable[[Any, str], Value], field: str) -> Timeline[Value]:
        """From a JSON value. `read` makes a value of one that is not null, with its field's name for messages.

        Raises:
            UserError: naming the field, if it is no timeline, is too long, or holds what `read` refuses.
        """
        if not isinstance(given, list | tuple):
            return cls((0.0,), (None if given is None else read(given, field),))
        starts: list[float] = []
        values: list[Value | None] = []
        for place, (start, value) in enumerate(entries(given, "[seconds, value]", field)):
            named = f"{field}[{place}]"
            starts.append(number(start, 0, MAXIMUM_SECONDS, f"the time of {named}"))
            if place and starts[-1] <= starts[-2]:
                raise UserError(f"the time of {named} is {shown(start)}, not after the one before it; sort the entries")
            values.append(None if value is None else read(value, named))
        return cls(tuple(starts), tuple(values))

    def places(self, times_T: np.ndarray) -> np.ndarray:
        """Indices [T] of the entries that hold at these times; -1 before the first."""
        return np.searchsorted(np.asarray(self.starts), times_T, side="right") - 1

    def frames(
        self, channels: int, of: Callable[[Value], Sequence[float] | np.ndarray], times_T: np.ndarray
    ) -> np.ndarray:
        """Its values by frame [C, T], NaN where nothing is asked; `of` makes the C = `channels` of a value."""
        places_T = self.places(times_T)
        table_CE = np.full((channels, len(self.values) + 1), np.nan)  # a place of -1 is the last
        for place in np.unique(places_T):
            value = self.values[place] if place >= 0 else None
            if value is not None:
                table_CE[:, place] = of(value)
        return table_CE[:, places_T]


class ScoreControl(ControlConditioner, Generic[Written]):
    """A control that can be written down: in a request's `controls`, in seconds from the piece's beginning, and in a
    track's `score`, from the track's, in one form. `form`: what it takes, in words for messages and lists."""

    form: ClassVar[str]

    @abstractmethod
    def read(self, value: Any, field: str) -> Written:
        """What a JSON value says.

        Raises:
            UserError: naming the field, for what is none of its values.
        """

    @abstractmethod
    def at(self, written: Written, times_T: np.ndarray) -> np.ndarray:
        """Its channels [C, T] at these times, NaN where nothing is asked."""

    def hear(self, excerpt: Excerpt) -> np.ndarray | None:
        """The control [C, T] as the sound of an excerpt tells it, NaN where it does not; None if it tells nothing."""
        told = self.told(excerpt)
        return None if told is None else self.encode(told, excerpt.frames, excerpt.frame_rate)

    def told(self, excerpt: Excerpt) -> Any:
        """What the sound tells, as a score would have it, in seconds from the excerpt's beginning; None for nothing."""
        return None

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        """What the track's score says, and where it does not name the control at all, what is heard. So where somebody
        wrote `null` nothing is made up."""
        score = excerpt.metadata.get("score", {})
        if self.name not in score:
            return self.hear(excerpt)
        written = self.read(score[self.name], f"score.{self.name}")
        return self.at(written, middles(excerpt.frames, excerpt.frame_rate, excerpt.start_s))

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        return self.at(self.read(value, f"controls.{self.name}"), middles(frames, frame_rate))


class TimelineControl(ScoreControl[Timeline[Value]]):
    """One that is written as a timeline."""

    @abstractmethod
    def value(self, given: Any, field: str) -> Value:
        """One value of it.

        Raises:
            UserError: naming the field, for what is none.
        """

    @abstractmethod
    def values(self, value: Value) -> Sequence[float] | np.ndarray:
        """The channels [C] of a value."""

    def read(self, value: Any, field: str) -> Timeline[Value]:
        return Timeline.read(value, self.value, field)

    def at(self, written: Timeline[Value], times_T: np.ndarray) -> np.ndarray:
        return written.frames(self.channels, self.values, times_T)
