"""What musicians ask by, in their own words: tempo, metre, bars, chords, key and the rest, each for the whole piece or
from some time on. Here they become what controls by frame take: timelines by the control's name. All arithmetic with
bars is here.

It imports nothing heavy: the CLI's help and the HTTP schema come from it too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssmttm.errors import UserError

LOWEST_BPM, HIGHEST_BPM, MOST_BARS = 20, 400, 10_000
MOST_CHORDS, MOST_NOTES = 16, 4096  # of a bar, and of a melody
USUAL_METER = 4  # where bars are counted and nobody says how
NEAR = 1e-6  # of a bar: two times that are nearer are one
LATEST_S = 86_400
_AT = re.compile(r"bar\s+(\d{1,6})(?:\s+beat\s+(\d(?:\.\d+)?))?", re.IGNORECASE)

Note = tuple[float, float, float]


class Word(NamedTuple):
    """Which control a word asks for, what it takes, and an example."""

    control: str
    takes: str
    example: Any


WORDS: dict[str, Word] = {
    "bpm": Word("beat", f"a number from {LOWEST_BPM} to {HIGHEST_BPM}", 96.5),
    "meter": Word("beat", "2 to 7 beats a bar, as 3 or 3/4, or 6/8", "3/4"),
    "bars": Word("beat", f"a number above 0 and up to {MOST_BARS}", 8),
    "chords": Word("chord", "symbols, one a bar, or bars between |, with % for the bar before", "Am F | C G7/B | %"),
    "key": Word("scale", "a key, as A minor", "A minor"),
    "drums": Word("drums", "true or false", False),
    "bass": Word("bass", "true or false", True),
    "density": Word("density", "a number from 0 to 1", 0.3),
    "brightness": Word("brightness", "a number from 0 to 1", 0.7),
    "melody": Word("melody", "notes [start in s, duration in s, MIDI pitch]", [[0, 0.5, 69], [0.5, 0.5, 72]]),
}
CONTROLS = {word.control for word in WORDS.values()}


def words_of(controls: Iterable[str]) -> dict[str, Any]:
    """What a model with these controls can be asked by besides text, with an example; a control that no word stands for
    is asked by `controls.NAME`, whose values are its own."""
    found: dict[str, Any] = {}
    for name in controls:
        words = {word: told.example for word, told in WORDS.items() if told.control == name}
        found |= words or {f"controls.{name}": None}
    return found


def refused(word: str, value: Any, takes: str | None = None) -> UserError:
    told = " ".join(repr(value).split())
    return UserError(f"{word} is {told[:60]}; give {takes or WORDS[word].takes}")


def meter_of(value: Any) -> int | str:
    """A metre as the control `beat` takes it: 2 to 7, or "6/8".

    Raises:
        UserError: for any other.
    """
    text = value.strip() if isinstance(value, str) else value
    if text == "6/8":
        return "6/8"
    if isinstance(text, str) and re.fullmatch(r"[2-7](/4)?", text):
        return int(text[0])
    if isinstance(text, int) and not isinstance(text, bool) and 2 <= text <= 7:
        return text
    raise refused("meter", value)


def _beats(meter: int | str) -> int:
    return 2 if meter == "6/8" else int(meter)


def bars_of_chords(text: str) -> list[list[str]]:
    """The chords of each bar that `text` writes: one a symbol, or those between bar lines, which share it equally.

    Raises:
        UserError: for text without chords, a bar without one or with too many, or % without a bar before it.
    """
    if "|" in text:
        parts = text.strip().removeprefix("|").removesuffix("|").split("|")
        bars = [part.split() for part in parts]
    else:
        bars = [[symbol] for symbol in text.split()]
    if not bars or not all(bars):
        raise UserError(f"chords is {text[:60]!r}, where a bar is empty; give {WORDS['chords'].takes}")
    for place, bar in enumerate(bars):
        if "%" in bar:
            if len(bar) > 1 or place == 0:
                raise UserError(f"chords is {text[:60]!r}; give % alone in its bar, and a bar before it")
            bars[place] = bars[place - 1]
        if len(bar) > MOST_CHORDS:
            raise UserError(f"chords has a bar of {len(bar)} chords; give up to {MOST_CHORDS}")
    return bars


class _Stretch(NamedTuple):
    """Bars of one tempo and metre: where the first of them begins, and its number, from 0."""

    start_s: float
    first: int
    beat_s: float
    beats: int


class Grid:
    """Where bars lie. The first begins where the first tempo is given; a new tempo or metre begins a bar, which cuts
    the one before short if it was not over. Positions count bars from 0."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []

    def __bool__(self) -> bool:
        return bool(self._stretches)

    def begin(self, start_s: float, bpm: float, meter: int | str) -> None:
        """Bars of this tempo and metre from here on."""
        first = math.ceil(self.position(start_s) - NEAR) if self._stretches else 0
        if self._stretches and self._stretches[-1].start_s == start_s:
            first = self._stretches.pop().first
        self._stretches.append(_Stretch(start_s, first, 60 / bpm, _beats(meter)))

    def position(self, time_s: float) -> float:
        """Bars before a time."""
        stretch = next((one for one in reversed(self._stretches) if one.start_s <= time_s), self._stretches[0])
        return stretch.first + max(time_s - stretch.start_s, 0) / (stretch.beat_s * stretch.beats)

    def time(self, position: float, beats: float = 0) -> float:
        """When a position is reached, and so many beats later.

        Raises:
            UserError: if the bar does not have as many beats.
        """
        at = max(index for index, one in enumerate(self._stretches) if one.first <= position + NEAR)
        stretch = self._stretches[at]
        if beats >= stretch.beats:
            raise UserError(f"at: beat {beats + 1:g} is past the end of bar {position + 1:g}; it has {stretch.beats}")
        time_s = stretch.start_s + (position - stretch.first) * stretch.beats * stretch.beat_s + beats * stretch.beat_s
        return min([time_s, *(one.start_s for one in self._stretches[at + 1 : at + 2])])


@dataclass(frozen=True)
class _Change:
    """What is asked from a time on, by word; None: nothing."""

    time_s: float
    words: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Handles:
    """What is asked by words: for the whole piece, or by `controls`, which is either values by the name of a control,
    or changes in time: [{"at": 12.5, "key": "D minor"}, {"at": "bar 5 beat 3", "drums": False}, ...]. Times count from
    the piece's beginning, given audio included; None: nothing is asked from there on.

    Raises:
        UserError: naming the word and what it takes.
    """

    bpm: float | None = None
    meter: int | str | None = None
    bars: float | None = None
    chords: str | None = None
    key: str | None = None
    drums: bool | None = None
    bass: bool | None = None
    density: float | None = None
    brightness: float | None = None
    melody: Sequence[Note] | None = None
    controls: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        self._plan()

    @property
    def asked(self) -> dict[str, str]:
        """Which control each word asks for; of `controls`, by its own name."""
        asked = {word: told.control for word, told in WORDS.items() if getattr(self, word) is not None}
        if isinstance(self.controls, Mapping):
            return asked | {f"controls.{name}": name for name in self.controls}
        for word in (word for entry in self.controls for word in entry if word != "at"):
            asked |= {word: WORDS[word].control} if word in WORDS else {f"controls.{word}": word}
        return asked

    def check(self, known: Sequence[str]) -> None:
        """Raises UserError, naming the word, if it asks for a control that is not `known` to the model."""
        for word, control in self.asked.items():
            if control not in known:
                can = ", ".join(words_of(known)) or "text alone"
                raise UserError(f"{word}: this model cannot be asked by {word.split('.')[-1]}; it takes {can}")

    @property
    def length_s(self) -> float | None:
        """How long `bars` take; None where they are not given."""
        return None if self.bars is None else self._plan()[1].time(self.bars)

    def by_control(self, length_s: float) -> dict[str, Any]:
        """What is asked, by the name of the control: a value for the whole piece, or [[seconds, value], ...].

        Args:
            length_s: of the whole piece; chords repeat until then.
        """
        changes, grid, counts_bars = self._plan()
        timelines: dict[str, list[list[Any]]] = {}
        bpm = meter = None
        for place, change in enumerate(changes):
            words = dict(change.words)
            if "bpm" in words or "meter" in words:
                bpm, meter = words.pop("bpm", bpm), words.pop("meter", meter)
                told = meter if meter is not None or not counts_bars else USUAL_METER
                _add(timelines, "beat", change.time_s, None if bpm is None else {"bpm": bpm, "meter": told})
            if "chords" in words:
                later = [one.time_s for one in changes[place + 1 :] if "chords" in one.words]
                for time_s, chord in _chords(words.pop("chords"), change.time_s, min([length_s, *later]), grid):
                    _add(timelines, "chord", time_s, chord)
            for word, value in words.items():
                _add(timelines, WORDS[word].control if word in WORDS else word, change.time_s, value)
        found = {name: line[0][1] if len(line) == 1 and not line[0][0] else line for name, line in timelines.items()}
        if self.melody is not None:
            found["melody"] = [list(note) for note in self.melody]
        return found | dict(self.controls if isinstance(self.controls, Mapping) else {})

    def _plan(self) -> tuple[list[_Change], Grid, bool]:
        """The changes in their order, the bars, and whether anybody counts these."""
        whole = {word: value for word in WORDS if (value := getattr(self, word)) is not None}
        counts_bars = whole.pop("bars", None) is not None
        notes = whole.pop("melody", None)
        if notes is not None:
            _check_notes(notes)
        if isinstance(self.controls, str) or not isinstance(self.controls, Mapping | Sequence):
            raise refused("controls", self.controls, 'values by name, or changes as [{"at": "bar 5", "drums": false}]')
        entries = [] if isinstance(self.controls, Mapping) else list(self.controls)
        grid, changes = Grid(), list[_Change]()
        bpm = meter = None
        for entry in [{"at": 0.0, **whole}, *entries]:
            if not isinstance(entry, Mapping) or "at" not in entry:
                raise UserError('a change among controls has no "at"; give seconds or "bar N", as {"at": "bar 5", ...}')
            words = {word: _checked(word, value) for word, value in entry.items() if word != "at"}
            time_s = _time_of(entry["at"], grid)
            if changes and time_s < changes[-1].time_s:
                raise UserError(f"at: {entry['at']!r} comes before the change above it; sort controls by time")
            if "bpm" in words or "meter" in words:
                bpm, meter = words.get("bpm", bpm), words.get("meter", meter)
                if bpm is not None:
                    grid.begin(time_s, bpm, USUAL_METER if meter is None else meter)
                elif meter is not None:
                    raise UserError("meter needs bpm, which says how long its beats are")
            if words.get("chords") is not None and not grid:
                raise UserError("chords needs bpm, which says how long a bar is")
            counts_bars |= "chords" in words or isinstance(entry["at"], str)
            changes.append(_Change(time_s, words))
        if self.bars is not None and not grid:
            raise UserError("bars needs bpm, which says how long a bar is")
        if isinstance(self.controls, Mapping):
            for word in (word for word, told in WORDS.items() if told.control in self.controls):
                if getattr(self, word) is not None:
                    raise UserError(f"{word} and controls.{WORDS[word].control} ask for the same; give one of them")
        return changes, grid, counts_bars


def _add(timelines: dict[str, list[list[Any]]], control: str, time_s: float, value: Any) -> None:
    """One more change of a control, unless it changes nothing."""
    line = timelines.setdefault(control, [])
    if line and line[-1][0] == time_s:
        line.pop()
    if not line or line[-1][1] != value:
        line.append([time_s, value])


def _chords(text: str | None, start_s: float, end_s: float, grid: Grid) -> Iterable[tuple[float, str | None]]:
    """When which chord begins, from the bar that `start_s` lies in."""
    if text is None:
        yield start_s, None
        return
    bars = bars_of_chords(text)
    first = number = math.floor(grid.position(start_s) + NEAR)
    while (begin_s := grid.time(number)) < end_s:
        chords = bars[(number - first) % len(bars)]
        share_s = (grid.time(number + 1) - begin_s) / len(chords)
        for place, chord in enumerate(chords):
            if begin_s + place * share_s < end_s:
                yield max(begin_s + place * share_s, start_s), chord
        number += 1


def _time_of(at: Any, grid: Grid) -> float:
    """Seconds; of a bar, from those that are known so far."""
    if isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at <= LATEST_S:
        return float(at)
    found = _AT.fullmatch(at.strip()) if isinstance(at, str) else None
    if found is None or int(found[1]) < 1 or (found[2] and float(found[2]) < 1):
        raise refused("at", at, 'seconds from 0, or as "bar 5", or "bar 5 beat 3"')
    if not grid:
        raise UserError(f"at: {at!r} needs bpm, before it or beside it, which says how long a bar is")
    return grid.time(int(found[1]) - 1, float(found[2] or 1) - 1)


def _checked(word: str, value: Any) -> Any:
    """A word's value, once it is what the word takes; None is."""
    if word not in WORDS and word in CONTROLS:
        words = " and ".join(name for name, told in WORDS.items() if told.control == word and name != "bars")
        raise UserError(f"controls: {word} is asked by {words} where changes are listed")
    if word in ("bars", "melody"):
        raise UserError(f"controls: {word} holds for the whole piece; give it beside controls")
    if value is None or word not in WORDS:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_taken = {
        "bpm": lambda: is_number and LOWEST_BPM <= value <= HIGHEST_BPM,
        "meter": lambda: meter_of(value),
        "chords": lambda: isinstance(value, str) and bars_of_chords(value),
        "key": lambda: isinstance(value, str) and value.strip(),
        "drums": lambda: isinstance(value, bool),
        "bass": lambda: isinstance(value, bool),
        "density": lambda: is_number and 0 <= value <= 1,
        "brightness": lambda: is_number and 0 <= value <= 1,
    }
    if not is_taken[word]():
        raise refused(word, value)
    return meter_of(value) if word == "meter" else value


def _check_notes(notes: Sequence[Note]) -> None:
    if len(notes) > MOST_NOTES:
        raise UserError(f"melody has {len(notes)} notes; give up to {MOST_NOTES}")
    for note in notes:
        start_s, duration_s, pitch = note
        if not (0 <= start_s < math.inf and 0 < duration_s < math.inf and 0 <= pitch <= 127):
            raise refused("melody", list(note))
