"""A piece of a corpus, or an excerpt from one: a function of seed, index and length alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ssmttm.audio import Audio
from ssmttm.composer.arrange import TAIL_S, Arrangement, arrange
from ssmttm.composer.effects import draw_effects
from ssmttm.composer.form import phrase_bars
from ssmttm.composer.genres import GENRES
from ssmttm.composer.metres import METERS
from ssmttm.composer.pieces import Attributes, attributes_of
from ssmttm.composer.render import Player, render
from ssmttm.composer.score import cut, write_score

SHORTEST_S, LONGEST_S = 30.0, 60.0
TRIES = 12  # of an excerpt in which the lead is heard
WITH_LEAD = 0.4  # share of an excerpt


@dataclass(frozen=True)
class Piece:
    """Music as it sounds for `seconds`, from `start` on in its arrangement. attributes: what is true of these seconds.
    score: their truth, times from their beginning."""

    seed: int
    index: int
    attributes: Attributes
    arrangement: Arrangement
    start: float
    seconds: float
    score: dict[str, Any]


def compose(seed: int, index: int, clip_seconds: float | None = None) -> Piece:
    """Piece `index` of a seed, of 30 to 60 s, or an excerpt of `clip_seconds` from anywhere in it."""
    attributes = attributes_of(seed, index)
    bar_s = METERS[attributes.meter].bar_s(attributes.bpm)
    phrase_s = bar_s * phrase_bars(attributes)
    drawn = Random(f"{seed}/length/{index}").uniform(SHORTEST_S, LONGEST_S)
    fewest, most = math.ceil((SHORTEST_S - TAIL_S) / phrase_s), int((LONGEST_S - TAIL_S) / phrase_s)
    phrases = min(max(round(drawn / phrase_s), fewest), most)
    if clip_seconds is not None:
        phrases = max(phrases, math.ceil(clip_seconds / phrase_s))
    piece = arrange(Random(f"{seed}/notes/{index}"), attributes, phrases)
    score = write_score(piece)
    if clip_seconds is None:
        return Piece(seed, index, attributes, piece, 0.0, piece.seconds, score)
    start = _excerpt(Random(f"{seed}/excerpt/{index}"), piece, clip_seconds)
    score = cut(score, start, clip_seconds, piece.bar_s)
    return Piece(seed, index, _as_heard(attributes, score), piece, start, clip_seconds, score)


def _excerpt(rng: Random, piece: Arrangement, seconds: float) -> float:
    """Where an excerpt begins: anywhere, as long as the lead plays in a good part of it."""
    best = (-1.0, 0.0)
    for _ in range(TRIES):
        start = rng.uniform(0, piece.seconds - seconds)
        led = sum(max(0.0, min(at + long, start + seconds) - max(at, start)) for at, long, _ in piece.line)
        best = max(best, (min(led / seconds, WITH_LEAD), start))
        if led >= WITH_LEAD * seconds:
            return start
    return best[1]


def _as_heard(attributes: Attributes, score: dict[str, Any]) -> Attributes:
    """What is true of an excerpt: whether there are drums in it, and its key."""
    drums = score["drums"]
    attributes = replace(attributes, drums=drums if isinstance(drums, bool) else True)
    if isinstance(score["scale"], str):
        key, mode = score["scale"].split()
        return attributes.in_key(key, mode)
    key, mode = score["scale"][0][1].split()
    return replace(attributes.in_key(key, mode), modulates=True)


def perform(player: Player, piece: Piece) -> Audio:
    """Render a piece: mono float32 [1, N] at 24 kHz."""
    genre = GENRES[piece.attributes.genre]
    effects = draw_effects(Random(f"{piece.seed}/effects/{piece.index}"), genre, 60 / piece.arrangement.bpm)
    return render(player, piece.arrangement, genre.mix, effects, piece.start, piece.seconds)
