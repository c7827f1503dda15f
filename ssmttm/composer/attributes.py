"""What a piece is, before a note of it is written."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from ssmttm.composer.genres import GENRES
from ssmttm.composer.theory import KEYS


@dataclass(frozen=True)
class Attributes:
    """What a piece is: everything its captions may speak of, and `energy` (0 to 1), which picks the density."""

    genre: str
    lead: str
    mood: str
    key: str
    mode: str
    bpm: int
    drums: bool
    energy: float

    def tags(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("genre", "lead", "mood", "key", "mode", "bpm", "drums")}


def draw_attributes(rng: Random, genre_name: str, lead: str) -> Attributes:
    """Draw the rest of a piece's attributes within its genre; the mood follows from mode, tempo and energy."""
    genre = GENRES[genre_name]
    mode = "minor" if rng.random() < genre.minor else "major"
    bpm = rng.randint(*genre.tempo)
    energy = rng.random()
    lively = 0.5 * energy + 0.5 * (bpm - 60) / 120 > 0.5
    mood = {("major", True): "happy", ("major", False): "calm", ("minor", True): "dark", ("minor", False): "sad"}
    return Attributes(
        genre=genre_name,
        lead=lead,
        mood=mood[mode, lively],
        key=rng.choice(KEYS),
        mode=mode,
        bpm=bpm,
        drums=rng.random() < genre.drums,
        energy=energy,
    )
