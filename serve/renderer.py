"""What turns codes into sound, stage 2 and the codec, as a part of the service: codes come in from a language model,
audio goes out.

Shapes: K codebooks, T frames, N samples; one clip.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from serve.wire import Began, CodeWriter, Event, LostError, Refusal, RefusedError, attempts
from ssmttm.bundle.load import load_bundle
from ssmttm.engine.continuation import Take
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.windows import Rendering, WindowPool, WindowRenderer
from ssmttm.errors import UserError

PIECE = 1 << 18  # samples that are handed over at a time, at most


async def lasting_codes(writer: CodeWriter, piece: Piece, portions: tuple[int, ...]) -> AsyncGenerator[np.ndarray]:
    """`CodeWriter.codes`, whoever writes them: when a language model is lost, another continues from the codes that
    are here, as it would continue given audio.

    Raises:
        RefusedError: as the language model refuses.
        LostError: after too many attempts.
    """
    request = replace(piece.request, audio=None)  # stage 1 continues its codes
    known = [] if piece.primer_KT is None else [piece.primer_KT]
    left, told = piece.frames, 0
    async for _ in attempts("language models"):
        primer_KT = np.concatenate(known, axis=1) if known else None
        try:
            async with aclosing(writer.codes(request, left, portions[told:] or portions[-1:], primer_KT)) as source:
                async for codes_KT in source:
                    if isinstance(codes_KT, Refusal):
                        if codes_KT.status == 429 and told:
                            break  # a clip that has begun is not turned away
                        raise RefusedError(codes_KT)
                    known.append(codes_KT)
                    left, told = left - codes_KT.shape[1], told + 1
                    yield codes_KT
        except LostError:
            pass
        if left == 0:
            return


class Renderer:
    """Makes clips: takes codes from language models and renders their windows, those of several clips together.

    It asks for codes itself rather than being handed them, so that a clip's state (context, vocoder) stays in one place
    while its codes may come from one language model after another.

    Args:
        bundle: URI.
        writer: of codes.
        clips: that are made at a time; their windows are rendered together where they have one shape.
        deterministic: see `WindowPool`.
    """

    def __init__(self, bundle: str, writer: CodeWriter, clips: int = 40, deterministic: bool = False):
        self._bundle, self._writer = load_bundle(bundle), writer
        self._windows = WindowRenderer(self._bundle.completer, self._bundle.codec, self._bundle.config.generation)
        self._pool = WindowPool(self._windows, deterministic=deterministic)
        self._threads = ThreadPoolExecutor(clips, "windows")
        # Given audio becomes many times its size while it is encoded: one at a time, and in one thread, as each keeps
        # some of the memory that it had.
        self._encoding = ThreadPoolExecutor(1, "given")

    async def check(self, request: MusicRequest) -> Refusal | None:
        """See `ClipMaker`."""
        try:
            await self._take(request)
        except UserError as error:
            return Refusal(400, str(error))
        return None

    async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        """See `ClipMaker`."""
        try:
            take = await self._take(request)
            async with aclosing(self._render(take)) as events:
                async for event in events:
                    yield event
        except UserError as error:
            yield Refusal(400, str(error))
        except RefusedError as error:
            yield error.refusal

    def close(self) -> None:
        self._pool.close()
        self._threads.shutdown()
        self._encoding.shutdown()

    async def _render(self, take: Take) -> AsyncGenerator[Event]:
        rendering = Rendering(self._windows, [take.piece])
        async with aclosing(lasting_codes(self._writer, take.piece, self._windows.portions)) as codes:
            held_KT = await anext(codes)
            yield Began(take.samples, self._bundle.codec.sample_rate)
            while rendering.left:
                wanted = rendering.wanted
                while held_KT.shape[1] < wanted:
                    held_KT = np.concatenate([held_KT, await anext(codes)], axis=1)
                codes_1KT, held_KT = torch.from_numpy(held_KT[None, :, :wanted]), held_KT[:, wanted:]
                for samples_1N in take.add(await self._off_loop(self._pool.render, rendering, codes_1KT)):
                    for begin in range(0, samples_1N.shape[1], PIECE):  # given audio comes all at once
                        yield samples_1N[0, begin : begin + PIECE]

    async def _take(self, request: MusicRequest) -> Take:
        threads = self._threads if request.audio is None else self._encoding
        return await asyncio.get_running_loop().run_in_executor(threads, Take, self._bundle, self._windows, request)

    async def _off_loop(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
