"""The prompt as a condition: token states of a frozen encoder, standardised, as a prefix and as one pooled vector.

`encoders.py` makes the states; those of a dataset's captions are stored beside its token shards. Shapes: B batch,
S text tokens, D width (of the text, or of the model), L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.conditions.base import Conditioner, Conditions, InputLayer, Prefix, TokenStates
from ssmttm.config import Stage1Config, Stage2Config


class TextStatistics(NamedTuple):
    """Mean and clamped standard deviation per dimension [D] of token states and of pooled vectors."""

    mean: Tensor
    std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    @classmethod
    def measure(cls, states: Sequence[np.ndarray]) -> TextStatistics:
        """From the states [S, D] of many captions. The deviation is clamped to a tenth of its median: a dimension
        that hardly varies would otherwise be blown up."""
        tokens = torch.from_numpy(np.concatenate(list(states)).astype(np.float32))
        pooled = torch.stack([torch.from_numpy(s.astype(np.float32)).mean(0) for s in states])

        def deviation(values: Tensor) -> Tensor:
            std = values.std(0, correction=0)
            return std.clamp(min=max(0.1 * float(std.median()), 1e-4))

        return cls(tokens.mean(0), deviation(tokens), pooled.mean(0), deviation(pooled))


def token_states(states: Sequence[np.ndarray], null: Sequence[bool] | None = None) -> TokenStates:
    """Left-pad states [S_i, D] (any float dtype) of a batch to the longest."""
    longest, dim = max(len(s) for s in states), states[0].shape[1]
    states_BSD = torch.zeros(len(states), longest, dim)
    mask_BS = torch.zeros(len(states), longest, dtype=torch.bool)
    pooled_BD = torch.zeros(len(states), dim)
    for row, values in enumerate(states):
        real = torch.from_numpy(values.astype(np.float32))
        states_BSD[row, longest - len(values) :] = real
        mask_BS[row, longest - len(values) :] = True
        pooled_BD[row] = real.mean(0)
    null_B = torch.tensor(list(null) if null is not None else [False] * len(states), dtype=torch.bool)
    return TokenStates(states_BSD, mask_BS, pooled_BD, null_B)


def collate_text(states: Sequence[np.ndarray], null: Sequence[bool] | None = None) -> Conditions:
    """A batch that is asked for by text alone; see `token_states`."""
    return Conditions({"text": token_states(states, null)})


class TextInput(InputLayer):
    """Text standardised by statistics that are stored with the weights."""

    def __init__(self, dim: int, with_tokens: bool):
        super().__init__()
        for name in ("text", "pooled") if with_tokens else ("pooled",):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_std", torch.ones(dim))

    def set_statistics(self, statistics: TextStatistics) -> None:
        """Standardise text by these from now on."""
        own = dict(self.named_buffers())
        for name, values in (
            ("text_mean", statistics.mean),
            ("text_std", statistics.std),
            ("pooled_mean", statistics.pooled_mean),
            ("pooled_std", statistics.pooled_std),
        ):
            if name in own:  # a model that reads no tokens has no statistics of them
                own[name].copy_(values)

    def _tokens(self, text: TokenStates) -> Tensor:
        return (text.states_BSD - self.get_buffer("text_mean")) / self.get_buffer("text_std")

    def _pooled(self, text: TokenStates) -> Tensor:
        return (text.pooled_BD - self.get_buffer("pooled_mean")) / self.get_buffer("pooled_std")


def or_null(tokens_BSD: Tensor, text: TokenStates, null_D: Tensor, drop: bool = False) -> Prefix:
    """Tokens and their mask; a dropped text is the learned null vector at the last place."""
    null_B1 = (torch.ones_like(text.null_B) if drop else text.null_B)[:, None]
    is_last_S = torch.arange(tokens_BSD.shape[1], device=tokens_BSD.device) == tokens_BSD.shape[1] - 1
    tokens_BSD = torch.where(null_B1[..., None], null_D.to(tokens_BSD.dtype), tokens_BSD)
    return Prefix(tokens_BSD, torch.where(null_B1, is_last_S, text.mask_BS))


class LMText(TextInput):
    """Stage 1 reads text as a prefix and, with `stage1.pooled`, adds its mean in every layer."""

    def __init__(self, config: Stage1Config, dim: int):
        super().__init__(dim, with_tokens=True)
        D, self.layers = config.width, config.layers
        self.prefix_proj = nn.Linear(dim, D)
        self.prefix_norm = nn.LayerNorm(D)
        self.null_prefix = nn.Parameter(torch.randn(D) * 0.02)
        self.pooled_proj: nn.Linear | None = None
        if config.pooled:
            # One projection holds every layer's; its small init keeps it from swamping the token embeddings.
            self.pooled_proj = nn.Linear(dim, config.layers * D)
            nn.init.normal_(self.pooled_proj.weight, std=config.pooled_init_std)
            nn.init.zeros_(self.pooled_proj.bias)
            self.null_pooled = nn.Parameter(torch.zeros(dim))
            self.lr_factors = {"pooled_proj": config.pooled_lr_factor}

    def prefix(self, condition: TokenStates, drop: bool = False) -> Prefix:
        return or_null(self.prefix_norm(self.prefix_proj(self._tokens(condition))), condition, self.null_prefix, drop)

    def pooled(self, condition: TokenStates, drop: bool = False) -> Tensor | None:
        """[L, B, D]."""
        if self.pooled_proj is None:
            return None
        null_B1 = (torch.ones_like(condition.null_B) if drop else condition.null_B)[:, None]
        added = self.pooled_proj(torch.where(null_B1, self.null_pooled, self._pooled(condition)))
        return added.unflatten(-1, (self.layers, -1)).transpose(0, 1)


class DenoiserText(TextInput):
    """Stage 2 takes the text's mean beside the time; with `stage2.cross_attention` its blocks look at the tokens."""

    def __init__(self, config: Stage2Config, dim: int):
        super().__init__(dim, with_tokens=config.cross_attention)
        D = config.width
        self.text = nn.Linear(dim, D)
        self.null_text = nn.Parameter(torch.zeros(dim))
        self.tokens: nn.Sequential | None = None
        if config.cross_attention:
            self.tokens = nn.Sequential(nn.Linear(dim, D), nn.LayerNorm(D))
            self.null_prefix = nn.Parameter(torch.randn(D) * 0.02)

    def prefix(self, condition: TokenStates, drop: bool = False) -> Prefix | None:
        if self.tokens is None:
            return None
        return or_null(self.tokens(self._tokens(condition)), condition, self.null_prefix, drop)

    def pooled(self, condition: TokenStates, drop: bool = False) -> Tensor:
        """[B, D]."""
        return self.text(torch.where(condition.null_B[:, None], self.null_text, self._pooled(condition)))


class Text(Conditioner):
    """The prompt. Its states reach requests and datasets through the text encoder (`encoders.py`); how often it is
    dropped in training is for `stage1.null_probability` and `stage2.null_probability` to say."""

    name = "text"

    def lm_input(self, config: Stage1Config, width: int) -> InputLayer:
        return LMText(config, width)

    def denoiser_input(self, config: Stage2Config, width: int) -> InputLayer:
        return DenoiserText(config, width)
