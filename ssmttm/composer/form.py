"""The form of a piece: sections from an intro to an ending, who plays in them, how loud, over which chords."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from ssmttm.composer.genres import GENRES, Genre
from ssmttm.composer.harmony import KEYS, Chord, parse_chord
from ssmttm.composer.metres import METERS, Meter
from ssmttm.composer.pieces import Attributes

LONGEST_PHRASE_S = 10.4  # four bars, or two, or eight: what is nearest below
SHORTEST_PHRASE_S = 4.4
INVERTED = 0.3  # share of pieces whose bass does not always play the root
Kind = Literal["intro", "verse", "chorus", "break", "build", "ending"]

LEVELS: dict[Kind, tuple[float, float]] = {  # dB, from a section's beginning to its end
    "intro": (-5.0, -4.0),
    "verse": (-2.0, -1.5),
    "chorus": (0.0, 0.0),
    "break": (-4.5, -4.5),
    "build": (-5.0, 0.0),
    "ending": (-1.5, -4.0),
}


class Section(NamedTuple):
    """Bars that belong together.

    letter: of its progression and patterns, A or B. tonic (pitch class), mode: its key. lead, chords, bass, drums:
    which of them play. sparse: only one of the chords' layers plays. level: dB at its beginning and end.
    """

    kind: Kind
    letter: str
    first: int
    bars: int
    tonic: int
    mode: str
    lead: bool
    chords: bool
    bass: bool
    drums: bool
    sparse: bool
    level: tuple[float, float]

    @property
    def end(self) -> int:
        return self.first + self.bars


@dataclass(frozen=True)
class Form:
    """Sections one after another. chords: two a bar, the second from the metre's `split` on. fills: bars that end in
    one. The last bar is one held chord, the tonic's."""

    meter: Meter
    sections: tuple[Section, ...]
    chords: tuple[Chord, ...]
    fills: frozenset[int]

    @property
    def bars(self) -> int:
        return self.sections[-1].end

    def chord_at(self, bar: int, step: int) -> Chord:
        return self.chords[2 * bar + (step >= self.meter.split)]

    def by_bar(self) -> list[Section]:
        return [section for section in self.sections for _ in range(section.bars)]


def phrase_bars(attributes: Attributes) -> int:
    """Bars of a phrase: four, of slow bars two, of fast ones eight."""
    bar_s = METERS[attributes.meter].bar_s(attributes.bpm)
    return 2 if 4 * bar_s > LONGEST_PHRASE_S else 8 if 4 * bar_s < SHORTEST_PHRASE_S else 4


def draw_kinds(rng: Random, phrases: int) -> list[Kind]:
    """What each phrase is: intro and ending where there is room, verses and choruses, and mostly a break, after which
    a build may lead back."""
    kinds: list[Kind] = []
    if phrases >= 4 and rng.random() < 0.65:
        kinds.append("intro")
    end: list[Kind] = ["ending"] if phrases >= 5 and rng.random() < 0.4 else []
    order = rng.choice(("VVCV", "VCVC", "VVVC", "VCCV"))
    body: list[Kind] = ["verse" if order[i % 4] == "V" else "chorus" for i in range(phrases - len(kinds) - len(end))]
    if len(body) >= 3 and rng.random() < 0.8:
        place = rng.randint(1, len(body) - 2)
        body[place] = "break"
        if place + 2 < len(body) and rng.random() < 0.5:
            body[place + 1 : place + 3] = ["build", "chorus"]
        elif rng.random() < 0.5:
            body[place + 1] = "chorus"
    return kinds + body + end


def draw_players(rng: Random, kind: Kind, drums: bool) -> dict[str, bool]:
    """Who plays in a section of a kind, in a piece with drums or without."""
    everybody = {"lead": True, "chords": True, "bass": True, "drums": drums, "sparse": False}
    if kind == "intro":
        choices = [{"drums": False}, {"drums": False, "bass": False, "sparse": True}, {"bass": False}]
        choices += [{"lead": False, "drums": False, "sparse": True}, {"lead": False}]
        choices += [{"lead": False, "chords": False, "bass": False}] * drums
    elif kind == "break":
        choices = [{"drums": False, "sparse": True}] * 3 + [{"bass": False, "drums": False}] * 3
        choices += [{"bass": False, "sparse": True}] * 2
        choices += [{"lead": False, "chords": False, "bass": False}] * drums
    elif kind == "build":
        choices = [{"bass": False}, {"sparse": True}, {}]
    elif kind == "ending":
        choices = [{"drums": False, "sparse": True}, {"drums": False, "bass": False}, {}]
    else:
        return everybody
    return everybody | rng.choice(choices) | ({} if drums else {"drums": False})


def draw_keys(rng: Random, attributes: Attributes, phrases: int) -> list[tuple[int, str]]:
    """Tonic and mode of each phrase: one key, or another one from a phrase in the middle on, at times with a way
    back."""
    home = (KEYS.index(attributes.key), attributes.mode)
    keys = [home] * phrases
    if attributes.modulates and phrases >= 2:
        tonic, mode = home
        if rng.random() < 0.25:  # the relative key
            other = ((tonic + 3) % 12, "major") if mode == "minor" else ((tonic + 9) % 12, "minor")
        else:
            other = ((tonic + rng.choice((1, 2, 2, 3, 5, 7, 9, 10))) % 12, mode)
        start = rng.randint(max(1, phrases // 3), phrases - 1)
        end = rng.randint(start + 1, phrases) if rng.random() < 0.35 else phrases
        keys[start:end] = [other] * (end - start)
    return keys


def invert(rng: Random, chord: Chord) -> Chord:
    """The same chord over another of its tones, or as it was."""
    if len(chord.intervals) < 3 or chord.intervals[1] == 2 or rng.random() < 0.6:
        return chord
    return chord._replace(inversion=(chord.root + rng.choice(chord.intervals[1:3])) % 12)


def _progressions(rng: Random, genre: Genre, mode: str) -> dict[str, list[str]]:
    return dict(zip("AB", (text.split() for text in rng.sample(genre.progressions[mode], 2)), strict=True))


def draw_form(rng: Random, attributes: Attributes, phrases: int) -> Form:
    """Lay out a number of phrases. A phrase goes once through its four chords; the piece begins on the tonic and its
    last bar rests on it."""
    genre, meter = GENRES[attributes.genre], METERS[attributes.meter]
    length = phrase_bars(attributes)
    kinds, keys = draw_kinds(rng, phrases), draw_keys(rng, attributes, phrases)
    modes = dict.fromkeys(mode for _, mode in keys)
    progressions = {mode: _progressions(rng, genre, mode) for mode in modes}
    inverted = rng.random() < INVERTED
    cache: dict[tuple[int, str, str], list[Chord]] = {}
    chords: list[Chord] = []
    sections: list[Section] = []
    for place, (kind, (tonic, mode)) in enumerate(zip(kinds, keys, strict=True)):
        letter = "B" if kind in ("chorus", "build") else "A"
        if (tonic, mode, letter) not in cache:
            four = [parse_chord(numeral, tonic, mode) for numeral in progressions[mode][letter]]
            cache[tonic, mode, letter] = [four[0], *(invert(rng, chord) if inverted else chord for chord in four[1:])]
        four = cache[tonic, mode, letter]
        slots = 2 * length
        chords += [four[4 * slot // slots] for slot in range(slots)]
        players = draw_players(rng, kind, attributes.drums)
        level = tuple(round(genre.contrast * db, 2) for db in LEVELS[kind])
        sections.append(Section(kind, letter, place * length, length, tonic, mode, level=level, **players))  # type: ignore[arg-type]
    tonic, mode = keys[-1]
    chords[-2:] = [parse_chord(progressions[mode]["A"][0], tonic, mode)] * 2
    fills = frozenset(section.end - 1 for section in sections[:-1] if section.drums)
    return Form(meter, tuple(sections), tuple(chords), fills)
