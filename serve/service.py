"""The generator as the routes see it: in this process, or behind handles of Ray Serve."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve.language_model import LanguageModel
from serve.renderer import Renderer
from serve.schema import Model
from serve.wire import Event, Order, Refusal


class LocalService:
    """`Service` in one process, without Ray."""

    def __init__(self, language_model: LanguageModel, renderer: Renderer):
        self._language_model, self._renderer = language_model, renderer

    @classmethod
    def load(cls, bundle: str, slots: int = 8, waiting: int = 32) -> LocalService:
        """Both parts of a bundle. `close` ends their threads."""
        language_model = LanguageModel(bundle, slots, waiting)
        return cls(language_model, Renderer(bundle, language_model, slots + waiting))

    async def describe(self) -> Model:
        return await self._language_model.describe()

    async def check(self, order: Order) -> Refusal | None:
        return await self._renderer.check(order) or await self._language_model.check_prompt(order.prompt)

    async def stream(self, order: Order) -> AsyncGenerator[Event]:
        async with aclosing(self._renderer.stream(order)) as events:
            async for event in events:
                yield event

    async def counters(self) -> list[dict[str, float]]:
        return [await self._language_model.counters()]

    def close(self) -> None:
        self._language_model.close()
        self._renderer.close()
