"""From a clip's events to an answer: with patience that has an end, until the listener leaves."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.metrics import Metrics
from serve.schema import MEDIA_TYPES, ClipFile, Provenance
from serve.service import Service
from serve.wire import Began, Event, LostError, Refusal, RefusedError
from ssmttm.audio import Audio
from ssmttm.engine import files
from ssmttm.engine.request import MusicRequest

LOOK_S = 0.5  # how often to look whether the listener is still there
AHEAD = 2  # events that are made before they are taken

IsGone = Callable[[], Awaitable[bool]]


class GoneError(Exception):
    """The listener left."""


TOO_LATE = Refusal(504, "no audio was made in time; try again later, or ask for a job", 30)
LOST = Refusal(503, "the clip was interrupted by a failure; try again", 1)


async def watched(events: AsyncGenerator[Event], patience_s: float, is_gone: IsGone) -> AsyncGenerator[Event]:
    """The events. Ends them when the listener leaves, or when nothing new comes for `patience_s`: a clip that makes
    progress is never cut.

    Raises:
        GoneError: if the listener left.
        RefusedError: for a refusal, too late ones included.
        LostError: as `Service.stream`.
    """
    # A task of their own: however this generator is ended, they are closed in peace.
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(AHEAD)
    pump = asyncio.create_task(_pump(events, queue))
    try:
        while (event := await _next(queue, patience_s, is_gone)) is not None:
            if isinstance(event, Refusal):
                raise RefusedError(event)
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        pump.cancel()


async def _pump(events: AsyncGenerator[Event], queue: asyncio.Queue[Event | Exception | None]) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                await queue.put(event)
        await queue.put(None)
    except Exception as error:
        await queue.put(error)


async def _next(
    queue: asyncio.Queue[Event | Exception | None], patience_s: float, is_gone: IsGone
) -> Event | Exception | None:
    end = time.monotonic() + patience_s
    coming = asyncio.ensure_future(queue.get())
    try:
        while True:
            if await is_gone():
                raise GoneError
            left = end - time.monotonic()
            done, _ = await asyncio.wait([coming], timeout=max(min(LOOK_S, left), 0))
            if done:
                return coming.result()
            if left <= 0:
                raise RefusedError(TOO_LATE)
    finally:
        coming.cancel()


@dataclass
class ClipStream:
    """A clip whose first audio is there."""

    began: Began
    first: np.ndarray
    rest: AsyncGenerator[Event]

    async def samples(self) -> AsyncGenerator[np.ndarray]:
        """All its samples, float32 [N], as they come. Raises as `watched`."""
        async with aclosing(self.rest):
            yield self.first
            async for event in self.rest:
                assert isinstance(event, np.ndarray)
                yield event


class Delivery:
    """Makes clips for the routes and counts them.

    Args:
        patience_s: see `watched`.
    """

    def __init__(self, service: Service, metrics: Metrics, patience_s: float):
        self._service, self._metrics, self._patience_s = service, metrics, patience_s

    async def begin(self, request: MusicRequest, is_gone: IsGone) -> ClipStream:
        """Wait for the first audio, so that whatever fails before it has an answer of its own.

        Raises:
            RefusedError, GoneError: see `watched`; a loss is a refusal.
        """
        start = time.monotonic()
        events = watched(self._service.stream(request), self._patience_s, is_gone)
        try:
            began, first = await anext(events), await anext(events)
        except LostError:
            self._metrics.lost()
            raise RefusedError(LOST) from None
        self._metrics.heard(time.monotonic() - start)
        assert isinstance(began, Began)
        assert isinstance(first, np.ndarray)
        return ClipStream(began, first, self._counted(events, began, start))

    async def _counted(self, events: AsyncGenerator[Event], began: Began, start: float) -> AsyncGenerator[Event]:
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
            except LostError:
                self._metrics.lost()
                raise
        self._metrics.made(began.samples / began.sample_rate, time.monotonic() - start)

    async def whole(
        self, request: MusicRequest, is_gone: IsGone, on_progress: Callable[[float], None] = lambda _: None
    ) -> Audio:
        """A whole clip.

        Args:
            on_progress: told the share of samples that are there.

        Raises:
            RefusedError, GoneError: as `begin`.
        """
        clip = await self.begin(request, is_gone)
        whole_N, made = np.empty(clip.began.samples, np.float32), 0  # pieces to be joined would be held twice
        try:
            async for samples in clip.samples():
                whole_N[made : made + len(samples)] = samples
                made += len(samples)
                on_progress(made / clip.began.samples)
        except LostError:
            raise RefusedError(LOST) from None
        return Audio(whole_N[None], clip.began.sample_rate)


def made_from(model_id: str, request: MusicRequest) -> dict[str, Any]:
    """What a file of this request says of itself."""
    assert request.seed is not None
    return files.provenance(model_id, request.title, request.seed, request.told)


async def encoded(audio: Audio, extension: str, model_id: str, request: MusicRequest) -> bytes:
    """The file, made off the event loop."""
    return await asyncio.to_thread(files.encode, audio, extension, made_from(model_id, request))


async def as_json(audio: Audio, extension: str, model_id: str, request: MusicRequest) -> ClipFile:
    """The file beside what made it."""
    data = await encoded(audio, extension, model_id, request)
    return ClipFile(
        media_type=MEDIA_TYPES[extension],
        seconds=audio.seconds,
        provenance=Provenance(**made_from(model_id, request)),
        data=base64.b64encode(data).decode(),
    )


async def as_wav_stream(clip: ClipStream, model_id: str, request: MusicRequest) -> AsyncGenerator[bytes]:
    """A WAV file as its samples come. Its length is known before them, so players can show it; a stream that breaks off
    raises, which ends the connection without the end that an HTTP client expects."""
    async with aclosing(clip.samples()) as pieces:
        yield files.wav_header(clip.began.samples, clip.began.sample_rate, made_from(model_id, request))
        try:
            async for samples in pieces:
                yield files.pcm16(samples)
        except GoneError:
            return
