"""Layers that both stages share. Shapes: B batch, L steps, D width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.model.linear import project


class MLP(nn.Module):
    """Linear, GELU, Linear: SiMBA's channel mixer as the papers use it."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        inner = int(ratio * width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return project(self.down, F.gelu(project(self.up, x_BLD)))


def sinusoids(position_BL: Tensor, width: int) -> Tensor:
    """Cosine and sine position code [B, L, width], period 10,000 (arXiv 1706.03762)."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=position_BL.device) / half)
    angle = position_BL[..., None].float() * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
