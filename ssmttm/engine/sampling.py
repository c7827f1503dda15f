"""Seeded sampling: every random number is keyed by (seed, purpose, absolute frame), never by call order.

So a frame's draw is the same whether the piece is streamed, generated at once, batched with others or continued
later. Shapes: B clips, K codebooks, V codes, T frames, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmttm.engine.request import Sampling

_CODES, _LATENTS = 1, 2  # purposes: independent streams of one seed


def _generator(seed: int, purpose: int, frame: int, draw: int = 0) -> np.random.Generator:
    # Philox is a counter-based generator (Salmon et al., SC 2011): frame and draw are the high part of its counter, so
    # each of them owns 2^128 numbers and none of them depends on what was drawn before.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, frame, draw]))


def frame_uniforms(seed: int, frame: int, codebooks: int) -> np.ndarray:
    """One uniform number in [0, 1) per codebook for an absolute frame: float64 [K]."""
    return _generator(seed, _CODES, frame).random(codebooks)


def uniform_table(seed: int, first_frame: int, frames: int, codebooks: int) -> np.ndarray:
    """`frame_uniforms` of consecutive frames, [frames, K], three times as fast: one generator jumps between them."""
    bits = np.random.Philox(key=[seed, _CODES], counter=[0, 0, first_frame, 0])
    generator = np.random.Generator(bits)
    to_next = (1 << 128) - -(-codebooks // 4)  # four numbers take one step of the counter
    table = np.empty((frames, codebooks))
    for row in table:
        generator.random(out=row)
        bits.advance(to_next)
    return table


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


def guide(conditional_BKV: Tensor, unconditional_BKV: Tensor, guidance: float | Tensor) -> Tensor:
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
    return sample_each(logits_BKV, uniforms_BK, SamplingRows.of([sampling] * len(logits_BKV), logits_BKV.device))


@dataclass(frozen=True)
class SamplingRows:
    """The sampling of each row of a batch as tensors, all [B, 1, 1]; what no row asks for is None and costs nothing.

    guidance: float32. temperature: float64, 1 where the row is greedy. greedy: rows that take the most likely code.
    top_k: int64, all codes where 0 was asked for. most: the largest top_k. top_p: float64.
    """

    guidance: Tensor
    temperature: Tensor
    greedy: Tensor | None
    top_k: Tensor | None
    most: int
    top_p: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> SamplingRows:
        def column(values: list[Any], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).view(-1, 1, 1).to(device)

        greedy = [row.temperature == 0 for row in rows]
        most = max(row.top_k for row in rows)
        return cls(
            column([row.guidance for row in rows], torch.float32),
            column([row.temperature or 1.0 for row in rows], torch.float64),
            column(greedy, torch.bool) if any(greedy) else None,
            column([row.top_k for row in rows], torch.int64) if most else None,
            most,
            column([row.top_p for row in rows], torch.float64) if any(row.top_p < 1 for row in rows) else None,
        )


def sample_each(logits_BKV: Tensor, uniforms_BK: Tensor, sampling: SamplingRows) -> Tensor:
    """`sample`, where every row has settings of its own; batch mates never change a row's draw."""
    logits_BKV = logits_BKV.double() / sampling.temperature
    V = logits_BKV.shape[-1]
    if sampling.top_k is not None:
        best_BKk = logits_BKV.topk(min(sampling.most, V), dim=-1).values
        place_B11 = (sampling.top_k.clamp(max=V) - 1).clamp(min=0)
        threshold_BK1 = best_BKk.gather(-1, place_B11.expand(-1, logits_BKV.shape[1], 1))
        logits_BKV = logits_BKV.masked_fill((logits_BKV < threshold_BK1) & (sampling.top_k > 0), -torch.inf)
    probability_BKV = logits_BKV.softmax(-1)
    if sampling.top_p is not None:
        ordered_BKV = probability_BKV.sort(dim=-1, descending=True).values
        # A code stays if those likelier than it do not reach top_p yet; the likeliest always does.
        before_BKV = ordered_BKV.cumsum(-1) - ordered_BKV
        kept_BK1 = (before_BKV < sampling.top_p).sum(-1, keepdim=True).clamp(min=1)
        threshold_BK1 = ordered_BKV.gather(-1, kept_BK1 - 1)
        is_out_BKV = (probability_BKV < threshold_BK1) & (sampling.top_p < 1)
        probability_BKV = probability_BKV.masked_fill(is_out_BKV, 0)
    cumulative_BKV = probability_BKV.cumsum(-1)
    # Scaling by the total keeps the target below the last step of the curve, so a code of probability zero at the
    # end is never drawn; `right=True` skips codes of probability zero before it.
    target_BK1 = (uniforms_BK * cumulative_BKV[..., -1]).unsqueeze(-1)
    codes_BK = torch.searchsorted(cumulative_BKV, target_BK1, right=True).squeeze(-1)
    if sampling.greedy is not None:
        codes_BK = torch.where(sampling.greedy[..., 0], logits_BKV.argmax(-1), codes_BK)
    return codes_BK
