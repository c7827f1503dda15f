"""The same parts behind handles of Ray Serve, where replicas may vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.schema import Model
from serve.wire import Began, CodeOrder, Event, LostError, Order, Refusal

ATTEMPTS = 4  # renderers that a clip may be begun with
PAUSE_S = 0.5  # between them, doubled each time
COUNTERS_TIMEOUT_S = 2.0
BUSY = Refusal(429, "too many clips are being made; try again later", 5)

T = TypeVar("T")


def is_lost(error: Exception) -> bool:
    """Whether an error is of whoever should have answered, not of what was asked."""
    if isinstance(error, RayTaskError):  # raised by code of ours, over there
        return isinstance(error.cause, LostError)
    return isinstance(error, RayError | DeploymentUnavailableError | ReplicaUnavailableError)


async def _items(handle: DeploymentHandle, method: str, order: Any) -> AsyncGenerator[Any]:
    """What a generator method yields. Closing it cancels the method.

    Raises:
        LostError: if its replica is gone.
    """
    response = getattr(handle.options(stream=True), method).remote(order)
    try:
        async for item in response:
            yield item
    except BackPressureError:
        yield BUSY
    except Exception as error:
        if is_lost(error):
            raise LostError("a replica was lost") from error
        raise
    finally:
        response.cancel()


class RemoteLanguageModel:
    """`CodeWriter` over the deployment."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    def codes(self, order: CodeOrder) -> AsyncGenerator[np.ndarray | Refusal]:
        return _items(self._handle, "codes", order)


class RemoteService:
    """`Service` over both deployments. The model is asked for once: replicas of one bundle agree."""

    def __init__(self, language_model: DeploymentHandle, renderer: DeploymentHandle):
        self._language_model, self._renderer = language_model, renderer
        self._model: Model | None = None

    async def describe(self) -> Model:
        if self._model is None:
            self._model = await _lasting(lambda: self._language_model.describe.remote())
        return self._model

    async def check(self, order: Order) -> Refusal | None:
        return await _lasting(lambda: self._renderer.check.remote(order)) or await _lasting(
            lambda: self._language_model.check_prompt.remote(order.prompt)
        )

    async def stream(self, order: Order) -> AsyncGenerator[Event]:
        """Begun again with another renderer as long as no audio was handed out."""
        is_begun = has_audio = False
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
            events = _items(self._renderer, "stream", order)
            try:
                async for event in events:
                    if not (is_begun and isinstance(event, Began)):
                        yield event
                    is_begun = is_begun or isinstance(event, Began)
                    has_audio = has_audio or isinstance(event, np.ndarray)
                return
            except LostError:
                if has_audio:
                    raise
            finally:
                await events.aclose()
        raise LostError("renderers were lost again and again")

    async def counters(self) -> list[dict[str, float]]:
        response = self._language_model.broadcast("counters")
        return await response.results_async(timeout_s=COUNTERS_TIMEOUT_S)


async def _lasting(call: Any) -> Any:
    """A short call's result, from another replica if one is lost."""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            return await call()
        except Exception as error:
            if not is_lost(error):
                raise
    raise LostError("replicas were lost again and again")
