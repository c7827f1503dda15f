"""ConvNeXt blocks over time (arXiv 2201.03545 in 1-D): local, and the fastest on a CPU.

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Prefix
from ssmttm.config import Stage2Config
from ssmttm.model.denoisers.common import Denoiser, masked, modulated, prefix_attention, zero_linear


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer MLP, modulated by time and text."""

    def __init__(self, config: Stage2Config, dilation: int):
        super().__init__()
        D, inner, taps = config.width, config.expand * config.width, config.kernel_size
        padding = dilation * (taps - 1) // 2
        self.depthwise = nn.Conv1d(D, D, taps, padding=padding, dilation=dilation, groups=D)
        self.up = nn.Linear(D, inner)
        self.down = nn.Linear(inner, D)
        self.modulation = nn.Linear(D, 3 * D)
        self.look = prefix_attention(config)

    def forward(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None) -> Tensor:
        scale_BD, shift_BD, gate_BD = self.modulation(condition_BD).chunk(3, dim=-1)
        h_BTD = modulated(self.depthwise(x_BDT).transpose(1, 2), shift_BD, scale_BD)
        h_BTD = self.down(F.gelu(self.up(h_BTD))) * (1 + gate_BD[:, None])
        x_BDT = x_BDT + h_BTD.transpose(1, 2)
        if self.look is None or prefix is None:
            return x_BDT
        return self.look(x_BDT.transpose(1, 2), prefix).transpose(1, 2)


class ConvNeXtDenoiser(Denoiser):
    """A stack of ConvNeXt blocks, each modulated in its own way."""

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]):
        super().__init__(config, fine_dim, coarse_dim, widths)
        # Dilation 1, 2, 1, 2, ...: wider context at the same cost.
        self.blocks = nn.ModuleList(ConvNeXtBlock(config, 1 + index % 2) for index in range(config.layers))
        self.output = zero_linear(config.width, fine_dim)

    def trunk(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        for block in self.blocks:
            x_BDT = block(masked(x_BDT, mask_BT), condition_BD, prefix)
        return x_BDT
