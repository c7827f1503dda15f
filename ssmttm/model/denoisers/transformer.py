"""A diffusion Transformer (DiT, arXiv 2212.09748) over frames; its block takes any mixer.

Shapes: B batch, T frames, D width, H heads, P head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Prefix
from ssmttm.config import Stage2Config
from ssmttm.model.denoisers.common import Denoiser, check_heads, modulated, prefix_attention, zero_linear
from ssmttm.model.layers import MLP

ROTARY_PERIOD = 10_000


def rotated(x_BHTP: Tensor) -> Tensor:
    """Turn pairs of dimensions by angles in proportion to the frame's number: products of two such vectors know only
    how far apart they are (arXiv 2104.09864), so any length works."""
    frames, half = x_BHTP.shape[2], x_BHTP.shape[3] // 2
    rate = ROTARY_PERIOD ** -(torch.arange(half, device=x_BHTP.device) / half)
    angle_TP = torch.arange(frames, device=x_BHTP.device)[:, None] * rate
    cos, sin = angle_TP.cos().to(x_BHTP.dtype), angle_TP.sin().to(x_BHTP.dtype)
    first, second = x_BHTP.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class SelfAttention(nn.Module):
    """Attention among all valid frames."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads = width // head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, -1)
        )
        allowed = None if mask_BT is None else mask_BT[:, None, None]
        y_BHTP = F.scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=allowed)
        return self.out(y_BHTP.transpose(1, 2).flatten(-2))


class AdaptiveBlock(nn.Module):
    """Mixer over time, attention to the text, MLP. Time and text shift, scale and gate the first and the last, from
    gates of zero on (adaLN-Zero)."""

    def __init__(self, config: Stage2Config, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer
        self.look = prefix_attention(config)
        self.mlp = MLP(config.width, config.expand)
        self.modulation = zero_linear(config.width, 6 * config.width)

    def forward(self, x_BTD: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition_BD).chunk(6, dim=-1)
        x_BTD = x_BTD + gate[:, None] * self.mixer(modulated(x_BTD, shift, scale), mask_BT)
        if self.look is not None and prefix is not None:
            x_BTD = self.look(x_BTD, prefix)
        return x_BTD + mlp_gate[:, None] * self.mlp(modulated(x_BTD, mlp_shift, mlp_scale))


class TransformerDenoiser(Denoiser):
    """A stack of `AdaptiveBlock`s."""

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]):
        super().__init__(config, fine_dim, coarse_dim, widths)
        self.blocks = nn.ModuleList(AdaptiveBlock(config, self.mixer(config)) for _ in range(config.layers))
        self.output = zero_linear(config.width, fine_dim)

    @classmethod
    def check(cls, config: Stage2Config) -> None:
        check_heads(config, is_even=True)

    @staticmethod
    def mixer(config: Stage2Config) -> nn.Module:
        """What carries information along time in one block: `(x [B, T, D], mask [B, T] | None) -> [B, T, D]`."""
        return SelfAttention(config.width, config.head_dim)

    def trunk(self, x_BDT: Tensor, condition_BD: Tensor, prefix: Prefix | None, mask_BT: Tensor | None) -> Tensor:
        x_BTD = x_BDT.transpose(1, 2)
        for block in self.blocks:
            x_BTD = block(x_BTD, condition_BD, prefix, mask_BT)
        return x_BTD.transpose(1, 2)
