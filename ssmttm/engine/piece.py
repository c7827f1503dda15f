"""A request on its way through the engine: what it asks for as the models take it, and what is known before it begins.

Shapes: B clips, K codebooks that stage 1 writes, T frames, Df fine dimensions.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ssmttm.bundle.load import Bundle
from ssmttm.conditions.base import Conditions
from ssmttm.conditions.registry import requested
from ssmttm.conditions.text import Text, token_states
from ssmttm.engine.request import MusicRequest, check_prompt

_encoding = threading.Lock()  # tokenizers refuse calls from two threads at once


def conditions_of(bundle: Bundle, request: MusicRequest, frames: int) -> Conditions:
    """What a request asks for, as the models take it: a batch of one. May be called from any thread.

    Args:
        frames: of the whole piece, for controls by frame.

    Raises:
        UserError: if the prompt is too long or holds no visible text, or a control is not one of the model's.
    """
    check_prompt(request.prompt, bundle.config.generation.max_prompt_chars)
    controls = controls_of(bundle, request, frames)
    with _encoding:
        states = bundle.text_encoder.encode([request.prompt])
    return Conditions({Text.name: token_states(states), **controls})


def controls_of(bundle: Bundle, request: MusicRequest, frames: int) -> dict[str, Any]:
    """The controls by frame that a request asks for, one row each.

    Raises:
        UserError: if one is not of the model's, or its conditioner refuses the value.
    """
    known = [name for name in bundle.lm.widths if name != Text.name]
    handles, frame_rate = request.handles, bundle.codec.frame_rate
    handles.check(known)
    return requested(handles.by_control(frames / frame_rate), known, frames, frame_rate)


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


@dataclass(frozen=True, eq=False)
class Piece:
    """A request on its way through the engine.

    request: filled.
    conditions: what it asks for, a batch of one.
    frames: how many are to be made.
    primer_KT: codes that they continue; new frames are numbered from its length on.
    history: the frames before them as the windows know them, finished.
    """

    request: MusicRequest
    conditions: Conditions
    frames: int
    primer_KT: np.ndarray | None = None
    history: Finished | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        request: MusicRequest,
        frames: int,
        primer_KT: np.ndarray | None = None,
        history: Finished | None = None,
    ) -> Piece:
        """With the bundle's defaults and the conditions that the request asks for.

        Raises:
            UserError: if anything about the request is out of bounds.
        """
        request, known = request.filled(bundle.config.generation), 0 if primer_KT is None else primer_KT.shape[1]
        return cls(request, conditions_of(bundle, request, known + frames), frames, primer_KT, history)

    @property
    def known(self) -> int:
        return 0 if self.primer_KT is None else self.primer_KT.shape[1]

    @property
    def seed(self) -> int:
        assert self.request.seed is not None
        return self.request.seed
