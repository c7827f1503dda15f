"""Conditions and pieces that tests need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ssmttm.conditions.base import Conditions, TokenStates
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest, Sampling


def with_text(conditions: Conditions, **changes: Tensor) -> Conditions:
    """The same conditions, some fields of their text replaced."""
    return Conditions(
        {**{name: conditions[name] for name in conditions}, "text": replace(conditions["text"], **changes)}
    )


def doubled(conditions: Conditions) -> Conditions:
    """Text states in fp64."""
    text = conditions["text"]
    return with_text(conditions, states_BSD=text.states_BSD.double(), pooled_BD=text.pooled_BD.double())


def text_of(*fields: Any) -> Conditions:
    """A batch of text alone, from the fields of `TokenStates`."""
    return Conditions({"text": TokenStates(*fields)})


def piece_of(
    conditions: Conditions,
    frames: int,
    seed: int = 0,
    sampling: Sampling | None = None,
    primer_KT: np.ndarray | None = None,
    steps: int | None = None,
) -> Piece:
    """A piece of a request that is filled."""
    sampled = vars(sampling or Sampling(1.0, 1.0, 0))
    return Piece(MusicRequest("x", seed=seed, steps=steps, **sampled), conditions, frames, primer_KT)
