"""Stage 2 and the codec at inference, in windows: coarse codes come in, audio goes out, memory stays constant.

Window i of a piece owns frames [i * hop, (i + 1) * hop). It is completed together with up to `context_frames`
finished frames on its left, which stay as they are, and up to `lookahead_frames` coarse frames on its right, whose
fine latents are thrown away. Windows, hop and noise depend on absolute frames only, so a piece has one result however
its audio is taken out.

Shapes: B clips, T frames, Dc coarse and Df fine dimensions, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ssmttm.codec.base import Codec
from ssmttm.config import GenerationConfig
from ssmttm.errors import UserError
from ssmttm.generation.sampling import frame_noise
from ssmttm.model.diffusion import LatentCompleter, Sampler
from ssmttm.model.text import TextBatch


@dataclass(frozen=True)
class Finished:
    """Frames that are already there: codebook 0 int64 [B, T] and fine latents float32 [B, Df, T]."""

    codes_BT: Tensor
    fine_BDT: Tensor

    @property
    def frames(self) -> int:
        return self.codes_BT.shape[1]

    def last(self, frames: int) -> Finished:
        """The last `frames` frames, or all there are."""
        first = max(self.frames - frames, 0)
        return Finished(self.codes_BT[:, first:], self.fine_BDT[:, :, first:])


@dataclass(frozen=True)
class Piece:
    """What stage 2 must know of the pieces in a batch: their prompts, seeds, sampling steps and guidance."""

    text: TextBatch
    seeds: Sequence[int]
    steps: int
    guidance: float


class Renderer:
    """Turns codebook 0 into audio.

    Args:
        completer: in evaluation mode.
        codec: on the same device.
        config: window, context and look-ahead in code frames; solver and the rest of stage 2's sampling.

    Raises:
        UserError: if context and look-ahead leave no room in the window.
    """

    def __init__(self, completer: LatentCompleter, codec: Codec, config: GenerationConfig):
        self.context, self.lookahead = config.context_frames, config.lookahead_frames
        self.hop = config.window_frames - self.context - self.lookahead
        if self.hop < 1:
            raise UserError(
                f"generation.window_frames={config.window_frames} must exceed generation.context_frames + "
                f"generation.lookahead_frames = {self.context + self.lookahead}"
            )
        self._completer, self._codec, self._config = completer, codec, config
        self._device = next(completer.parameters()).device

    def render(
        self,
        codes: Iterator[Tensor],
        frames: int,
        piece: Piece,
        history: Finished | None = None,
        first_frame: int = 0,
    ) -> Iterator[Tensor]:
        """Yield consecutive audio float32 [B, 1, N], taking codes no earlier than needed.

        Args:
            codes: codebook 0 of each frame, int64 [B].
            frames: how many there are.
            piece: what the batch is made from.
            history: frames before them. The last `context` of these are used, and their audio comes first.
            first_frame: absolute number of the first new frame.
        """
        piece = replace(piece, text=piece.text.to(self._device))
        clips = len(piece.seeds)
        pending_BT = torch.empty(clips, 0, dtype=torch.int64, device=self._device)
        if history is None:
            context = Finished(pending_BT, torch.empty(clips, self._codec.fine_dim, 0, device=self._device))
        else:
            context = history.last(self.context)
        unheard = context.frames
        vocoder_state = None
        for start in range(0, frames, self.hop):
            owned = min(self.hop, frames - start)
            wanted = min(owned + self.lookahead, frames - start) - pending_BT.shape[1]
            pending_BT = torch.cat([pending_BT, *(frame_B[:, None] for frame_B in islice(codes, wanted))], dim=1)
            done = self.complete(context, pending_BT, piece, first_frame + start, owned)
            fresh = done.last(unheard + owned)
            audio_B1N, vocoder_state = self._decode(fresh, vocoder_state, final=start + owned == frames)
            yield audio_B1N
            context, pending_BT, unheard = done.last(self.context), pending_BT[:, owned:], 0

    @torch.inference_mode()
    def complete(self, context: Finished, codes_BT: Tensor, piece: Piece, first_frame: int, owned: int) -> Finished:
        """One window: finished frames on the left, then `owned` frames to complete, then look-ahead.

        Args:
            context: finished frames, kept as they are.
            codes_BT: owned and look-ahead frames.
            piece: what the batch is made from.
            first_frame: absolute number of the first frame of `codes_BT`.
            owned: how many of its frames to complete.

        Returns:
            context and owned frames, all finished.
        """
        window_BT = torch.cat([context.codes_BT, codes_BT], dim=1)
        first = first_frame - context.frames

        def noise(draw: int) -> Tensor:
            shape = (window_BT.shape[1], self._codec.fine_dim)
            return frame_noise(piece.seeds, first, *shape, draw).to(self._device)

        fine_BDT = self._completer.sample(
            self._codec.coarse(window_BT),
            piece.text,
            noise(0),
            Sampler.of(self._config, piece.steps, piece.guidance),
            known_BDT=context.fine_BDT,
            known_frames=context.frames,
            fresh=lambda step: noise(step + 1),
        )
        last = context.frames + owned
        fine_BDT = torch.cat([context.fine_BDT, fine_BDT[:, :, context.frames : last]], dim=2)
        return Finished(window_BT[:, :last], fine_BDT)

    @torch.inference_mode()
    def _decode(self, frames: Finished, state: Any, final: bool) -> tuple[Tensor, Any]:
        coarse_BDT = self._codec.coarse(frames.codes_BT)
        return self._codec.decode_chunk(coarse_BDT, frames.fine_BDT, state, final=final)
