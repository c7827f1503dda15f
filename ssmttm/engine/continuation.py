"""Given audio that new music continues: as codes for stage 1, as latents for what follows it, and joined with what they
add.

Shapes: B = 1 clip, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ssmttm import audio as audio_io
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.engine.fine import Finished
from ssmttm.engine.limiter import soft_limit
from ssmttm.engine.render import Renderer
from ssmttm.errors import UserError

JOIN_SECONDS = 0.1


class Continuation:
    """Audio to be continued.

    Args:
        codec: the bundle's.
        codebooks: how many stage 1 writes.
        renderer: on the codec's device.
        audio: of any rate and number of channels.
        seconds: length of what follows.
        max_seconds: limit of both together.

    Attributes:
        primer_BKT: codes that stage 1 continues.
        history: the finished frames.
        fresh: samples to be made.
        overlap: samples of the history, which are rendered again.
        total: samples in all.

    Raises:
        UserError: if the audio is shorter than a code frame, or the whole over the limit.
    """

    def __init__(
        self, codec: Codec, codebooks: int, renderer: Renderer, audio: Audio, seconds: float, max_seconds: float
    ):
        if audio.seconds + seconds > max_seconds:
            raise UserError(f"the continued piece would be over the limit of {max_seconds:g} seconds")
        self._given = audio_io.to_mono(audio_io.resample(audio, codec.sample_rate)).samples
        hop, rate = codec.hop_length, codec.sample_rate
        known = self._given.shape[1] // hop * hop  # a last, partial frame is made anew
        if known == 0:
            raise UserError(f"audio of {audio.seconds:.2f} s is too short to be continued; give at least a second")
        with torch.inference_mode():
            wav_B1N = torch.from_numpy(self._given[:, :known])[None].to(renderer.device)
            codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
        self.primer_BKT = codes_BKT[:, :codebooks]
        self.history = Finished(codes_BKT[:, 0], fine_BDT).last(renderer.context)
        self.fresh = self._given.shape[1] - known + max(round(seconds * rate), 1)
        self.overlap = self.history.frames * hop
        self.total = known + self.fresh
        self._known, self._join = known, min(round(JOIN_SECONDS * rate), self.overlap)
        self._held_1N: Tensor | None = torch.empty(1, 0)  # the history's audio; None once it is joined

    def join(self, rendered: Iterator[Tensor]) -> Iterator[np.ndarray]:
        """Yield the whole, `total` samples float32 [1, N]: the given audio, whose last 0.1 s fade into the model's
        rendering of them, then the new samples.

        Args:
            rendered: [1, N] on the CPU: `overlap` samples of the history, then `fresh` new ones, in pieces of any size.
        """
        for piece_1N in rendered:
            yield from self.add(piece_1N)

    def add(self, rendered_1N: Tensor) -> list[np.ndarray]:
        """What one more piece of `join`'s argument adds to its result."""
        if self._held_1N is None:
            return [rendered_1N.numpy()]
        held_1N = torch.cat([self._held_1N, rendered_1N], dim=1)
        if held_1N.shape[1] < self.overlap:
            self._held_1N = held_1N
            return []
        self._held_1N = None
        # The two sides of the join differ in phase, so their powers are what must add up to one.
        angle = torch.linspace(0, math.pi / 2, self._join)
        begin = self._known - self._join
        ending_1N = torch.from_numpy(self._given[:, begin : self._known])
        again_1N = held_1N[:, self.overlap - self._join : self.overlap]
        crossed_1N = soft_limit(ending_1N * angle.cos() + again_1N * angle.sin())
        parts = [self._given[:, :begin], crossed_1N.numpy(), held_1N[:, self.overlap :].numpy()]
        return [part for part in parts if part.shape[1]]
