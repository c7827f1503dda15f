"""The generator as the routes see it: a language model and a renderer, in this process or behind handles of Ray Serve,
where replicas may vanish."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import numpy as np

from serve.schema import Model
from serve.wire import Began, ClipMaker, CodeWriter, Event, LostError, Refusal, attempts
from ssmttm.engine.request import MusicRequest


class Service:
    """Both parts. The model is asked for once: replicas of one bundle agree."""

    def __init__(self, language_model: CodeWriter, renderer: ClipMaker):
        self._language_model, self._renderer = language_model, renderer
        self._model: Model | None = None

    async def describe(self) -> Model:
        if self._model is None:
            self._model = await _lasting("language models", self._language_model.describe)
        return self._model

    async def check(self, request: MusicRequest) -> Refusal | None:
        """See `ClipMaker.check`."""
        return await _lasting("renderers", self._renderer.check, request)

    async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        """See `ClipMaker.stream`; begun again with another renderer as long as no audio was handed out."""
        is_begun = has_audio = False
        async for _ in attempts("renderers"):
            try:
                async with aclosing(self._renderer.stream(request)) as events:
                    async for event in events:
                        if not (is_begun and isinstance(event, Began)):
                            yield event
                        is_begun = is_begun or isinstance(event, Began)
                        has_audio = has_audio or isinstance(event, np.ndarray)
                return
            except LostError:
                if has_audio:
                    raise

    async def counters(self) -> list[dict[str, float]]:
        """`EngineMetrics` of each language model."""
        return await self._language_model.counters()


async def _lasting(parts: str, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """A short call's result, from another replica if one is lost."""
    async for _ in attempts(parts):
        try:
            return await call(*arguments)
        except LostError:
            continue
