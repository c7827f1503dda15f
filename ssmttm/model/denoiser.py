"""Denoisers of stage 2: `(noisy[B,Df,T], t[B], coarse[B,Dc,T], text) -> velocity[B,Df,T]`.

Shapes: B batch, T frames, D width, Df / Dc fine and coarse latent dimensions, M layers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.config import Stage2Config


def time_features(t_B: Tensor, width: int) -> Tensor:
    """Sinusoidal features [B, width] of a time in [0, 1]."""
    half = width // 2
    rate = torch.exp(torch.linspace(0, math.log(1000), half, device=t_B.device))
    angle = t_B[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer MLP, modulated by time and text (arXiv 2201.03545 in 1-D)."""

    def __init__(self, width: int, kernel_size: int, expand: int, dilation: int):
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=padding, dilation=dilation, groups=width)
        self.up = nn.Linear(width, expand * width)
        self.down = nn.Linear(expand * width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x_BDT: Tensor, condition_BD: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition_BD).chunk(3, dim=-1)
        h_BTD = F.layer_norm(self.depthwise(x_BDT).transpose(1, 2), x_BDT.shape[1:2])
        h_BTD = h_BTD * (1 + scale[:, None]) + shift[:, None]
        h_BTD = self.down(F.gelu(self.up(h_BTD))) * (1 + gate[:, None])
        return x_BDT + h_BTD.transpose(1, 2)


class ConvNeXtDenoiser(nn.Module):
    """A stack of ConvNeXt blocks, each modulated by time and text in its own way (adaLN, arXiv 2212.09748). Coarse
    latents enter as input channels."""

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int):
        super().__init__()
        D = config.width
        self.width = D
        self.input = nn.Conv1d(fine_dim + coarse_dim, D, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.text = nn.Linear(text_dim, D)
        self.null_text = nn.Parameter(torch.zeros(text_dim))
        # Dilation 1, 2, 1, 2, ...: wider context at the same cost.
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(D, config.kernel_size, config.expand, 1 + index % 2) for index in range(config.layers)
        )
        self.norm = nn.LayerNorm(D)
        self.output = nn.Linear(D, fine_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        noisy_BDT: Tensor,
        t_B: Tensor,
        coarse_BDT: Tensor,
        pooled_BD: Tensor,
        null_B: Tensor,
        mask_BT: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, Df, T].

        Args:
            pooled_BD: standardised pooled text; `null_B` rows get the learned null vector instead.
            mask_BT: False on padded frames, which then act like the convolutions' own zero border.
        """
        text = self.text(torch.where(null_B[:, None], self.null_text, pooled_BD))
        condition_BD = F.silu(self.time(time_features(t_B, self.width)) + text)
        x_BDT = self.input(torch.cat([noisy_BDT, coarse_BDT], dim=1))
        for block in self.blocks:
            x_BDT = block(x_BDT if mask_BT is None else x_BDT * mask_BT[:, None], condition_BD)
        return self.output(self.norm(x_BDT.transpose(1, 2))).transpose(1, 2)


def build_denoiser(config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int) -> ConvNeXtDenoiser:
    """The denoiser that the configuration names."""
    return ConvNeXtDenoiser(config, fine_dim, coarse_dim, text_dim)
