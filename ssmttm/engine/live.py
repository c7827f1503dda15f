"""Many clips at once, each streamed while it is made: slots write codes, and a pool renders windows of all clips.

Shapes: K codebooks, T frames, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssmttm.audio import Audio
from ssmttm.conditions.text import collate_text
from ssmttm.engine.fine import Piece
from ssmttm.engine.generator import Generator
from ssmttm.engine.limiter import finish
from ssmttm.engine.render import Track
from ssmttm.engine.render_pool import RenderPool
from ssmttm.engine.request import check_seed, resolve
from ssmttm.engine.rereading import Rereading
from ssmttm.engine.slot_batch import CodeRequest
from ssmttm.engine.slot_engine import CodeStream, EngineMetrics, SlotEngine


class LiveClip:
    """A clip in the making: an iterator over its consecutive mono pieces.

    It raises what `CodeStream` raises, where the clip ends early. What nobody iterates over any more is cancelled.

    seed: its own, drawn if none was given.
    """

    def __init__(self, seed: int, codes: CodeStream, pieces: Iterator[Audio]):
        self.seed, self._codes, self._pieces = seed, codes, pieces

    def __iter__(self) -> LiveClip:
        return self

    def __next__(self) -> Audio:
        return next(self._pieces)

    def cancel(self) -> None:
        """End it; whoever waits for its next piece gets a `CancelledError`."""
        self._codes.cancel()

    def __del__(self) -> None:
        self._codes.cancel()


class LiveGenerator:
    """A generator that makes several clips together. All methods may be called from any thread.

    Args:
        generator: its models are shared, and may go on being used.
        slots: clips in the making at a time.
        waiting: clips that may wait for a slot; more are refused.
        deterministic: give every seed the same bits in any company, see `SlotBatch`; slower where few clips are made.
        compiled: let torch.compile fuse the step on a CPU, which takes half a minute the first time.

    Raises:
        UserError: if the backbone's state grows with the piece.
    """

    def __init__(
        self,
        generator: Generator,
        slots: int = 8,
        waiting: int = 32,
        deterministic: bool = False,
        compiled: bool = False,
    ):
        self.generator = generator
        bundle = generator.bundle
        text_tokens = bundle.text_encoder.max_tokens
        rereading = Rereading.of(generator.config)
        self._engine = SlotEngine(bundle.lm, slots, text_tokens, waiting, deterministic, compiled, rereading)
        self._pool = RenderPool(generator.renderer, deterministic=deterministic)

    def stream(
        self,
        prompt: str,
        seconds: float = 10.0,
        seed: int | None = None,
        deadline_s: float | None = None,
        **settings: Any,
    ) -> LiveClip:
        """Begin a clip.

        Args:
            prompt, seconds, seed: as `Generator.stream`.
            deadline_s: seconds from now by which its last code must be written.
            settings: guidance, temperature, top_k, top_p and steps, as `Generator.stream`.

        Raises:
            UserError: if anything is out of bounds.
            QueueFullError: if too many clips wait already.
            EngineClosedError: after `close`, or a failure.
        """
        generator = self.generator
        resolved = resolve(generator.config, seconds, **settings)
        seed = check_seed(seed)
        states = generator.read([prompt])
        samples = generator.samples_in(seconds)
        frames = -(-samples // generator.bundle.codec.hop_length)
        codes = self._engine.submit(CodeRequest(states[0], frames, seed, resolved.sampling), deadline_s)
        piece = Piece(collate_text(states), [seed], resolved.steps, generator.config.stage2_guidance)
        audio = _render(self._pool, Track(generator.renderer, frames, piece), codes)
        pieces = (Audio(piece_1N.numpy(), generator.sample_rate) for piece_1N in finish(audio, samples))
        return LiveClip(seed, codes, pieces)

    def metrics(self) -> EngineMetrics:
        """Counters of stage 1."""
        return self._engine.metrics()

    def close(self) -> None:
        """End all clips and both threads."""
        self._engine.close()
        self._pool.close()

    def __enter__(self) -> LiveGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _render(pool: RenderPool, track: Track, codes: CodeStream) -> Iterator[Tensor]:
    while track.left:
        codes_KT = codes.read(track.wanted)
        yield pool.render(track, torch.from_numpy(codes_KT)[None])
