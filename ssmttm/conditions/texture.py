"""How it is woven: how much happens, and how bright it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.hearing import texture
from ssmttm.conditions.timeline import TimelineControl, number

STEPS = 5


class Rank(TimelineControl[float]):
    """A place by rank between the least (0) and the most (1) of the music that `hearing/texture.py` has its quantiles
    from, the same for every model.

    Channels: the number itself (1), and how near it is to each of 0, 1/4, 1/2, 3/4 and 1 (5): a number between
    two of them is shared by these, so that a linear layer can treat each range in its own way.
    """

    channels, form, dropout = 1 + STEPS, "a number from 0 to 1", 0.5

    def value(self, given: Any, field: str) -> float:
        return number(given, 0, 1, field)

    def values(self, value: float) -> np.ndarray:
        return np.array([value, *np.maximum(1 - np.abs(value * (STEPS - 1) - np.arange(STEPS)), 0)])


class Density(Rank):
    """How much happens: onsets in a second."""

    name = "density"

    def told(self, excerpt: Excerpt) -> Any:
        return texture.density(excerpt.sound)


class Brightness(Rank):
    """How bright the sound is: where the middle of its spectrum lies."""

    name = "brightness"

    def told(self, excerpt: Excerpt) -> Any:
        return texture.brightness(excerpt.sound)
