"""Stage 1 as a part of the service: slots that write the codes of many requests at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, repeat
from typing import Any

import numpy as np

from serve.schema import MEDIA_TYPES, SETTINGS, Model
from serve.wire import CodeOrder, LostError, Refusal
from ssmttm.bundle.load import load_bundle
from ssmttm.engine.request import check_prompt
from ssmttm.engine.rereading import Rereading
from ssmttm.engine.sampling import Sampling
from ssmttm.engine.slot_batch import CodeRequest
from ssmttm.engine.slot_engine import EngineClosedError, QueueFullError, SlotEngine
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
        loaded = load_bundle(bundle)
        self._config, self._encoder = loaded.config.generation, loaded.text_encoder
        longest, rereading = self._encoder.max_tokens, Rereading.of(self._config)
        self._engine = SlotEngine(loaded.lm, slots, longest, waiting, deterministic, compiled, rereading)
        self._model = Model(
            id=loaded.model_id,
            sample_rate=loaded.codec.sample_rate,
            max_seconds=self._config.max_seconds,
            max_prompt_chars=self._config.max_prompt_chars,
            max_prompt_tokens=self._encoder.max_tokens,
            formats=list(MEDIA_TYPES),
            defaults=self._config.model_dump(include=SETTINGS),
        )
        self._failed = False
        self._encoder_lock = threading.Lock()  # tokenizers refuse calls from two threads at once
        # Whoever waits for codes holds a thread; those that read prompts must not wait behind them.
        self._waiters = ThreadPoolExecutor(slots + waiting, "codes")
        self._readers = ThreadPoolExecutor(1, "text")

    async def describe(self) -> Model:
        return self._model

    async def counters(self) -> dict[str, float]:
        metrics = self._engine.metrics()
        return {**asdict(metrics), "frames_per_second": metrics.frames_per_second}

    async def check_health(self) -> None:
        """Raises once the engine has failed, so that this replica is replaced."""
        if self._failed:
            raise RuntimeError("the engine has failed")

    async def check_prompt(self, prompt: str) -> Refusal | None:
        """What the model has against a prompt: its length in characters or in tokens."""
        try:
            await _off_loop(self._readers, self._tokenize, prompt)
        except UserError as error:
            return Refusal(400, str(error))
        return None

    async def codes(self, order: CodeOrder) -> AsyncGenerator[np.ndarray | Refusal]:
        """See `CodeWriter`. Closing it frees the slot."""
        sampling = Sampling(order.guidance, order.temperature, order.top_k, order.top_p)
        try:
            states_SD = await _off_loop(self._readers, self._read, order.prompt)
            stream = self._engine.submit(CodeRequest(states_SD, order.frames, order.seed, sampling, order.primer_KT))
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
            yield states_SD
            for portion in chain(order.portions, repeat(order.portions[-1])):
                codes_KT = await _off_loop(self._waiters, stream.read, portion)
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

    def _tokenize(self, prompt: str) -> None:
        check_prompt(prompt, self._config)
        with self._encoder_lock:
            self._encoder.tokenize([prompt])

    def _read(self, prompt: str) -> np.ndarray:
        check_prompt(prompt, self._config)
        with self._encoder_lock:
            return self._encoder.encode([prompt])[0]


async def _off_loop(threads: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
