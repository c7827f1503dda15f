"""Figures with all that is needed to read them, and bootstrap intervals: how far they move with other clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

LEVEL = 0.95

Better = Literal["higher", "lower", "closer"]  # closer: to the reference's own


@dataclass(frozen=True)
class Figure:
    """One figure of one system.

    Attributes:
        value: None if it is not available, for the `reason` given.
        low, high: 95 % bootstrap interval over clips.
        better: which way is better.
        embedding: name of what it was computed on, empty for plain measurements.
        reference: the set it is a distance to, empty if it needs none.
        n, n_reference: clips in the set and in the reference.
        seconds: mean length of the clips, as far as they were heard.
        seed, draws: of the bootstrap.
        note: what else a reader must know.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    better: Better = "closer"
    embedding: str = ""
    reference: str = ""
    n: int = 0
    n_reference: int = 0
    seconds: float = 0.0
    seed: int = 0
    draws: int = 0
    note: str = ""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def not_available(reason: str, better: Better = "closer") -> Figure:
    """A figure that could not be computed: it has a reason and no value, never a substitute."""
    return Figure(None, better=better, reason=reason)


def resampled(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """`draws` samples with replacement of `count` indices, int64 [count] each."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield random.integers(0, count, count)


def interval(value: float, replicas: np.ndarray) -> tuple[float | None, float | None]:
    """The middle 95 % of bootstrap replicas about their median, laid around the value.

    A distance grows when clips repeat, so its replicas lie above it; what they tell is how widely it scatters at this
    number of clips. For means this is the percentile interval. Replicas without a value (NaN) do not count; if none
    has one (two clips, few draws), there is no interval.
    """
    replicas = replicas[np.isfinite(replicas)]
    if not len(replicas):
        return None, None
    tail = (1 - LEVEL) / 2
    low, middle, high = np.quantile(replicas, (tail, 0.5, 1 - tail))
    return float(value + low - middle), float(value + high - middle)


def of_clips(
    statistic: Callable[[np.ndarray], float], count: int, draws: int, seed: int
) -> tuple[float, float | None, float | None]:
    """A statistic of `count` clips, given their indices, and its interval."""
    value = statistic(np.arange(count))
    return value, *interval(value, np.array([statistic(chosen) for chosen in resampled(count, draws, seed)]))


def of_two_sets(
    distance: Callable[[np.ndarray, np.ndarray], float], count: int, count_reference: int, draws: int, seed: int
) -> tuple[float, float | None, float | None]:
    """A distance between two sets and its interval, clips of both drawn again.

    Args:
        distance: takes how often each clip of the set [count] and of the reference [count_reference] occurs.
    """
    value = distance(np.ones(count), np.ones(count_reference))
    replicas = [
        distance(np.bincount(mine, minlength=count), np.bincount(theirs, minlength=count_reference))
        for mine, theirs in zip(resampled(count, draws, seed), resampled(count_reference, draws, seed + 1), strict=True)
    ]
    return value, *interval(value, np.array(replicas))
