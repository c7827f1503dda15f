"""What all denoisers share: what goes in, how time and text modulate it, what comes out.

Shapes: B batch, T frames, D width, Df / Dc fine and coarse latent dimensions, S text tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.text import TextBatch
from ssmttm.config import Stage2Config
from ssmttm.model.mixers.attention import CrossAttention


def time_features(t_B: Tensor, width: int) -> Tensor:
    """Sinusoidal features [B, width] of a time in [0, 1]."""
    half = width // 2
    rate = torch.exp(torch.linspace(0, math.log(1000), half, device=t_B.device))
    angle = t_B[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulated(x_BTD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Layer norm over the width, its scale and shift given from outside (adaLN, arXiv 2212.09748)."""
    return F.layer_norm(x_BTD, x_BTD.shape[-1:]) * (1 + scale_BD[:, None]) + shift_BD[:, None]


def masked(x_BDT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Zeros on padded frames, which then act on a convolution like its own zero border."""
    return x_BDT if mask_BT is None else x_BDT * mask_BT[:, None]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Prefix(NamedTuple):
    """The text as tokens [B, S, D] and which of them are real; a dropped text is one learned vector."""

    tokens_BSD: Tensor
    mask_BS: Tensor


class TextAttention(nn.Module):
    """Attention from every frame to the text, added to what goes in; it starts at zero (arXiv 2310.00426)."""

    def __init__(self, width: int, text_width: int, head_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.resize = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.attention = CrossAttention(width, head_dim)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x_BTD: Tensor, prefix: Prefix) -> Tensor:
        memory = self.attention.read(self.resize(prefix.tokens_BSD), prefix.mask_BS)
        return x_BTD + self.attention(self.norm(x_BTD), memory)


class Denoiser(nn.Module, ABC):
    """`(noisy [B, Df, T], t [B], coarse [B, Dc, T], text) -> output [B, Df, T]`: velocity, or what else it learns.

    Coarse latents enter as input channels. Time and pooled text become one vector that modulates every block; with
    `config.cross_attention`, blocks also look at the text's token states. Subclasses add their blocks and
    `self.output = zero_linear(width, fine_dim)`.
    """

    output: nn.Linear

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int):
        super().__init__()
        D = config.width
        self.width = D
        self.input = nn.Conv1d(fine_dim + coarse_dim, D, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.text = nn.Linear(text_dim, D)
        self.null_text = nn.Parameter(torch.zeros(text_dim))
        self.prefix: nn.Sequential | None = None
        if config.cross_attention:
            self.prefix = nn.Sequential(nn.Linear(text_dim, D), nn.LayerNorm(D))
            self.null_prefix = nn.Parameter(torch.randn(D) * 0.02)
        self.norm = nn.LayerNorm(D)

    @abstractmethod
    def trunk(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        """The blocks: [B, D, T] -> [B, D, T]."""

    def forward(
        self, noisy_BDT: Tensor, t_B: Tensor, coarse_BDT: Tensor, text: TextBatch, mask_BT: Tensor | None = None
    ) -> Tensor:
        """Output [B, Df, T].

        Args:
            t_B: time in [0, 1], from noise to data.
            text: standardised; `null_B` rows get learned null vectors instead.
            mask_BT: False on padded frames, at the end of a row. They never change the others, and what comes out
                there means nothing.
        """
        condition_BD = self._condition(t_B, text)
        x_BDT = self.input(masked(torch.cat([noisy_BDT, coarse_BDT], dim=1), mask_BT))
        x_BDT = self.trunk(x_BDT, condition_BD, self._prefix(text), mask_BT)
        return self.output(self.norm(x_BDT.transpose(1, 2))).transpose(1, 2)

    def _condition(self, t_B: Tensor, text: TextBatch) -> Tensor:
        pooled = self.text(torch.where(text.null_B[:, None], self.null_text, text.pooled_BD))
        return F.silu(self.time(time_features(t_B, self.width)) + pooled)

    def _prefix(self, text: TextBatch) -> Prefix | None:
        if self.prefix is None:
            return None
        tokens_BSD = self.prefix(text.states_BSD)
        null_B1 = text.null_B[:, None]
        is_last_S = torch.arange(tokens_BSD.shape[1], device=tokens_BSD.device) == tokens_BSD.shape[1] - 1
        tokens_BSD = torch.where(null_B1[..., None], self.null_prefix.to(tokens_BSD.dtype), tokens_BSD)
        return Prefix(tokens_BSD, torch.where(null_B1, is_last_S, text.mask_BS))


def text_attention(config: Stage2Config, width: int | None = None) -> TextAttention | None:
    """A block's attention to the text, if the configuration asks for it; `width` defaults to the denoiser's."""
    if not config.cross_attention:
        return None
    return TextAttention(width or config.width, config.width, config.head_dim)
