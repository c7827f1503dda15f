"""A 1-D U-Net: the shape of arXiv 2601.14786's second stage (residual blocks, halved rates, skips, attention in the
middle).

Shapes: B batch, T frames (of the level), D width of the level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Prefix
from ssmttm.config import Stage2Config
from ssmttm.model.denoisers.common import Denoiser, check_heads, masked, modulated, prefix_attention, zero_linear
from ssmttm.model.denoisers.transformer import SelfAttention

# Width of each level, at half the rate of the one before. The first is no narrower than the fine latents should be:
# the noise in them fills all dimensions, and a narrower path could not carry it to the output.
MULTIPLIERS = (1, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions over time, the first modulated by time and text, the second from zero on (arXiv 2105.05233);
    then attention to the text. Norms look at one frame each, so that padding cannot enter them."""

    def __init__(self, config: Stage2Config, width: int):
        super().__init__()
        self.modulation = nn.Linear(config.width, 2 * width)
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)
        self.look = prefix_attention(config, width)

    def forward(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        shift_BD, scale_BD = self.modulation(condition_BD).chunk(2, dim=-1)
        h_BDT = F.silu(modulated(x_BDT.transpose(1, 2), shift_BD, scale_BD)).transpose(1, 2)
        h_BDT = self.first(masked(h_BDT, mask_BT))
        h_BDT = F.silu(self.norm(h_BDT.transpose(1, 2))).transpose(1, 2)
        x_BDT = x_BDT + self.second(masked(h_BDT, mask_BT))
        if self.look is None or prefix is None:
            return x_BDT
        return self.look(x_BDT.transpose(1, 2), prefix).transpose(1, 2)


class MiddleAttention(nn.Module):
    """Attention among the frames of the lowest rate, added to what goes in."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, head_dim)

    def forward(self, x_BDT: Tensor, mask_BT: Tensor | None) -> Tensor:
        return x_BDT + self.attention(self.norm(x_BDT.transpose(1, 2)), mask_BT).transpose(1, 2)


def level_masks(mask_BT: Tensor | None, padding: int) -> list[Tensor | None]:
    """Valid frames of each level, `padding` more of them padded: a frame of a lower rate is valid if one of its two
    is."""
    if mask_BT is None:
        return [None] * len(MULTIPLIERS)
    masks: list[Tensor | None] = [F.pad(mask_BT, (0, padding))]
    for _ in MULTIPLIERS[1:]:
        masks.append(cast(Tensor, masks[-1]).unflatten(-1, (-1, 2)).any(-1))
    return masks


class UNetDenoiser(Denoiser):
    """`config.layers` residual blocks on each level on the way down, and as many on the way up."""

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]):
        super().__init__(config, fine_dim, coarse_dim, widths)
        level_widths = [factor * config.width for factor in MULTIPLIERS]

        def blocks(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(config, width) for _ in range(config.layers))

        self.down = nn.ModuleList(blocks(width) for width in level_widths)
        self.shrink = nn.ModuleList(
            nn.Conv1d(wide, low, 4, stride=2, padding=1) for wide, low in pairwise(level_widths)
        )
        self.middle = nn.ModuleList(ResidualBlock(config, level_widths[-1]) for _ in range(2))
        self.attention = MiddleAttention(level_widths[-1], config.head_dim)
        self.merge = nn.ModuleList(nn.Conv1d(2 * width, width, 1) for width in level_widths)
        self.up = nn.ModuleList(blocks(width) for width in level_widths)
        self.grow = nn.ModuleList(nn.Conv1d(low, wide, 3, padding=1) for wide, low in pairwise(level_widths))
        self.output = zero_linear(config.width, fine_dim)

    @classmethod
    def check(cls, config: Stage2Config) -> None:
        check_heads(config, is_even=True)

    def trunk(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        def run(blocks: nn.Module, x_BDT: Tensor, mask_BT: Tensor | None) -> Tensor:
            for block in cast(Iterable[ResidualBlock], blocks):
                x_BDT = block(x_BDT, condition_BD, prefix, mask_BT)
            return x_BDT

        frames = x_BDT.shape[2]
        padding = -frames % 2 ** (len(MULTIPLIERS) - 1)
        if padding and mask_BT is None:
            mask_BT = torch.ones(len(x_BDT), frames, dtype=torch.bool, device=x_BDT.device)
        x_BDT, masks = F.pad(x_BDT, (0, padding)), level_masks(mask_BT, padding)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                x_BDT = self.shrink[level - 1](masked(x_BDT, masks[level - 1]))
            x_BDT = run(blocks, x_BDT, masks[level])
            skips.append(x_BDT)
        x_BDT = self.attention(run(self.middle[:1], x_BDT, masks[-1]), masks[-1])
        x_BDT = run(self.middle[1:], x_BDT, masks[-1])
        for level in reversed(range(len(MULTIPLIERS))):
            x_BDT = run(self.up[level], self.merge[level](torch.cat([x_BDT, skips[level]], dim=1)), masks[level])
            if level:
                x_BDT = self.grow[level - 1](masked(x_BDT, masks[level]).repeat_interleave(2, dim=2))
        return x_BDT[..., :frames]
