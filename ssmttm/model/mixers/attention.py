"""Attention: over the steps so far, with a cache, and across to a prefix.

Shapes: B batch, L steps, D width, H heads, P head dimension, J steps so far, T tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Prefix
from ssmttm.config import Stage1Config
from ssmttm.errors import UserError
from ssmttm.model.linear import project
from ssmttm.model.mixers.base import Mixer


class AttentionState(NamedTuple):
    """Cached keys and values [B, H, C, P] and which of them are real [B, C]; the first `length` of C places are used.

    Steps are written into the free places, so a state is to be continued only once.
    """

    keys_BHCP: Tensor
    values_BHCP: Tensor
    mask_BC: Tensor
    length: int

    def used(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [B, H, J, P] and mask [B, J] of the steps so far."""
        return (
            self.keys_BHCP[:, :, : self.length],
            self.values_BHCP[:, :, : self.length],
            self.mask_BC[:, : self.length],
        )

    def append(self, key_BHLP: Tensor, value_BHLP: Tensor, mask_BL: Tensor) -> AttentionState:
        keys, values, mask, length = self
        total = length + key_BHLP.shape[2]
        if total > keys.shape[2]:  # twice the room, so that growing costs a constant time per step
            keys, values = (F.pad(old[:, :, :length], (0, 0, 0, 2 * total - length)) for old in (keys, values))
            mask = F.pad(mask[:, :length], (0, 2 * total - length))
        keys[:, :, length:total] = key_BHLP
        values[:, :, length:total] = value_BHLP
        mask[:, length:total] = mask_BL
        return AttentionState(keys, values, mask, total)


def check_heads(config: Stage1Config) -> None:
    """Raises UserError if attention cannot cut the width into heads."""
    if config.width % config.head_dim:
        raise UserError(f"stage1.width={config.width} must be a multiple of stage1.head_dim={config.head_dim}")


class Attention(Mixer):
    """Causal self-attention; the first `bidirectional` steps of a call see one another both ways (a text prefix)."""

    fixed_state = False

    def __init__(self, width: int, head_dim: int = 64):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @classmethod
    def of(cls, config: Stage1Config) -> Attention:
        check_heads(config)
        return cls(config.width, config.head_dim)

    def initial_state(self, batch: int, device: torch.device) -> AttentionState:
        weight = self.qkv.weight
        none_BHCP = torch.zeros(batch, self.heads, 0, self.head_dim, dtype=weight.dtype, device=device)
        return AttentionState(none_BHCP, none_BHCP, torch.zeros(batch, 0, dtype=torch.bool, device=device), 0)

    def kept(self, state: AttentionState | None) -> Sequence[Tensor]:
        return () if state is None else state.used()

    def gather(self, rows: Sequence[tuple[AttentionState, int]]) -> AttentionState:
        """Shorter rows are padded on the left, and masked there."""
        longest = max(state.length for state, _ in rows)
        keys, values, masks = [], [], []
        for state, row in rows:
            key, value, mask = (part[row : row + 1] for part in state.used())
            extra = longest - state.length
            keys.append(F.pad(key, (0, 0, extra, 0)))
            values.append(F.pad(value, (0, 0, extra, 0)))
            masks.append(F.pad(mask, (extra, 0)))
        return AttentionState(torch.cat(keys), torch.cat(values), torch.cat(masks), longest)

    def forward(
        self, x_BLD: Tensor, state: AttentionState | None = None, mask_BL: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, AttentionState]:
        B, L, _ = x_BLD.shape
        plain = mask_BL is None and state is None and not bidirectional
        if mask_BL is None:
            mask_BL = torch.ones(B, L, dtype=torch.bool, device=x_BLD.device)
        query, key, value = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for part in project(self.qkv, x_BLD).chunk(3, -1)
        )
        if plain:  # the fastest kernels know this mask by name
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            return self.out(y.transpose(1, 2).flatten(-2)), AttentionState(key, value, mask_BL, L)
        past = 0 if state is None else state.length
        state = AttentionState(key, value, mask_BL, L) if state is None else state.append(key, value, mask_BL)
        keys, values, mask_BJ = (part.to(query.dtype) if part.is_floating_point() else part for part in state.used())
        if L == 1:
            allowed_BLJ = mask_BJ[:, None]
        else:
            step_J = torch.arange(past + L, device=x_BLD.device)
            own_L = step_J[past:]
            both_ways = past + bidirectional
            sees_LJ = (step_J[None] <= own_L[:, None]) | ((own_L[:, None] < both_ways) & (step_J[None] < both_ways))
            # A padded position always sees itself, so that no row of the softmax is empty.
            allowed_BLJ = (sees_LJ[None] & mask_BJ[:, None]) | (step_J[None] == own_L[:, None])[None]
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=allowed_BLJ[:, None])
        return project(self.out, y.transpose(1, 2).flatten(-2)), state


class PrefixMemory(NamedTuple):
    """Keys and values of a prefix, made once, and which of them are real."""

    keys_BHTP: Tensor
    values_BHTP: Tensor
    mask_BT: Tensor


class CrossAttention(nn.Module):
    """Attention from every step to the prefix, which never changes, so that the state does not either."""

    def __init__(self, width: int, head_dim: int = 64):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def read(self, prefix: Prefix) -> PrefixMemory:
        """Keys and values of a prefix."""
        key, value = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for part in self.key_value(prefix.tokens_BSD).chunk(2, -1)
        )
        return PrefixMemory(key, value, prefix.mask_BS)

    def forward(self, x_BLD: Tensor, memory: PrefixMemory) -> Tensor:
        query = project(self.query, x_BLD).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        key, value = memory.keys_BHTP.to(query.dtype), memory.values_BHTP.to(query.dtype)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=memory.mask_BT[:, None, None])
        return project(self.out, y.transpose(1, 2).flatten(-2))
