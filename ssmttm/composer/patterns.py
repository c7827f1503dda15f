"""Reading and choosing the pattern strings of `genres`."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

STEPS = 16  # sixteenths per bar of 4/4
T = TypeVar("T")


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
