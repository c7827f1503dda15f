"""Attention: over the steps so far, with a cache, and across to the text.

Shapes: B batch, L steps, D width, H heads, P head dimension, J cached steps, T text tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionState(NamedTuple):
    """Cached keys and values and which of them are real."""

    keys_BHJP: Tensor
    values_BHJP: Tensor
    mask_BJ: Tensor


class Attention(nn.Module):
    """Causal self-attention; the first `bidirectional` steps of a call see one another both ways (a text prefix)."""

    def __init__(self, width: int, head_dim: int = 64):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def _empty(self, batch: int, device: torch.device) -> AttentionState:
        empty = torch.zeros(batch, self.heads, 0, self.head_dim, device=device)
        return AttentionState(empty, empty, torch.zeros(batch, 0, dtype=torch.bool, device=device))

    def forward(
        self, x_BLD: Tensor, state: AttentionState | None, mask_BL: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, AttentionState]:
        B, L, _ = x_BLD.shape
        state = state or self._empty(B, x_BLD.device)
        if mask_BL is None:
            mask_BL = torch.ones(B, L, dtype=torch.bool, device=x_BLD.device)
        query, key, value = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for part in self.qkv(x_BLD).chunk(3, -1)
        )
        key = torch.cat([state.keys_BHJP.to(key.dtype), key], dim=2)
        value = torch.cat([state.values_BHJP.to(value.dtype), value], dim=2)
        mask_BJ = torch.cat([state.mask_BJ, mask_BL], dim=1)
        past = mask_BJ.shape[1] - L
        step = torch.arange(mask_BJ.shape[1], device=x_BLD.device)
        own = step[past:]
        sees_LJ = (step[None] <= own[:, None]) | (
            (own[:, None] < past + bidirectional) & (step[None] < past + bidirectional)
        )
        # A padded position always sees itself, so that no row of the softmax is empty.
        allowed = (sees_LJ[None] & mask_BJ[:, None]) | (step[None] == own[:, None])[None]
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])
        return self.out(y.transpose(1, 2).flatten(-2)), AttentionState(key, value, mask_BJ)


class TextMemory(NamedTuple):
    """Keys and values of the text, made once, and which of them are real."""

    keys_BHTP: Tensor
    values_BHTP: Tensor
    mask_BT: Tensor


class CrossAttention(nn.Module):
    """Attention from every step to the text. The text never changes, so neither does the state."""

    def __init__(self, width: int, head_dim: int = 64):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def read(self, text_BTD: Tensor, mask_BT: Tensor) -> TextMemory:
        """Keys and values of a text [B, T, D]; each row needs at least one real token."""
        key, value = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for part in self.key_value(text_BTD).chunk(2, -1)
        )
        return TextMemory(key, value, mask_BT)

    def forward(self, x_BLD: Tensor, memory: TextMemory) -> Tensor:
        query = self.query(x_BLD).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        key, value = memory.keys_BHTP.to(query.dtype), memory.values_BHTP.to(query.dtype)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=memory.mask_BT[:, None, None])
        return self.out(y.transpose(1, 2).flatten(-2))
