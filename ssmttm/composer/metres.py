"""Metres, and how each genre plays in those that are not 4/4; patterns read as in `genres`.

3/4 and 6/8 have patterns of their own. Two, five and seven beats are made of those of three and four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from ssmttm.composer.genres import GENRES

T = TypeVar("T")
Drums = tuple[dict[str, str], ...]  # of each instrument its hits


class Meter(NamedTuple):
    """`beats` in a bar of `beat_steps` sixteenths each. `split`: the step of the bar on which its harmony may change, a
    beat near its middle."""

    name: str
    beats: int
    beat_steps: int
    split: int

    @property
    def steps(self) -> int:
        return self.beats * self.beat_steps

    @property
    def value(self) -> int | str:
        """As scores and requests write it: beats of four sixteenths by their number, others by name."""
        return self.beats if self.beat_steps == 4 else self.name

    def bar_s(self, bpm: float) -> float:
        """Seconds of a bar at `bpm` beats per minute."""
        return self.beats * 60 / bpm


METERS = {
    meter.name: meter
    for meter in (
        Meter("2/4", 2, 4, 4),
        Meter("3/4", 3, 4, 8),
        Meter("4/4", 4, 4, 8),
        Meter("5/4", 5, 4, 12),
        Meter("6/8", 2, 6, 6),
        Meter("7/4", 7, 4, 16),
    )
}
COMPOUND = 1.5  # 6/8 counts dotted quarters: its eighths run as fast as those of the genre's other pieces


class Patterns(NamedTuple):
    """Bars of one metre, each list from sparse to dense; `chords` has a list for each of the genre's layers."""

    melody: tuple[str, ...]
    chords: tuple[tuple[str, ...], ...]
    bass: tuple[str, ...]
    grooves: Drums
    fills: Drums


_OWN: dict[str, dict[str, Patterns]] = {
    "3/4": {
        "rock": Patterns(
            ("x---x---x---", "x---x-x-x---", "x-x-x-x-x-x-"),
            (("X-------x---", "X---x---x---", "X-x-x-x-x-x-"),),
            ("1---1---1---", "1-1-1-1-1-1-", "1-1-1-1-5-a-"),
            (
                {"kick": "X...........", "snare": "....X...X...", "hat": "X.x.X.x.X.x."},
                {"kick": "X.....x.....", "snare": "....X...X...", "hat": "X.x.X.x.X.x."},
                {"kick": "X..x..x.....", "snare": "....X...X..o", "open": "X...X...X..."},
            ),
            ({"high tom": "....XxX.", "low tom": "........XXXX", "kick": "X..."}, {"snare": "....x.x.xXXX"}),
        ),
        "techno": Patterns(
            ("x--x--x--x--", "x-x-x-x-x-x-", "xxx-xxx-xxx-"),
            (("..x-..x-..x-", "..x..x..x.x."), ("x-----------",)),
            ("..1-..1-..1-", "..11..11..11", ".111.111.118"),
            (
                {"kick": "X...X...X...", "hat": "..x...x...x."},
                {"kick": "X...X...X...", "open": "..X...X...X.", "clap": "........X..."},
            ),
            ({"kick": "X...X...X...", "clap": "....x.x.xxXX"},),
        ),
        "jazz": Patterns(
            ("x---x---x---", "x---x-x-x---", "x-x-x-x-x---", "..x-x-x-x-x-"),
            (("..x---x-....", "....x-..x-..", "x-....x-..x-"),),
            ("1---5---3---", "1---3---a---", "1---5-5-a---"),
            (
                {"ride": "X...x...x...", "pedal": "....x...x..."},
                {"ride": "X...x.x.x...", "pedal": "....x......."},
                {"ride": "X...x.x.x.x.", "pedal": "....x.......", "snare": "......o...o.", "kick": "o..........."},
            ),
            ({"snare": "....x.x.x.X.", "ride": "X..."},),
        ),
        "classical": Patterns(
            ("x-------x---", "x---x---x---", "x---x-x-x---", "x-x-x-x-x---"),
            (("0---2---2---", "0---x---x---", "0-1-2-1-2-1-"), ("x-----------",)),
            ("1-----------", "1---....5---", "1---1---5---"),
            ({},),
            ({},),
        ),
        "reggae": Patterns(
            ("x---x---x-x-", "x--x--x-x---", "..x-x-x-x---"),
            (("....X...X...", "..x...x...x.", "..xx..x...x."), ("..x...x...x.", "..0.x.0.x.0.")),
            ("1--1--5-....", "1-1-5---3-1-", "..1-1-5-3-1-"),
            (
                {"kick": "....X.......", "stick": "........X...", "hat": "x.x.x.x.x.x."},
                {"kick": "X...X.......", "stick": "........X...", "hat": "x.xox.xox.xo"},
            ),
            ({"high tom": "....XX..", "low tom": "........X.XX"},),
        ),
        "country": Patterns(
            ("x---x-x-x---", "x---x---x-x-", "x-x-x-x-x-x-"),
            (("....x---x---", "....x-..x-x-", "..x-x-x-x-x-"),),
            ("1-----------", "1-------6---", "1---....a---"),
            (
                {"kick": "X...........", "stick": "....x...x..."},
                {"kick": "X...........", "snare": "....Xoo.Xoo.", "tambourine": "....x...x..."},
            ),
            ({"snare": "x.x.xxxxXxXx", "kick": "X..........."},),
        ),
        "ambient": Patterns(
            ("x-----------", "x-------x---", "x---x---x---"),
            (("X-----------",), ("0---1---2---", "0-1-2-1-2-1-")),
            ("1-----------", "1-------5---"),
            ({"kick": "x...........", "shaker": "....o...o..."}, {"kick": "x...........", "shaker": "o.o.o.o.o.o."}),
            ({},),
        ),
        "hip hop": Patterns(
            ("x--x--x-----", "x--x--x-x---", "x-x-x--xx---"),
            (("X-------....", "X-----..x---", "X-..x---x-.."),),
            ("1-----..1---", "1---..1-5---", "1-..1-8-1-5-"),
            (
                {"kick": "X...........", "snare": "........X...", "hat": "x.x.x.x.x.x."},
                {"kick": "X.....x.....", "snare": "....X...X...", "hat": "x.x.x.xxx.x."},
            ),
            ({"kick": "X.....x.....", "snare": "....X...X.xx"},),
        ),
    },
    "6/8": {
        "rock": Patterns(
            ("x-----x---x-", "x---x-x---x-", "x-x-x-x-x-x-"),
            (("X-----x-----", "X---x-X---x-", "0-1-2-x-2-1-"),),
            ("1-----1-----", "1---1-1---1-", "1-1-1-1-5-a-"),
            (
                {"kick": "X...........", "snare": "......X.....", "hat": "X.x.x.X.x.x."},
                {"kick": "X...x.....x.", "snare": "......X.....", "hat": "X.x.x.X.x.x."},
                {"kick": "X...x...x.x.", "snare": "......X....o", "ride": "X.x.x.X.x.x."},
            ),
            ({"high tom": "......X.x.", "low tom": "..........XX", "kick": "X....."}, {"snare": "......x.XxXX"}),
        ),
        "techno": Patterns(
            ("x---x-x---x-", "x-x-x-x-x-x-", "xx-xx-xx-xx-"),
            (("..x-x-..x-x-", "x...x.x...x."), ("x-----------",)),
            ("..1-1-..1-1-", "1.1.1.1.1.1.", ".11.11.11.18"),
            (
                {"kick": "X.....X.....", "hat": "....x.....x."},
                {"kick": "X.....X.....", "open": "....X.....X.", "clap": "......X.....", "hat": "x.x.x.x.x.x."},
            ),
            ({"kick": "X.....X.....", "clap": "......x.xxXX"},),
        ),
        "jazz": Patterns(
            ("x-----x---x-", "x---x-x-----", "x-x-x-x---x-", "..x-x-x-x-x-"),
            (("....x-......", "x-......x-..", "..x-....x-x-"),),
            ("1-----5-----", "1---5-3-----", "1---3-5---a-"),
            (
                {"ride": "X...x.X...x.", "pedal": "......x....."},
                {"ride": "X.x.x.X.x.x.", "pedal": "......x.....", "kick": "o.........o.", "stick": "....o......."},
            ),
            ({"snare": "......x.x.X.", "ride": "X....."},),
        ),
        "classical": Patterns(
            ("x---x-x-----", "x---x-x---x-", "x--xx-x--xx-", "x-x-x-x---x-"),
            (("0-----2-----", "0-1-2-0-1-2-", "0-2-1-0-2-1-"), ("x-----------",)),
            ("1-----------", "1-----1-----", "1---1-5---5-"),
            ({},),
            ({},),
        ),
        "reggae": Patterns(
            ("x---x-x-----", "x-x-x-x---x-", "..x-x-x---x-"),
            (("......X.....", "..x.x...x.x.", "....x-....x-"), ("..x.x...x.x.", "0.x.x.0.x.x.")),
            ("1---1-....5-", "1---5-3---1-", "..1-1-5---1-"),
            (
                {"kick": "......X.....", "stick": "......X.....", "hat": "x.x.x.x.x.x."},
                {"kick": "X.....X.....", "stick": "......X...o.", "hat": "x.o.x.x.o.x."},
            ),
            ({"high tom": "......X.X...", "low tom": "..........XX"},),
        ),
        "country": Patterns(
            ("x---x-x---x-", "x-x-x-x---x-", "x-xxx-x-xxx-"),
            (("..x-x-..x-x-", "0-x-x-2-x-x-", "x-x-x-x-x-x-"),),
            ("1-----6-----", "1---..6---a-", "1---1-6---a-"),
            (
                {"kick": "X.....X.....", "stick": "......x.....", "hat": "..x.x...x.x."},
                {"kick": "X.....X.....", "snare": "..o.X...o.X.", "tambourine": "......x....."},
            ),
            ({"snare": "x.x.x.xxXxXx", "kick": "X.....X....."},),
        ),
        "ambient": Patterns(
            ("x-----------", "x-----x-----", "x---x-x-----"),
            (("X-----------",), ("0---1-2---1-", "0-1-2-0-1-2-")),
            ("1-----------", "1-----5-----"),
            ({"kick": "x...........", "shaker": "......o....."}, {"kick": "x.....x.....", "shaker": "o.o.o.o.o.o."}),
            ({},),
        ),
        "hip hop": Patterns(
            ("x---x-x-----", "x-x-x-......", "x---x-x-x-x-"),
            (("X-----......", "X-----x-----", "X-..x-x---x-"),),
            ("1-----....1-", "1---1-..5---", "1-1-..8-1-5-"),
            (
                {"kick": "X...........", "snare": "......X.....", "hat": "x.x.x.x.x.x."},
                {"kick": "X...x.....x.", "snare": "......X.....", "hat": "x.xxx.x.xxx."},
            ),
            ({"kick": "X...x.......", "snare": "......X.x.xx"},),
        ),
    },
}


def _cut(pattern: str, steps: int) -> str:
    return pattern[:steps].ljust(steps, ".")


def _join_drums(first: dict[str, str], steps: int, second: dict[str, str]) -> dict[str, str]:
    names = dict.fromkeys([*first, *second])
    return {name: _cut(first.get(name, ""), steps) + second.get(name, "") for name in names}


def _joined(first: Patterns, steps: int, second: Patterns, steps_2: int) -> Patterns:
    """Bars that begin with `steps` of one metre's and end with `steps_2` of another's."""

    def texts(ones: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            _cut(one, steps) + _cut(other, steps_2) for one, other in zip(ones, _fitted(others, ones), strict=True)
        )

    def drums(ones: Drums, others: Drums) -> Drums:
        ends = [{name: hits[:steps_2] for name, hits in other.items()} for other in _fitted(others, ones)]
        return tuple(_join_drums(one, steps, end) for one, end in zip(ones, ends, strict=True))

    return Patterns(
        texts(first.melody, second.melody),
        tuple(map(texts, first.chords, second.chords)),
        texts(first.bass, second.bass),
        drums(first.grooves, second.grooves),
        drums(first.fills, second.fills),
    )


def _fitted(values: tuple[T, ...], like: Sequence[object]) -> list[T]:
    """As many as `like` has, the densest again where there are fewer."""
    return [values[min(place, len(values) - 1)] for place in range(len(like))]


def _patterns(genre_name: str) -> dict[str, Patterns]:
    """A genre's patterns by the name of their metre."""
    genre = GENRES[genre_name]
    four = Patterns(
        genre.melody, tuple(layer.patterns for layer in genre.chords), genre.bass.patterns, genre.grooves, genre.fills
    )
    three = _OWN["3/4"][genre_name]
    empty = Patterns(("",), (("",),) * len(genre.chords), ("",), ({},), ({},))
    return {
        "2/4": _joined(four, 8, empty, 0),
        "3/4": three,
        "4/4": four,
        "5/4": _joined(three, 12, four, 8),
        "6/8": _OWN["6/8"][genre_name],
        "7/4": _joined(four, 16, three, 12),
    }


PATTERNS = {name: _patterns(name) for name in GENRES}
