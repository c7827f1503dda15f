"""What turns codes into sound, stage 2 and the codec, as a part of the service: codes come in from a language model,
audio goes out.

Shapes: K codebooks, T frames, N samples; one clip.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serve.wire import Began, CodeOrder, CodeWriter, Event, LostError, Order, Refusal
from ssmttm.bundle.load import load_bundle
from ssmttm.conditions.text import collate_text
from ssmttm.engine.continuation import Continuation
from ssmttm.engine.fine import Piece
from ssmttm.engine.limiter import finish
from ssmttm.engine.render import Renderer as WindowRenderer
from ssmttm.engine.render import Track
from ssmttm.engine.render_pool import RenderPool
from ssmttm.engine.request import resolve
from ssmttm.errors import UserError

ATTEMPTS = 4  # language models that a clip may be begun with, or continued by
PAUSE_S = 0.5  # between them, doubled each time


class RefusedError(Exception):
    """The language model's refusal."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


async def lasting_codes(writer: CodeWriter, order: CodeOrder) -> AsyncGenerator[np.ndarray]:
    """`CodeWriter.codes`, whoever writes them: when a language model is lost, another continues from the codes that
    are here, as it would continue given audio.

    Raises:
        RefusedError: as the language model refuses.
        LostError: after too many attempts.
    """
    known = [] if order.primer_KT is None else [order.primer_KT]
    left, told, text_is_told = order.frames, 0, False
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
        primer_KT = np.concatenate(known, axis=1) if known else None
        rest = replace(order, frames=left, primer_KT=primer_KT, portions=order.portions[told:] or order.portions[-1:])
        is_text = True  # each source begins with it
        try:
            async with aclosing(writer.codes(rest)) as source:
                async for item in source:
                    if isinstance(item, Refusal):
                        if item.status == 429 and text_is_told:
                            break  # a clip that has begun is not turned away
                        raise RefusedError(item)
                    if not is_text:
                        known.append(item)
                        left, told = left - item.shape[1], told + 1
                    if not (is_text and text_is_told):
                        yield item
                    is_text, text_is_told = False, True
        except LostError:
            pass
        if left == 0:
            return
    raise LostError("language models were lost again and again")


class Renderer:
    """Makes clips: takes codes from language models and renders their windows, those of several clips together.

    It asks for codes itself rather than being handed them, so that a clip's state (context, vocoder) stays in one place
    while its codes may come from one language model after another.

    Args:
        bundle: URI.
        writer: of codes.
        clips: that are made at a time; their windows are rendered together where they have one shape.
        deterministic: see `RenderPool`.
    """

    def __init__(self, bundle: str, writer: CodeWriter, clips: int = 40, deterministic: bool = False):
        loaded = load_bundle(bundle)
        self._config, self._codec = loaded.config.generation, loaded.codec
        self._codebooks, self._writer = loaded.lm.config.num_codebooks, writer
        self._windows = WindowRenderer(loaded.completer, loaded.codec, self._config)
        self._pool = RenderPool(self._windows, deterministic=deterministic)
        self._threads = ThreadPoolExecutor(clips, "windows")

    async def check(self, order: Order) -> Refusal | None:
        """What the model has against an order, but for its prompt."""
        try:
            resolve(self._config, order.seconds, **order.settings)
        except UserError as error:
            return Refusal(400, str(error))
        return None

    async def stream(self, order: Order) -> AsyncGenerator[Event]:
        """See `Service.stream`."""
        try:
            settings = resolve(self._config, order.seconds, **order.settings)
            given = None if order.given is None else await self._off_loop(self._continue, order)
        except UserError as error:
            yield Refusal(400, str(error))
            return
        fresh = max(round(order.seconds * self._codec.sample_rate), 1) if given is None else given.fresh
        frames = -(-fresh // self._codec.hop_length)
        primer_KT = None if given is None else given.primer_BKT[0].cpu().numpy()
        sampling = {**vars(settings.sampling), "portions": self._windows.portions, "primer_KT": primer_KT}
        code_order = CodeOrder(order.prompt, frames, order.seed, **sampling)
        try:
            async with aclosing(lasting_codes(self._writer, code_order)) as codes:
                text = collate_text([await anext(codes)])
                piece = Piece(text, [order.seed], settings.steps, self._config.stage2_guidance)
                yield Began(fresh if given is None else given.total, self._codec.sample_rate)
                history = (None, 0) if given is None else (given.history, given.primer_BKT.shape[2])
                track = Track(self._windows, frames, piece, *history)
                async for audio_1N in self._audio(track, codes, fresh + (0 if given is None else given.overlap)):
                    for samples_1N in [audio_1N.numpy()] if given is None else given.add(audio_1N):
                        yield samples_1N[0]
        except RefusedError as error:
            yield error.refusal

    def close(self) -> None:
        self._pool.close()
        self._threads.shutdown()

    async def _audio(self, track: Track, codes: AsyncIterator[np.ndarray], samples: int) -> AsyncGenerator[Tensor]:
        """Finished audio [1, N], window after window."""
        held_KT = np.zeros((self._codebooks, 0), np.int64)
        while track.left:
            wanted = track.wanted
            while held_KT.shape[1] < wanted:
                held_KT = np.concatenate([held_KT, await anext(codes)], axis=1)
            codes_1KT, held_KT = torch.from_numpy(held_KT[None, :, :wanted]), held_KT[:, wanted:]
            audio_11N = await self._off_loop(self._pool.render, track, codes_1KT)
            for audio_1N in finish(iter([audio_11N]), samples):
                samples -= audio_1N.shape[1]
                yield audio_1N

    def _continue(self, order: Order) -> Continuation:
        assert order.given is not None
        limit = self._config.max_seconds
        return Continuation(self._codec, self._codebooks, self._windows, order.given, order.seconds, limit)

    async def _off_loop(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
