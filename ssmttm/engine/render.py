"""From codes to audio, in windows: codes come in, audio goes out, memory stays constant.

A window owns some frames of a piece. Stage 2 completes it together with up to `context_frames` finished frames on its
left, which stay as they are and are met again as they were at every sampling step, and up to `lookahead_frames` coarse
frames on its right, whose fine latents are thrown away. The first window owns few frames, so that sound begins early,
and each one after it twice as many, up to the hop, so that the next is there when the last has been heard. Windows and
noise depend on the place in the piece only, so a piece has one result however its audio is taken out. Where stage 1
writes all codebooks, windows are no more than portions.

Shapes: B clips, K codebooks that stage 1 writes, T frames, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ssmttm.codec.base import Codec
from ssmttm.config import GenerationConfig
from ssmttm.engine.fine import Finished, Piece, Window, fine_source
from ssmttm.errors import UserError
from ssmttm.model.diffusion import LatentCompleter


class Renderer:
    """Turns codes into audio.

    Args:
        completer: in evaluation mode; None where stage 1 writes the codebooks that fine latents come from.
        codec: on the same device.
        config: window, context and look-ahead in code frames; solver and the rest of stage 2's sampling.

    Raises:
        UserError: if context and look-ahead leave no room in the window.
    """

    def __init__(self, completer: LatentCompleter | None, codec: Codec, config: GenerationConfig):
        self._fine = fine_source(completer, codec, config)
        self.context, self.lookahead = config.context_frames, self._fine.lookahead
        self.hop = config.window_frames - self.context - self.lookahead
        if self.hop < 1:
            raise UserError(
                f"generation.window_frames={config.window_frames} must exceed generation.context_frames + "
                f"generation.lookahead_frames = {self.context + self.lookahead}"
            )
        self.first_hop = min(config.first_frames, self.hop)
        hops = [self.first_hop]
        while hops[-1] < self.hop:
            hops.append(min(2 * hops[-1], self.hop))
        # How many fresh codes each window takes, in turn, the last number of them for all that follow.
        self.portions = (hops[0] + self.lookahead, *hops[1:], self.hop)
        self.fine_dim = codec.fine_dim
        self._codec, self.device = codec, codec.device

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
            codes: of each frame, int64 [B, K].
            frames: how many there are.
            piece: what the batch is made from.
            history: frames before them. The last `context` of these are used, and their audio comes first.
            first_frame: absolute number of the first new frame.
        """
        track = Track(self, frames, piece, history, first_frame)
        while track.left:
            fresh_BKT = [codes_BK[:, :, None] for codes_BK in islice(codes, track.wanted)]
            yield track.hear(self.complete([track.window(*fresh_BKT)])[0])

    @torch.inference_mode()
    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        """Context and owned frames of each window, all finished. The windows must be of one shape."""
        return self._fine.complete(windows)

    @torch.inference_mode()
    def decode(self, frames: Finished, state: Any, final: bool) -> tuple[Tensor, Any]:
        """`Codec.decode_chunk` of finished frames."""
        coarse_BDT = self._codec.coarse(frames.codes_BT)
        return self._codec.decode_chunk(coarse_BDT, frames.fine_BDT, state, final=final)


class Track:
    """A piece on its way to sound, window after window. Arguments as `Renderer.render`.

    left: frames not yet asked for. wanted: how many codes the next window takes.
    """

    def __init__(
        self, renderer: Renderer, frames: int, piece: Piece, history: Finished | None = None, first_frame: int = 0
    ):
        self.left = frames
        self._renderer, self._piece = renderer, replace(piece, text=piece.text.to(renderer.device))
        self._pending: list[Tensor] = []  # [B, K, T] each
        if history is None:
            codes_BT = torch.empty(len(piece.seeds), 0, dtype=torch.int64, device=renderer.device)
            history = Finished(codes_BT, torch.empty(len(piece.seeds), renderer.fine_dim, 0, device=renderer.device))
        self._context = history.last(renderer.context)
        self._unheard = self._context.frames
        self._first_frame, self._hop = first_frame, renderer.first_hop
        self._vocoder: Any = None

    @property
    def wanted(self) -> int:
        pending = sum(codes_BKT.shape[2] for codes_BKT in self._pending)
        return min(self._owned + self._renderer.lookahead, self.left) - pending

    @property
    def _owned(self) -> int:
        return min(self._hop, self.left)

    def window(self, *codes_BKT: Tensor) -> Window:
        """The next window, made with the codes that it wants, in any number of portions."""
        fresh = [part_BKT.to(self._renderer.device, torch.int64) for part_BKT in codes_BKT]
        self._pending = [torch.cat([*self._pending, *fresh], dim=2)]
        return Window(self._context, self._pending[0], self._piece, self._first_frame, self._owned)

    def hear(self, done: Finished) -> Tensor:
        """The audio [B, 1, N] that the completed window adds."""
        owned = self._owned
        fresh = done.last(self._unheard + owned)
        audio_B1N, self._vocoder = self._renderer.decode(fresh, self._vocoder, final=owned == self.left)
        self._context, self._unheard = done.last(self._renderer.context), 0
        self._pending = [self._pending[0][:, :, owned:]]
        self._first_frame += owned
        self.left -= owned
        self._hop = min(2 * self._hop, self._renderer.hop)
        return audio_B1N
