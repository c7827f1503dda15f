"""Stage 1 as a part of the service: slots that write the codes of many requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, repeat

import numpy as np

from serve.schema import MEDIA_TYPES, PROMPT, Model
from serve.wire import LostError, Refusal
from ssmttm.bundle.load import load_bundle
from ssmttm.conditions.handles import words_of
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import DEFAULTS, MusicRequest
from ssmttm.engine.slot_engine import EngineClosedError, QueueFullError, SlotEngine
from ssmttm.engine.slots import Rereading
from ssmttm.errors import UserError

RETRY_AFTER_S = 5


class LanguageModel:
    """Holds a bundle's language model and text encoder.

    Args:
        bundle: URI.
        slots: clips whose codes are written at a time.
        waiting: clips that may wait for a slot; more are refused.
        compiled, deterministic: see `SlotEngine`.
    """

    def __init__(
        self, bundle: str, slots: int = 8, waiting: int = 32, compiled: bool = False, deterministic: bool = False
    ):
        loaded = self._bundle = load_bundle(bundle)
        config, longest = loaded.config.generation, loaded.text_encoder.max_tokens
        self._engine = SlotEngine(loaded.lm, slots, longest, waiting, deterministic, compiled, Rereading.of(config))
        self._model = Model(
            id=loaded.model_id,
            sample_rate=loaded.codec.sample_rate,
            max_seconds=config.max_seconds,
            max_prompt_chars=config.max_prompt_chars,
            max_prompt_tokens=longest,
            formats=list(MEDIA_TYPES),
            defaults=config.model_dump(include=set(DEFAULTS)),
            asked_by={"prompt": PROMPT, **words_of(name for name in loaded.lm.widths if name != "text")},
        )
        self._failed = False
        # Whoever waits for codes holds a thread; those that read prompts must not wait behind them.
        self._waiters = ThreadPoolExecutor(slots + waiting, "codes")
        self._readers = ThreadPoolExecutor(1, "text")

    async def describe(self) -> Model:
        return self._model

    async def counters(self) -> list[dict[str, float]]:
        """See `CodeWriter`: of this one."""
        metrics = self._engine.metrics()
        return [{**asdict(metrics), "frames_per_second": metrics.frames_per_second}]

    async def check_health(self) -> None:
        """Raises once the engine has failed, so that this replica is replaced."""
        if self._failed:
            raise RuntimeError("the engine has failed")

    async def codes(
        self, request: MusicRequest, frames: int, portions: tuple[int, ...], primer_KT: np.ndarray | None
    ) -> AsyncGenerator[np.ndarray | Refusal]:
        """See `CodeWriter`. Closing it frees the slot."""
        loop = asyncio.get_running_loop()
        try:
            piece = await loop.run_in_executor(self._readers, Piece.of, self._bundle, request, frames, primer_KT)
            stream = self._engine.submit(piece)
        except UserError as error:
            yield Refusal(400, str(error))
            return
        except QueueFullError:
            yield Refusal(429, "too many clips are waiting; try again later", RETRY_AFTER_S)
            return
        except EngineClosedError as error:
            self._failed = True
            raise LostError("the language model has failed") from error
        try:
            for portion in chain(portions, repeat(portions[-1])):
                codes_KT = await loop.run_in_executor(self._waiters, stream.read, portion)
                if not codes_KT.shape[1]:
                    return
                yield codes_KT.astype(np.int32)
        except EngineClosedError as error:
            self._failed = True
            raise LostError("the language model has failed") from error
        finally:
            stream.cancel()

    def close(self) -> None:
        """End all clips and every thread."""
        self._engine.close()
        self._waiters.shutdown()
        self._readers.shutdown()
