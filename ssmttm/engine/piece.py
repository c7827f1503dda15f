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
from ssmttm.conditions.base import Conditions, TokenStates
from ssmttm.conditions.registry import requested
from ssmttm.conditions.text import Text, token_states
from ssmttm.engine.request import MOST_PROMPTS, MusicRequest, check_prompt

MOST_ROWS = MOST_PROMPTS + 2  # of state that one piece takes
_encoding = threading.Lock()  # tokenizers refuse calls from two threads at once


def conditions_of(bundle: Bundle, request: MusicRequest, frames: int) -> Conditions:
    """What a request asks for, as the models take it: a row for each prompt, all with its controls. May be called from
    any thread.

    Args:
        frames: of the whole piece, for controls by frame.

    Raises:
        UserError: if a prompt is too long or holds no visible text, or a control is not one of the model's.
    """
    texts = [text for text, _ in request.texts]
    for text in texts:
        check_prompt(text, bundle.config.generation.max_prompt_chars)
    controls = controls_of(bundle, request, frames)
    everywhere = {
        name: control if len(texts) == 1 else control.rows([0] * len(texts)) for name, control in controls.items()
    }
    return Conditions({Text.name: _states_of(bundle, texts), **everywhere})


def negative_of(bundle: Bundle, request: MusicRequest) -> Conditions | None:
    """The negative prompt, a batch of one; None where there is none.

    Raises:
        UserError: if it is too long or holds no visible text.
    """
    if request.negative is None:
        return None
    check_prompt(request.negative, bundle.config.generation.max_prompt_chars, "the negative prompt")
    return Conditions({Text.name: _states_of(bundle, [request.negative])})


def _states_of(bundle: Bundle, texts: list[str]) -> TokenStates:
    with _encoding:
        return token_states(bundle.text_encoder.encode(texts))


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

    Its outputs are guided from those of up to `MOST_ROWS` rows: of each prompt with the controls; of the controls
    without a prompt, where they have a guidance of their own; of nothing, where guidance leads away from it. A negative
    prompt stands in the last two in the place of no text.

    request: filled.
    conditions: what it asks for, a row for each prompt.
    frames: how many are to be made.
    primer_KT: codes that they continue; new frames are numbered from its length on.
    history: the frames before them as the windows know them, finished.
    negative: the negative prompt, one row.
    """

    request: MusicRequest
    conditions: Conditions
    frames: int
    primer_KT: np.ndarray | None = None
    history: Finished | None = None
    negative: Conditions | None = None

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
        conditions = conditions_of(bundle, request, known + frames)
        return cls(request, conditions, frames, primer_KT, history, negative_of(bundle, request))

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the prompts; they add up to 1."""
        return tuple(weight for _, weight in self.request.texts)

    @property
    def prompts(self) -> int:
        return len(self.conditions)

    def asked_between(self, start: int, stop: int) -> Conditions:
        """Of frames `start` to `stop`, the prompts' rows."""
        return self.conditions.frames(start, stop)

    def others_between(self, start: int, stop: int) -> Conditions | None:
        """Of frames `start` to `stop`, the other rows; None where there are none."""
        asked = self.asked_between(start, stop)
        unasked, rows = self.unasked(asked), []
        if self.request.steers_controls:
            first = asked.rows([0])
            rows.append(Conditions({name: (unasked if name == Text.name else first)[name] for name in asked}))
        if self.request.leads_away:
            rows.append(unasked)
        return Conditions.cat(*rows) if rows else None

    def unasked(self, asked: Conditions) -> Conditions:
        """What guidance leads away from, beside conditions that are asked for: one row."""
        nothing = asked.rows([0]).as_null()
        if self.negative is None:
            return nothing
        return Conditions({name: (self.negative if name == Text.name else nothing)[name] for name in nothing})

    @property
    def known(self) -> int:
        return 0 if self.primer_KT is None else self.primer_KT.shape[1]

    @property
    def seed(self) -> int:
        assert self.request.seed is not None
        return self.request.seed
