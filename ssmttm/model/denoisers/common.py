"""What all denoisers share: what goes in, how time and conditions modulate it, what comes out.

Shapes: B batch, T frames, D width, Df / Dc fine and coarse latent dimensions, S tokens, P packed control channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Conditions, Prefix
from ssmttm.conditions.registry import denoiser_inputs
from ssmttm.config import Stage2Config
from ssmttm.errors import UserError
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


class PrefixAttention(nn.Module):
    """Attention from every frame to the prefix, added to what goes in; it starts at zero (arXiv 2310.00426)."""

    def __init__(self, width: int, prefix_width: int, head_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.resize = nn.Identity() if prefix_width == width else nn.Linear(prefix_width, width)
        self.attention = CrossAttention(width, head_dim)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x_BTD: Tensor, prefix: Prefix) -> Tensor:
        memory = self.attention.read(prefix._replace(tokens_BSD=self.resize(prefix.tokens_BSD)))
        return x_BTD + self.attention(self.norm(x_BTD), memory)


class Denoiser(nn.Module, ABC):
    """`(noisy [B, Df, T], t [B], coarse [B, Dc, T], conditions) -> output [B, Df, T]`: velocity, or what it learns.

    Coarse latents enter as input channels, controls by frame are added behind them. Time and pooled sequences become
    one vector that modulates every block; with `config.cross_attention`, blocks also look at the prefix. Subclasses
    add their blocks and `self.output = zero_linear(width, fine_dim)`.
    """

    output: nn.Linear

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]):
        super().__init__()
        D = config.width
        self.width = D
        self.input = nn.Conv1d(fine_dim + coarse_dim, D, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.inputs = denoiser_inputs(config, widths)
        self.looks_across = config.cross_attention
        self.norm = nn.LayerNorm(D)

    @classmethod
    def check(cls, config: Stage2Config) -> None:
        """Raises UserError if heads do not fit the width, or positions the heads."""
        if config.cross_attention:
            check_heads(config)

    @abstractmethod
    def trunk(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        """The blocks: [B, D, T] -> [B, D, T]."""

    def forward(
        self,
        noisy_BDT: Tensor,
        t_B: Tensor,
        coarse_BDT: Tensor,
        conditions: Conditions,
        mask_BT: Tensor | None = None,
    ) -> Tensor:
        """Output [B, Df, T].

        Args:
            t_B: time in [0, 1], from noise to data.
            conditions: controls are of these frames.
            mask_BT: False on padded frames, at the end of a row. They never change the others, and what comes out
                there means nothing.
        """
        features_BD = self.time(time_features(t_B, self.width))
        pooled_BD = self.inputs.pooled(conditions)
        condition_BD = F.silu(features_BD if pooled_BD is None else features_BD + pooled_BD)
        x_BDT = self.input(masked(torch.cat([noisy_BDT, coarse_BDT], dim=1), mask_BT))
        controls_BTP = self.inputs.pack(conditions, x_BDT.shape[2])
        if controls_BTP is not None:
            x_BDT = x_BDT + self.inputs.by_frame(controls_BTP).mT
        prefix = self.inputs.prefix(conditions) if self.looks_across else None
        x_BDT = self.trunk(x_BDT, condition_BD, prefix, mask_BT)
        return self.output(self.norm(x_BDT.transpose(1, 2))).transpose(1, 2)


def check_heads(config: Stage2Config, is_even: bool = False) -> None:
    """Raises UserError if attention cannot cut the width into heads, or positions cannot turn pairs of dimensions."""
    if is_even and config.head_dim % 2:
        raise UserError(f"stage2.head_dim={config.head_dim} must be even: positions turn pairs of dimensions")
    if config.width % config.head_dim:
        raise UserError(f"stage2.width={config.width} must be a multiple of stage2.head_dim={config.head_dim}")


def prefix_attention(config: Stage2Config, width: int | None = None) -> PrefixAttention | None:
    """A block's attention to the prefix, if the configuration asks for it; `width` defaults to the denoiser's."""
    if not config.cross_attention:
        return None
    return PrefixAttention(width or config.width, config.width, config.head_dim)
