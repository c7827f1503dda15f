"""The words that captions are made of, from `words.yaml`: the language beside the grammar in `captions`."""

from __future__ import annotations

from importlib import resources
from random import Random
from typing import Any, NamedTuple

import yaml

Phrases = tuple[str, ...]
Phrasing = dict[str, Phrases]  # of one fact: by place, which is tag, post or sentence


class GenreWords(NamedTuple):
    """What a genre is called, what sounds in it, and what stands for it unnamed; `words.yaml` says which is which."""

    names: Phrases
    heads: Phrases
    textures: Phrases
    adjectives: Phrases
    scenes: Phrases
    places: Phrases
    pictures: Phrases
    likenesses: Phrases
    drum_textures: Phrases = ()


def _phrases(node: Any) -> Any:
    """The tree with each text cut at its semicolons."""
    if isinstance(node, dict):
        return {key: _phrases(value) for key, value in node.items()}
    return tuple(entry.strip() for entry in node.split(";"))


_WORDS = _phrases(yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text(encoding="utf-8")))
GENRE_WORDS: dict[str, GenreWords] = {name: GenreWords(**words) for name, words in _WORDS["genres"].items()}
LEAD_WORDS: dict[str, Phrases] = _WORDS["leads"]
MOOD_WORDS: dict[str, Phrases] = _WORDS["moods"]
TEMPO_WORDS: dict[int, Phrases] = _WORDS["tempi"]  # by the highest tempo, in beats per minute, that they suit
METER_WORDS: dict[str, Phrases] = _WORDS["meters"]
KEY_WORDS: dict[str, Phrases] = _WORDS["keys"]
PHRASINGS: dict[str, Phrasing] = _WORDS["facts"]
FRAMES: dict[str, Phrases] = _WORDS["frames"]


def tempo_word(rng: Random, bpm: float) -> str:
    """A word for a tempo in beats per minute."""
    return rng.choice(next(words for limit, words in TEMPO_WORDS.items() if bpm <= limit))
