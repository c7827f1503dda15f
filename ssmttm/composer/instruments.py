"""Lead instruments and the roles of a piece: General MIDI programs (0-based) with their comfortable ranges."""

from __future__ import annotations

from typing import NamedTuple


class Lead(NamedTuple):
    """`low` and `high` bound the melody (MIDI pitch); `sustained` instruments hold notes up to the next one;
    `doubled` ones may play in octaves or thirds."""

    program: int
    low: int
    high: int
    sustained: bool
    doubled: bool = False


LEADS: dict[str, Lead] = {
    "piano": Lead(0, 64, 88, False, True),
    "electric piano": Lead(4, 52, 76, False, True),
    "organ": Lead(16, 57, 81, True, True),
    "harmonica": Lead(22, 67, 88, True),
    "acoustic guitar": Lead(25, 54, 78, False, True),
    "electric guitar": Lead(30, 59, 83, True),
    "banjo": Lead(105, 60, 84, False),
    "violin": Lead(40, 67, 91, True),
    "cello": Lead(42, 45, 67, True),
    "trumpet": Lead(56, 62, 84, True),
    "saxophone": Lead(65, 56, 79, True),
    "clarinet": Lead(71, 57, 81, True),
    "flute": Lead(73, 72, 95, True),
    "vibraphone": Lead(11, 67, 91, False, True),
    "choir": Lead(52, 57, 79, True, True),
    "synth lead": Lead(81, 55, 79, True),
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
