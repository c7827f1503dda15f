"""Seeded sampling: every random number is keyed by (seed, purpose, absolute frame), never by call order.

So a frame's draw is the same whether the piece is streamed, generated at once, batched with others or continued
later. Shapes: B clips, K codebooks, V codes, T frames, D latent dimensions.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
_CODES, _LATENTS = 1, 2  # purposes: independent streams of one seed


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    guidance: classifier-free guidance g; logits become `u + g (c - u)` (arXiv 2207.12598, as w = g - 1). 1 uses the
        conditional logits alone, 0 the unconditional ones.
    temperature: divides the logits; 0 takes the most likely code.
    top_k: draw among the k most likely codes; 0 draws among all.
    """

    guidance: float
    temperature: float
    top_k: int


def draw_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def _generator(seed: int, purpose: int, frame: int, draw: int = 0) -> np.random.Generator:
    # Philox is a counter-based generator (Salmon et al., SC 2011): frame and draw are the high part of its counter, so
    # each of them owns 2^128 numbers and none of them depends on what was drawn before.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, frame, draw]))


def frame_uniforms(seed: int, frame: int, codebooks: int) -> np.ndarray:
    """One uniform number in [0, 1) per codebook for an absolute frame: float64 [K]."""
    return _generator(seed, _CODES, frame).random(codebooks)


def frame_noise(seeds: Sequence[int], first_frame: int, frames: int, dim: int, draw: int = 0) -> Tensor:
    """Standard normal noise of stage 2 for absolute frames first_frame ... first_frame + frames - 1; `draw` numbers
    independent ones.

    Returns float32 [B, D, T], row b from `seeds[b]`.
    """
    noise_BTD = np.stack(
        [
            np.stack(
                [
                    _generator(seed, _LATENTS, frame, draw).standard_normal(dim, dtype=np.float32)
                    for frame in range(first_frame, first_frame + frames)
                ]
            )
            for seed in seeds
        ]
    )
    return torch.from_numpy(noise_BTD).transpose(1, 2).contiguous()


def guide(conditional_BKV: Tensor, unconditional_BKV: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance on logits: `u + g (c - u)`. Constants per row cancel in the softmax that follows."""
    return unconditional_BKV + guidance * (conditional_BKV - unconditional_BKV)


def sample(logits_BKV: Tensor, uniforms_BK: Tensor, sampling: Sampling) -> Tensor:
    """Draw one code per clip and codebook by inverting the cumulative distribution at the given uniforms.

    Args:
        logits_BKV: guided logits of the real codes.
        uniforms_BK: float64 in [0, 1).

    Returns:
        codes int64 [B, K].
    """
    if sampling.temperature == 0:
        return logits_BKV.argmax(-1)
    logits_BKV = logits_BKV.double() / sampling.temperature
    if 0 < sampling.top_k < logits_BKV.shape[-1]:
        threshold_BK1 = logits_BKV.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits_BKV = logits_BKV.masked_fill(logits_BKV < threshold_BK1, -torch.inf)
    cumulative_BKV = logits_BKV.softmax(-1).cumsum(-1)
    # Scaling by the total keeps the target below the last step of the curve, so a code of probability zero at the
    # end is never drawn; `right=True` skips codes of probability zero before it.
    target_BK1 = (uniforms_BK * cumulative_BKV[..., -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative_BKV, target_BK1, right=True).squeeze(-1)
