"""What a piece is before it is composed: everything that its captions may speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ssmttm.composer.genres import GENRES
from ssmttm.composer.harmony import KEYS
from ssmttm.composer.metres import COMPOUND, METERS

MODULATING = 0.2  # share of pieces that change their key
MOODS = {
    ("major", True): "happy",
    ("major", False): "calm",
    ("minor", True): "dark",
    ("minor", False): "sad",
}  # lively?


@dataclass(frozen=True)
class Attributes:
    """What a piece is: everything its captions may speak of, and `energy` (0 to 1), which picks the density.

    bpm: the metre's beats per minute. key, mode: of the beginning, where it `modulates`.
    """

    genre: str
    lead: str
    mood: str
    key: str
    mode: str
    bpm: float
    meter: str
    drums: bool
    energy: float
    modulates: bool

    def tags(self) -> dict[str, Any]:
        names = ("genre", "lead", "mood", "key", "mode", "bpm", "meter", "drums")
        return {name: getattr(self, name) for name in names}

    def in_key(self, key: str, mode: str) -> Attributes:
        """The same where it is in this key throughout."""
        lively = next(lively for (_, lively), mood in MOODS.items() if mood == self.mood)
        return replace(self, key=key, mode=mode, mood=MOODS[mode, lively], modulates=False)


def draw_attributes(rng: Random, genre_name: str, lead: str) -> Attributes:
    """Draw the rest of a piece's attributes within its genre; the mood follows from mode, tempo and energy."""
    genre = GENRES[genre_name]
    mode = "minor" if rng.random() < genre.minor else "major"
    meter = rng.choices(list(genre.meters), list(genre.meters.values()))[0]
    pace = rng.uniform(*genre.tempo)
    energy = rng.random()
    lively = 0.5 * energy + 0.5 * (pace - 60) / 120 > 0.5
    return Attributes(
        genre=genre_name,
        lead=lead,
        mood=MOODS[mode, lively],
        key=rng.choice(KEYS),
        mode=mode,
        bpm=round(pace / COMPOUND if METERS[meter].beat_steps == 6 else pace, 2),
        meter=meter,
        drums=rng.random() < genre.drums,
        energy=energy,
        modulates=rng.random() < MODULATING,
    )


def _shuffled(seed: str, names: Sequence[str]) -> list[str]:
    order = list(names)
    Random(seed).shuffle(order)
    return order


def genre_order(seed: int, number: int) -> list[str]:
    """All genres, in the order in which round `number` of a corpus has them."""
    return _shuffled(f"{seed}/genres/{number}", list(GENRES))


def attributes_of(seed: int, index: int) -> Attributes:
    """The attributes of piece `index`. Genres come in shuffled rounds of all of them, and the leads of a genre too,
    so that any stretch of a corpus is balanced; everything else is drawn freely."""
    number, place = divmod(index, len(GENRES))
    genre = genre_order(seed, number)[place]
    leads = GENRES[genre].leads
    lead_round, place = divmod(number, len(leads))
    lead = _shuffled(f"{seed}/leads/{genre}/{lead_round}", leads)[place]
    return draw_attributes(Random(f"{seed}/attributes/{index}"), genre, lead)
