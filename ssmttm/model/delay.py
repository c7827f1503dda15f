"""The delay pattern of MusicGen (arXiv 2306.05284): codebook k is shifted k steps to the right.

Shapes: B batch, K codebooks, T frames, S = T + K - 1 steps. `special` is the one id outside the codebook.
With K = 1 the pattern changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def apply_delay(codes_BKT: Tensor, special: int) -> Tensor:
    """Delayed codes [B, K, S]: what the model predicts at each step; `special` where a codebook has no frame."""
    B, K, T = codes_BKT.shape
    delayed_BKS = codes_BKT.new_full((B, K, T + K - 1), special)
    for k in range(K):
        delayed_BKS[:, k, k : k + T] = codes_BKT[:, k]
    return delayed_BKS


def revert_delay(delayed_BKS: Tensor) -> Tensor:
    """Inverse of `apply_delay`: [B, K, S] -> [B, K, T]."""
    K, S = delayed_BKS.shape[1:]
    T = S - K + 1
    return torch.stack([delayed_BKS[:, k, k : k + T] for k in range(K)], dim=1)


def shift_right(delayed_BKS: Tensor, special: int) -> Tensor:
    """The model's input at each step: the codes of the step before, `special` (BOS) at the first."""
    start_BK1 = torch.full_like(delayed_BKS[..., :1], special)
    return torch.cat([start_BK1, delayed_BKS[..., :-1]], dim=-1)


def as_beginning(delayed_BKS: Tensor, special: int) -> Tensor:
    """Steps out of the middle of a piece as those of a piece that begins there: codebook k has its first frame at
    step k."""
    K, S = delayed_BKS.shape[1:]
    is_before_KS = torch.arange(S, device=delayed_BKS.device) < torch.arange(K, device=delayed_BKS.device)[:, None]
    return delayed_BKS.masked_fill(is_before_KS, special)


def holds_frame(step: int, num_codebooks: int, num_frames: int) -> list[bool]:
    """Which codebooks hold a frame (not `special`) at a step of the delayed sequence."""
    return [0 <= step - k < num_frames for k in range(num_codebooks)]
