"""What the parts of the service say to one another, within a process or between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from serve.schema import Model
from ssmttm.audio import Audio


class LostError(RuntimeError):
    """The part that worked on a request is gone, or failed; another may do it."""


@dataclass(frozen=True)
class Refusal:
    """Why there is nothing, or no more. It travels as a value: exceptions lose their type between processes."""

    status: int
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Order:
    """A clip to be made. Its numbers are within the bounds of the schema; what only the model knows is checked later.

    settings: guidance, temperature, top_k, top_p and steps, None for the bundle's defaults.
    given: what the clip continues.
    """

    prompt: str
    seconds: float
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    given: Audio | None = None


@dataclass(frozen=True)
class CodeOrder:
    """Codes to be written, see `CodeRequest`.

    portions: how many frames to hand over at a time, in turn; the last number counts for all that follow. Each portion
    costs both sides as much as some frames, so whoever reads them asks for what can be used at once.
    """

    prompt: str
    frames: int
    seed: int
    guidance: float
    temperature: float
    top_k: int
    top_p: float
    portions: tuple[int, ...]
    primer_KT: np.ndarray | None = None


@dataclass(frozen=True)
class Began:
    """The first of a clip's events: what comes in all, in samples of one channel."""

    samples: int
    sample_rate: int


Event = Began | np.ndarray | Refusal  # an array: the next samples, float32 [N]


class CodeWriter(Protocol):
    """Stage 1."""

    def codes(self, order: CodeOrder) -> AsyncGenerator[np.ndarray | Refusal]:
        """The prompt's token states [S, D], then consecutive codes [K, T]; a refusal ends it.

        Raises:
            LostError: if whoever writes them is gone.
        """
        ...


class Service(Protocol):
    """The generator as the routes see it."""

    async def describe(self) -> Model: ...

    async def check(self, order: Order) -> Refusal | None:
        """What the model has against an order, without making it."""
        ...

    def stream(self, order: Order) -> AsyncGenerator[Event]:
        """Make a clip: `Began`, then its samples as they are made; a refusal ends it. Closing it cancels the clip.

        Raises:
            LostError: if whoever makes it is gone, and part of it was handed out already.
        """
        ...

    async def counters(self) -> list[dict[str, float]]:
        """`EngineMetrics` of each language model."""
        ...
