"""Where fine latents come from: stage 2 completes them in windows, or stage 1 wrote the other codebooks too.

Shapes: B clips, K codebooks that stage 1 writes, T frames, Df fine dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssmttm.codec.base import Codec
from ssmttm.conditions.base import Conditions
from ssmttm.config import GenerationConfig
from ssmttm.engine.sampling import frame_noise
from ssmttm.model.diffusion import LatentCompleter, Sampler


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
    """What stage 2 must know of the pieces in a batch: their prompts, seeds, sampling steps (None where there is no
    stage 2) and guidance."""

    text: Conditions
    seeds: Sequence[int]
    steps: int | None
    guidance: float


@dataclass(frozen=True)
class Window:
    """What is completed in one go.

    context: finished frames on the left.
    codes_BKT: owned frames, then look-ahead.
    first_frame: absolute number of the first frame of `codes_BKT`.
    owned: how many of its frames to complete.
    """

    context: Finished
    codes_BKT: Tensor
    piece: Piece
    first_frame: int
    owned: int

    @property
    def shape(self) -> tuple[float | None, ...]:
        """Windows of one shape can be completed together."""
        context, piece = self.context, self.piece
        return context.frames, len(context.trail), self.codes_BKT.shape[2], self.owned, piece.steps, piece.guidance


class FineSource(Protocol):
    """Makes the fine latents of windows. `lookahead`: frames behind a window that it wants to see."""

    lookahead: int

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        """Context and owned frames of each window, all finished. The windows must be of one shape."""
        ...


def fine_source(completer: LatentCompleter | None, codec: Codec, config: GenerationConfig) -> FineSource:
    return FromCodebooks(codec) if completer is None else FromStage2(completer, codec, config)


class FromCodebooks:
    """Codebooks 1 to K-1 as stage 1 wrote them: nothing is drawn, and no frame asks for others. Codebooks that the
    codec has beyond K are left out."""

    lookahead = 0

    def __init__(self, codec: Codec):
        self._codec = codec

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        return [self._finish(window) for window in windows]

    def _finish(self, window: Window) -> Finished:
        context, codes_BKT = window.context, window.codes_BKT[:, :, : window.owned]
        fine_BDT = self._codec.fine_from_codes(codes_BKT)
        return Finished(
            torch.cat([context.codes_BT, codes_BKT[:, 0]], dim=1), torch.cat([context.fine_BDT, fine_BDT], dim=2)
        )


class FromStage2:
    """Codebook 0 completed by stage 2, which sees the finished frames before a window and codes behind it.

    Args:
        completer: in evaluation mode, on the codec's device.
        config: look-ahead in code frames; solver and the rest of the sampling.
    """

    def __init__(self, completer: LatentCompleter, codec: Codec, config: GenerationConfig):
        self.lookahead = config.lookahead_frames
        self._completer, self._codec, self._config = completer, codec, config
        self._device = next(completer.parameters()).device

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        known, owned, piece = windows[0].context.frames, windows[0].owned, windows[0].piece
        assert piece.steps is not None
        context_BDT = torch.cat([window.context.fine_BDT for window in windows])
        window_BT = torch.cat([torch.cat([one.context.codes_BT, one.codes_BKT[:, 0]], dim=1) for one in windows])

        def noise(draw: int) -> Tensor:
            drawn = [
                frame_noise(
                    window.piece.seeds, window.first_frame - known, window_BT.shape[1], self._codec.fine_dim, draw
                )
                for window in windows
            ]
            return torch.cat(drawn).to(self._device)

        trail: list[Tensor] = []
        fine_BDT = self._completer.sample(
            self._codec.coarse(window_BT),
            Conditions.cat(*(window.piece.text for window in windows)),
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
