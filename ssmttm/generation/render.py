"""Stage 2 and the codec at inference, in windows: coarse codes come in, audio goes out, memory stays constant.

A window owns some frames of a piece. It is completed together with up to `context_frames` finished frames on its left,
which stay as they are and are met again as they were at every sampling step, and up to `lookahead_frames` coarse frames
on its right, whose fine latents are thrown away. The first window owns few frames, so that sound begins early, and each
one after it twice as many, up to the hop, so that the next is there when the last has been heard. Windows and noise
depend on the place in the piece only, so a piece has one result however its audio is taken out.

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
    """Frames that are already there: codebook 0 int64 [B, T] and fine latents float32 [B, Df, T]; for frames that
    stage 2 made also the trail they took, see `LatentCompleter.sample`."""

    codes_BT: Tensor
    fine_BDT: Tensor
    trail: tuple[Tensor, ...] = ()

    @property
    def frames(self) -> int:
        return self.codes_BT.shape[1]

    def last(self, frames: int) -> Finished:
        """The last `frames` frames, or all there are."""
        first = max(self.frames - frames, 0)
        trail = tuple(look_BDT[:, :, first:] for look_BDT in self.trail)
        return Finished(self.codes_BT[:, first:], self.fine_BDT[:, :, first:], trail)


@dataclass(frozen=True)
class Piece:
    """What stage 2 must know of the pieces in a batch: their prompts, seeds, sampling steps and guidance."""

    text: TextBatch
    seeds: Sequence[int]
    steps: int
    guidance: float


@dataclass(frozen=True)
class Window:
    """What is completed in one go.

    context: finished frames on the left.
    codes_BT: owned frames, then look-ahead.
    first_frame: absolute number of the first frame of `codes_BT`.
    owned: how many of its frames to complete.
    """

    context: Finished
    codes_BT: Tensor
    piece: Piece
    first_frame: int
    owned: int

    @property
    def shape(self) -> tuple[float, ...]:
        """Windows of one shape can be completed together."""
        context, piece = self.context, self.piece
        return context.frames, len(context.trail), self.codes_BT.shape[1], self.owned, piece.steps, piece.guidance


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
        self.first_hop = min(config.first_frames, self.hop)
        self.fine_dim = codec.fine_dim
        self._completer, self._codec, self._config = completer, codec, config
        self.device = next(completer.parameters()).device

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
        track = Track(self, frames, piece, history, first_frame)
        while track.left:
            fresh = [code_B[:, None] for code_B in islice(codes, track.wanted)]
            window = track.window(
                torch.cat([torch.empty(len(piece.seeds), 0, dtype=torch.int64, device=self.device), *fresh], dim=1)
            )
            yield track.hear(self.complete([window])[0])

    @torch.inference_mode()
    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        """Context and owned frames of each window, all finished. The windows must be of one shape."""
        known, owned, piece = windows[0].context.frames, windows[0].owned, windows[0].piece
        context_BDT = torch.cat([window.context.fine_BDT for window in windows])
        window_BT = torch.cat([torch.cat([window.context.codes_BT, window.codes_BT], dim=1) for window in windows])

        def noise(draw: int) -> Tensor:
            drawn = [
                frame_noise(window.piece.seeds, window.first_frame - known, window_BT.shape[1], self.fine_dim, draw)
                for window in windows
            ]
            return torch.cat(drawn).to(self.device)

        trail: list[Tensor] = []
        fine_BDT = self._completer.sample(
            self._codec.coarse(window_BT),
            TextBatch.cat(*(window.piece.text for window in windows)),
            noise(0),
            Sampler.of(self._config, piece.steps, piece.guidance),
            known_BDT=context_BDT,
            known_frames=known,
            fresh=lambda step: noise(step + 1),
            known_trail=[torch.cat(looks) for looks in zip(*(window.context.trail for window in windows), strict=True)],
            trail=trail,
        )
        fine_BDT = torch.cat([context_BDT, fine_BDT[:, :, known : known + owned]], dim=2)
        clips = [len(window.piece.seeds) for window in windows]
        trails = zip(*(look_BDT[:, :, : known + owned].split(clips) for look_BDT in trail), strict=True)
        codes = window_BT[:, : known + owned].split(clips)
        return [Finished(*parts) for parts in zip(codes, fine_BDT.split(clips), trails, strict=True)]

    @torch.inference_mode()
    def decode(self, frames: Finished, state: Any, final: bool) -> tuple[Tensor, Any]:
        """`Codec.decode_chunk` of finished frames."""
        coarse_BDT = self._codec.coarse(frames.codes_BT)
        return self._codec.decode_chunk(coarse_BDT, frames.fine_BDT, state, final=final)


class Track:
    """A piece on its way through stage 2, window after window. Arguments as `Renderer.render`.

    left: frames not yet asked for. wanted: how many codes the next window takes.
    """

    def __init__(
        self, renderer: Renderer, frames: int, piece: Piece, history: Finished | None = None, first_frame: int = 0
    ):
        self.left = frames
        self._renderer, self._piece = renderer, replace(piece, text=piece.text.to(renderer.device))
        self._pending_BT = torch.empty(len(piece.seeds), 0, dtype=torch.int64, device=renderer.device)
        if history is None:
            fine_BDT = torch.empty(len(piece.seeds), renderer.fine_dim, 0, device=renderer.device)
            history = Finished(self._pending_BT, fine_BDT)
        self._context = history.last(renderer.context)
        self._unheard = self._context.frames
        self._first_frame, self._hop = first_frame, renderer.first_hop
        self._vocoder: Any = None

    @property
    def wanted(self) -> int:
        return min(self._owned + self._renderer.lookahead, self.left) - self._pending_BT.shape[1]

    @property
    def _owned(self) -> int:
        return min(self._hop, self.left)

    def window(self, codes_BT: Tensor) -> Window:
        """The next window, made with the codes that it wants."""
        self._pending_BT = torch.cat([self._pending_BT, codes_BT.to(self._pending_BT)], dim=1)
        return Window(self._context, self._pending_BT, self._piece, self._first_frame, self._owned)

    def hear(self, done: Finished) -> Tensor:
        """The audio [B, 1, N] that the completed window adds."""
        owned = self._owned
        fresh = done.last(self._unheard + owned)
        audio_B1N, self._vocoder = self._renderer.decode(fresh, self._vocoder, final=owned == self.left)
        self._context, self._unheard = done.last(self._renderer.context), 0
        self._pending_BT = self._pending_BT[:, owned:]
        self._first_frame += owned
        self.left -= owned
        self._hop = min(2 * self._hop, self._renderer.hop)
        return audio_B1N
