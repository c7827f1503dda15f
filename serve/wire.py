"""What the parts of the service say to one another, within a process or between them. A request for a clip is the
engine's `MusicRequest` everywhere.

Shapes: K codebooks, T frames, N samples.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serve.schema import Model
from ssmttm.engine.request import MusicRequest

ATTEMPTS = 4  # parts that a piece of work may be begun with, or continued by
PAUSE_S = 0.5  # between them, doubled each time


class LostError(RuntimeError):
    """The part that worked on a request is gone, or failed; another may do it."""


@dataclass(frozen=True)
class Refusal:
    """Why there is nothing, or no more. It travels as a value: exceptions lose their type between processes."""

    status: int
    message: str
    retry_after_s: int | None = None


class RefusedError(Exception):
    """A refusal, within a process."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True)
class Began:
    """The first of a clip's events: what comes in all, in samples of one channel."""

    samples: int
    sample_rate: int


Event = Began | np.ndarray | Refusal  # an array: the next samples, float32 [N]


async def attempts(parts: str) -> AsyncGenerator[int]:
    """Numbers of the attempts at something that parts do which may be lost, with pauses between them. The caller begins
    something in each, and leaves once it is done.

    Raises:
        LostError: after the last.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
        yield attempt
    raise LostError(f"{parts} were lost again and again")


class CodeWriter(Protocol):
    """Stage 1: `LanguageModel`, in this process or behind a handle."""

    async def describe(self) -> Model: ...

    def codes(
        self, request: MusicRequest, frames: int, portions: tuple[int, ...], primer_KT: np.ndarray | None
    ) -> AsyncGenerator[np.ndarray | Refusal]:
        """Consecutive codes [K, T] of a request; a refusal ends it.

        Args:
            frames: how many to write.
            portions: how many frames to hand over at a time, in turn; the last number counts for all that follow. Each
                portion costs both sides as much as some frames, so whoever reads them asks for what can be used at
                once.
            primer_KT: codes that they continue.

        Raises:
            LostError: if whoever writes them is gone.
        """
        ...

    async def counters(self) -> list[dict[str, float]]:
        """`EngineMetrics` of each language model."""
        ...


class ClipMaker(Protocol):
    """Stage 2 and the codec, with codes from stage 1: `Renderer`, in this process or behind a handle."""

    async def check(self, request: MusicRequest) -> Refusal | None:
        """What the model has against a request, without making it."""
        ...

    def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        """Make a clip: `Began`, then its samples as they are made; a refusal ends it. Closing it cancels the clip.

        Raises:
            LostError: if whoever makes it is gone.
        """
        ...
