"""The parts of the service behind handles of Ray Serve, where replicas may vanish: each has the methods of the part
that it stands for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.schema import Model
from serve.wire import Event, LostError, Refusal
from ssmttm.engine.request import MusicRequest

COUNTERS_TIMEOUT_S = 2.0
BUSY = Refusal(429, "too many clips are being made; try again later", 5)


def is_lost(error: Exception) -> bool:
    """Whether an error is of whoever should have answered, not of what was asked."""
    if isinstance(error, RayTaskError):  # raised by code of ours, over there
        return isinstance(error.cause, LostError)
    return isinstance(error, RayError | DeploymentUnavailableError | ReplicaUnavailableError)


class _Remote:
    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        """What a method returns.

        Raises:
            LostError: if its replica is gone.
        """
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except Exception as error:
            if is_lost(error):
                raise LostError("a replica was lost") from error
            raise

    async def _items(self, method: str, *arguments: Any) -> AsyncGenerator[Any]:
        """What a generator method yields. Closing it cancels the method.

        Raises:
            LostError: if its replica is gone.
        """
        response = getattr(self._handle.options(stream=True), method).remote(*arguments)
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


class RemoteLanguageModel(_Remote):
    """`CodeWriter` over the language models' deployment."""

    async def describe(self) -> Model:
        return await self._call("describe")

    def codes(
        self, request: MusicRequest, frames: int, portions: tuple[int, ...], primer_KT: np.ndarray | None
    ) -> AsyncGenerator[np.ndarray | Refusal]:
        return self._items("codes", request, frames, portions, primer_KT)

    async def counters(self) -> list[dict[str, float]]:
        answers = await self._handle.broadcast("counters").results_async(timeout_s=COUNTERS_TIMEOUT_S)
        return [one for answer in answers for one in answer]


class RemoteRenderer(_Remote):
    """`ClipMaker` over the renderers' deployment."""

    async def check(self, request: MusicRequest) -> Refusal | None:
        return await self._call("check", request)

    def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        return self._items("stream", request)
