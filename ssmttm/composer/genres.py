"""What makes each genre recognisable: tempo, form of the harmony, grooves, instruments, room; and the instruments.

Patterns are strings of sixteen steps (one bar of 4/4 in sixteenths). `.` rests, `-` holds the note before it.
Chord layers: `x` the whole chord, `X` accented, a digit one tone of the voicing from below.
Bass: a digit the interval above the root (1, 3, 5, 8; 6 = the fifth below), `a` a step into the next root.
Drums: `X` accented, `x` normal, `o` ghost. Lists run from sparse to dense; a piece's energy picks from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, TypeVar

STEPS = 16  # sixteenths per bar of 4/4
T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One accompanying part. `programs` are General MIDI (0-based): the part's own, and a stand-in for pieces whose
    lead plays that one already; `centre` the middle of the voicing (MIDI), `gate` the share of a note's written
    length that sounds, `spread` the delay between the tones of a chord (s)."""

    programs: tuple[int, ...]
    patterns: tuple[str, ...]
    centre: int
    velocity: int = 76
    gate: float = 0.9
    spread: float = 0.0


@dataclass(frozen=True)
class Mix:
    """Levels of the stems relative to the lead (dB) and the room: decay to -60 dB (s) and its share."""

    chords: float
    bass: float
    drums: float
    reverb_s: float
    reverb: float


@dataclass(frozen=True)
class Genre:
    """How a genre is written and played. Patterns are those of 4/4; `metres` has the others'.

    tempo: quarters per minute, from and to. meters: the share of each metre. minor, drums: shares of pieces. arpeggio:
    the share of melodies built from chord tones in running notes. swing: where the second half of a pair falls
    (0.5 = straight), pairs being `swing_unit` sixteenths. jitter_s: the players' timing. contrast: how far the dynamics
    of the form go. drive, echo, chorus, compression: the share of pieces, or of their stems, with these effects.
    """

    tempo: tuple[int, int]
    meters: dict[str, float]
    minor: float
    drums: float
    leads: tuple[str, ...]
    progressions: dict[str, tuple[str, ...]]
    melody: tuple[str, ...]
    chords: tuple[Layer, ...]
    bass: Layer
    kit: int
    grooves: tuple[dict[str, str], ...]
    fills: tuple[dict[str, str], ...]
    mix: Mix
    swing: float = 0.5
    swing_unit: Literal[1, 2] = 2
    arpeggio: float = 0.0
    jitter_s: float = 0.006
    contrast: float = 1.0
    drive: float = 0.0
    echo: float = 0.0
    chorus: float = 0.0
    compression: float = 0.0


class Lead(NamedTuple):
    """A lead instrument by its General MIDI program (0-based). `low` and `high` bound the melody (MIDI pitch) to its
    comfortable range; `doubled` ones may play in octaves or thirds."""

    program: int
    low: int
    high: int
    doubled: bool = False


LEADS: dict[str, Lead] = {
    "piano": Lead(0, 64, 88, True),
    "electric piano": Lead(4, 52, 76, True),
    "organ": Lead(16, 57, 81, True),
    "harmonica": Lead(22, 67, 88),
    "acoustic guitar": Lead(25, 54, 78, True),
    "electric guitar": Lead(30, 59, 83),
    "banjo": Lead(105, 60, 84),
    "violin": Lead(40, 67, 91),
    "cello": Lead(42, 45, 67),
    "trumpet": Lead(56, 62, 84),
    "saxophone": Lead(65, 56, 79),
    "clarinet": Lead(71, 57, 81),
    "flute": Lead(73, 72, 95),
    "vibraphone": Lead(11, 67, 91, True),
    "choir": Lead(52, 57, 79, True),
    "synth lead": Lead(81, 55, 79),
}

DRUM_KEYS = {
    "kick": 36,
    "stick": 37,
    "snare": 38,
    "clap": 39,
    "hat": 42,
    "pedal": 44,
    "open": 46,
    "low tom": 45,
    "mid tom": 47,
    "high tom": 50,
    "crash": 49,
    "ride": 51,
    "tambourine": 54,
    "shaker": 70,
}

TOM_FILL = {
    "high tom": "........XxX.....",
    "mid tom": "...........XX...",
    "low tom": ".............XXX",
    "kick": "X...X...",
}
SNARE_FILL = {"snare": "........x.x.xxXX", "kick": "X...X...X...X...", "hat": "x.x.x.x........."}

GENRES: dict[str, Genre] = {
    "rock": Genre(
        tempo=(104, 164),
        meters={"4/4": 0.62, "3/4": 0.1, "6/8": 0.14, "5/4": 0.05, "7/4": 0.06, "2/4": 0.03},
        minor=0.5,
        drums=0.85,
        leads=("electric guitar", "organ", "saxophone", "piano", "harmonica", "violin", "synth lead"),
        progressions={
            "major": ("I V vi IV", "I IV I I", "I IV V I", "I vi IV I"),
            "minor": ("i VII VI VII", "i VI VII i", "i iv VII i", "i VI III VII"),
        },
        melody=("x---x---x-x-x---", "x-x-x---x--x--x-", "x--x--x-x-x-x-x-", "x-x-xxx-x-x-x-x-"),
        chords=(Layer((29,), ("X-------x---x---", "X--x--x-X--x--x-", "X-x-x-x-X-x-x-x-"), 47, 84, 0.85),),
        bass=Layer((34,), ("1---1---1---1---", "1-1-1-1-1-1-1-1-", "1-1-1-1-1-1-5-a-"), 36, 92, 0.9),
        kit=0,
        grooves=(
            {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X..x..x.X.x.....", "snare": "....X.......X..o", "open": "X...X...X...X..."},
        ),
        fills=(TOM_FILL, SNARE_FILL),
        mix=Mix(-3.0, -4.0, 3.0, 0.7, 0.14),
        drive=0.6,
        echo=0.15,
        chorus=0.2,
        compression=0.7,
    ),
    "techno": Genre(
        tempo=(120, 148),
        meters={"4/4": 0.8, "3/4": 0.06, "6/8": 0.06, "5/4": 0.03, "7/4": 0.03, "2/4": 0.02},
        minor=0.85,
        drums=0.9,
        leads=("synth lead", "piano", "electric piano", "choir", "vibraphone", "organ", "violin"),
        progressions={
            "major": ("I I IV I", "I I vi I", "I I V I"),
            "minor": ("i i VI i", "i i i i", "i i iv i", "i i VII i"),
        },
        melody=("x--x--x---x--x--", "x-x--x-x--x-x---", "x-xx-x-xx-xx-x-x", "xxx-xxx-xxx-xxx-"),
        chords=(
            Layer((90, 81), ("..x-..x-..x-..x-", "..x...x...x..xx.", "..x..x..x..x..x."), 60, 72, 0.6),
            Layer((50, 95), ("x-------x-------",), 60, 52, 1.0),
        ),
        bass=Layer((38,), ("..1-..1-..1-..1-", "..11..11..11..11", ".111.111.111.118"), 33, 96, 0.7),
        kit=24,
        grooves=(
            {"kick": "X...X...X...X...", "hat": "..x...x...x...x."},
            {"kick": "X...X...X...X...", "open": "..X...X...X...X.", "clap": "....x.......x..."},
            {
                "kick": "X...X...X...X...",
                "open": "..X...X...X...X.",
                "clap": "....X.......X...",
                "hat": "xxxxxxxxxxxxxxxx",
            },
        ),
        fills=({"kick": "X...X...X.......", "clap": "....X...x.x.xxXX"}, {"snare": "x...x...x.x.xxXX"}),
        mix=Mix(-4.0, -2.0, 5.0, 0.5, 0.16),
        contrast=0.7,
        drive=0.4,
        echo=0.5,
        chorus=0.4,
        compression=0.8,
        arpeggio=0.6,
        jitter_s=0.001,
    ),
    "jazz": Genre(
        tempo=(92, 180),
        meters={"4/4": 0.54, "3/4": 0.2, "6/8": 0.1, "5/4": 0.1, "7/4": 0.03, "2/4": 0.03},
        minor=0.45,
        drums=0.75,
        leads=("saxophone", "trumpet", "piano", "vibraphone", "clarinet", "banjo", "flute", "acoustic guitar"),
        progressions={
            "major": ("Imaj7 vi7 ii7 V7", "Imaj7 ii7 V7 Imaj7", "I6 IVmaj7 V7 Imaj7"),
            "minor": ("i7 iv7 V7 i7", "i6 iih7 V7 i7", "i7 VImaj7 V7 i6"),
        },
        melody=("x---x-x---x-x---", "x-x-x---x-x-x---", "..x-x-x-x-x-x---", "x-x-x-x-x-x-x-x-"),
        chords=(
            Layer(
                (26, 0), ("x-----x-........", "..x-....x-......", "x-....x-....x-..", "..x-..x-..x-..x-"), 60, 62, 0.6
            ),
        ),
        bass=Layer((32,), ("1---5---1---a---", "1---3---5---a---", "1---3---5-5-a---"), 36, 90, 0.92),
        kit=32,
        grooves=(
            {"ride": "X...x...X...x...", "pedal": "....x.......x..."},
            {"ride": "x...X.x.x...X.x.", "pedal": "....x.......x..."},
            {
                "ride": "x...X.x.x...X.x.",
                "pedal": "....x.......x...",
                "snare": "......o.......o.",
                "kick": "o...o...o...o...",
            },
        ),
        fills=(
            {"snare": "......x.x.x.x.X.", "ride": "X...x..."},
            {"high tom": "....x.x.", "low tom": "........x.x.X.x."},
        ),
        mix=Mix(-5.0, -2.0, -1.0, 0.8, 0.16),
        drive=0.0,
        echo=0.05,
        chorus=0.1,
        compression=0.3,
        swing=0.62,
        arpeggio=0.15,
        jitter_s=0.006,
    ),
    "classical": Genre(
        tempo=(66, 138),
        meters={"4/4": 0.42, "3/4": 0.28, "6/8": 0.18, "2/4": 0.08, "5/4": 0.04},
        minor=0.5,
        drums=0.0,
        leads=("violin", "cello", "piano", "flute", "clarinet", "trumpet", "choir", "acoustic guitar"),
        progressions={
            "major": ("I V vi IV", "I IV V I", "I ii V I", "I vi ii V"),
            "minor": ("i iv V i", "i VI iv V", "i V i V", "i iv VII III"),
        },
        melody=("x-------x---x---", "x---x---x-----x-", "x---x-x-x---x---", "x-x-x-x-x---x-x-"),
        chords=(
            Layer((0, 6), ("0---2---1---2---", "0-2-1-2-0-2-1-2-", "0-1-2-1-0-1-2-1-"), 55, 74, 1.0),
            Layer((48,), ("x-------x-------",), 62, 56, 1.0),
        ),
        bass=Layer((43,), ("1-------1-------", "1---....1---....", "1---5---1---5---"), 40, 80, 0.95),
        kit=48,
        grooves=({},),
        fills=({},),
        mix=Mix(-4.0, -5.0, 0.0, 1.8, 0.26),
        contrast=1.6,
        drive=0.0,
        echo=0.0,
        chorus=0.0,
        compression=0.1,
        jitter_s=0.009,
    ),
    "reggae": Genre(
        tempo=(66, 96),
        meters={"4/4": 0.78, "3/4": 0.08, "6/8": 0.1, "2/4": 0.02, "7/4": 0.02},
        minor=0.5,
        drums=0.88,
        leads=("organ", "trumpet", "saxophone", "electric guitar", "harmonica", "acoustic guitar", "synth lead"),
        progressions={
            "major": ("I IV I V", "I V vi IV", "I IV V IV"),
            "minor": ("i iv i v", "i VII i VII", "i VI VII i"),
        },
        melody=("x---x---....x-x-", "x--x--x-....x---", "x-x-x---x-x-....", "..x-x-x-x--x----"),
        chords=(
            Layer((28, 27), ("....X.......X...", "..x...x...x...x.", "..xx..x...xx..x."), 62, 92, 0.9, 0.006),
            Layer((17,), ("..x...x...x...x.", "..0.x.0...0.x.0."), 60, 60, 0.8),
        ),
        bass=Layer((33,), ("1--1--5-....1-3-", "1-1-..5-8---5---", "..1-1-3-5---3-1-"), 34, 104, 0.9),
        kit=8,
        grooves=(
            {"kick": "........X.......", "stick": "........X.......", "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "........X.......", "stick": "........X.......", "hat": "x.xox.xox.xox.xo"},
            {"kick": "X...X...X...X...", "stick": "........X.....o.", "hat": "x.xox.xox.xox.xo"},
        ),
        fills=({"high tom": "........XX......", "mid tom": "..........X.X...", "low tom": ".............XX."},),
        mix=Mix(-3.0, 0.0, 1.5, 1.0, 0.16),
        drive=0.15,
        echo=0.5,
        chorus=0.2,
        compression=0.5,
    ),
    "country": Genre(
        tempo=(96, 172),
        meters={"4/4": 0.52, "3/4": 0.22, "6/8": 0.12, "2/4": 0.12, "5/4": 0.02},
        minor=0.2,
        drums=0.6,
        leads=("banjo", "violin", "harmonica", "acoustic guitar", "electric guitar", "piano"),
        progressions={
            "major": ("I IV V I", "I I V I", "I V IV I", "I IV I I"),
            "minor": ("i iv V i", "i VII VI V", "i i iv V"),
        },
        melody=("x---x-x-x---x---", "x-x-x---x-x-x---", "x-x-x-x-x---x-x-", "x-xxx-x-x-xxx-x-"),
        chords=(Layer((25,), ("....x-......x-..", "....x-x-....x-x-", "..x-x-x-..x-x-x-"), 60, 84, 0.7, 0.012),),
        bass=Layer((32,), ("1---....6---....", "1---..1-6---..a-", "1---6---1---6-a-"), 38, 94, 0.8),
        kit=0,
        grooves=(
            {"kick": "X.......X.......", "stick": "....x.......x...", "hat": "..x...x...x...x."},
            {"kick": "X.......X.......", "snare": "oox.Xoo.ooo.Xoo.", "tambourine": "....x.......x..."},
            {"kick": "X...x...X...x...", "snare": "ooXoooXoooXoooXo"},
        ),
        fills=({"snare": "x.x.x.x.xxxxXxXx", "kick": "X.......X......."}, SNARE_FILL),
        mix=Mix(-4.0, -3.0, 0.0, 0.5, 0.1),
        drive=0.15,
        echo=0.2,
        chorus=0.1,
        compression=0.5,
        arpeggio=0.3,
    ),
    "ambient": Genre(
        tempo=(60, 86),
        meters={"4/4": 0.5, "3/4": 0.18, "6/8": 0.18, "5/4": 0.07, "7/4": 0.07},
        minor=0.5,
        drums=0.25,
        leads=("choir", "piano", "flute", "vibraphone", "cello", "electric piano", "clarinet"),
        progressions={
            "major": ("Iadd9 Iadd9 IV IV", "Iadd9 IV Iadd9 vi", "Isus2 I IV I"),
            "minor": ("iadd9 iadd9 VI VI", "iadd9 VI iadd9 VII", "isus2 i iv i"),
        },
        melody=("x---------------", "x-------x-------", "x-----x-x-------", "x---x---x-------"),
        chords=(
            Layer((89, 95), ("X-------X-------",), 60, 70, 1.0, 0.02),
            Layer((88, 92), ("0---1---2---1---", "0-1-2-1-0-1-2-1-", "0-2-1-2-0-2-1-2-"), 72, 70, 1.0),
        ),
        bass=Layer((39,), ("1---------------", "1-------1-------"), 36, 74, 1.0),
        kit=25,
        grooves=(
            {"kick": "x...............", "shaker": "....o.......o..."},
            {"kick": "x.......x.......", "shaker": "o.o.o.o.o.o.o.o."},
        ),
        fills=({},),
        mix=Mix(-3.0, -5.0, -4.0, 3.2, 0.45),
        contrast=1.2,
        drive=0.05,
        echo=0.5,
        chorus=0.6,
        compression=0.3,
        jitter_s=0.008,
    ),
    "hip hop": Genre(
        tempo=(74, 104),
        meters={"4/4": 0.74, "3/4": 0.1, "6/8": 0.12, "5/4": 0.02, "7/4": 0.02},
        minor=0.8,
        drums=0.92,
        leads=("electric piano", "synth lead", "flute", "cello", "trumpet", "choir", "saxophone", "electric guitar"),
        progressions={
            "major": ("Imaj7 Imaj7 IVmaj7 IVmaj7", "Imaj7 vi7 Imaj7 ii7"),
            "minor": ("i7 i7 VImaj7 VImaj7", "i7 i7 iv7 iv7", "i7 VImaj7 i7 v7"),
        },
        melody=("x--x--x---------", "x--x--x-..x-x---", "..x-x--x--x-....", "x-xx--x-x-xx--x-"),
        chords=(Layer((5, 4), ("X---------......", "X-----..x-----..", "X-....x-..x---.."), 60, 70, 0.9, 0.01),),
        bass=Layer((39,), ("1-----....1-....", "1---..1-..1---..", "1-..1-..8-1-..5-"), 31, 108, 0.9),
        kit=25,
        grooves=(
            {"kick": "X.........X.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X.....x...X.....", "snare": "....X.......X...", "hat": "x.x.x.xxx.x.x.x."},
            {"kick": "X..x..x...X..x..", "clap": "....X.......X...", "hat": "x.xxx.x.xxx.xxxx"},
        ),
        fills=({"kick": "X.....x.........", "snare": "....X.....x.X.xx", "hat": "x.x.x.x........."},),
        mix=Mix(-3.0, 0.0, 5.0, 0.4, 0.1),
        contrast=0.8,
        drive=0.4,
        echo=0.2,
        chorus=0.3,
        compression=0.8,
        swing=0.54,
        swing_unit=1,
        jitter_s=0.006,
    ),
}


def read_pattern(pattern: str) -> list[tuple[int, int, str]]:
    """The hits of a pattern as (step, length in steps, symbol)."""
    hits = []
    for step, symbol in enumerate(pattern):
        if symbol not in ".-":
            end = step + 1
            while end < len(pattern) and pattern[end] == "-":
                end += 1
            hits.append((step, end - step, symbol))
    return hits


def by_energy(rng: Random, choices: Sequence[T], energy: float) -> T:
    """Pick from choices ordered sparse to dense, near the place that `energy` points to."""
    place = energy * len(choices) + rng.uniform(-0.7, 0.7)
    return choices[min(max(int(place), 0), len(choices) - 1)]
