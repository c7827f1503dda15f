"""The language model over codec codes: text prefix, then (delayed) codes, one backbone of several.

Shapes: B batch, K codebooks, S delayed steps, V codebook size, D width, T text tokens (padded), L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.text import TextBatch, TextStatistics
from ssmttm.config import Stage1Config
from ssmttm.errors import UserError
from ssmttm.model.delay import shift_right
from ssmttm.model.linear import narrow_linears
from ssmttm.model.mixers.attention import Attention, CrossAttention, TextMemory
from ssmttm.model.mixers.mamba2 import MLP, Mamba2, sinusoids


class BlockState(NamedTuple):
    """What a block must remember: the states of its mixers (None before the first step), and the text it looks at."""

    first: Any = None
    second: Any = None
    memory: TextMemory | None = None


class Block(nn.Module):
    """Pre-norm residual branches (figure of arXiv 2601.14786):

    prefix_simba         Mamba-2, MLP
    prefix_mamba         Mamba-2, Mamba-2
    prefix_transformer   causal attention, MLP
    cross_simba          Mamba-2, attention to the text, MLP
    cross_transformer    causal attention, attention to the text, MLP
    """

    def __init__(self, config: Stage1Config):
        super().__init__()
        is_attention = config.backbone.endswith("transformer")
        is_mamba_pair = config.backbone == "prefix_mamba"
        self.first_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.second_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)
        self.mixer = Attention(config.width, config.head_dim) if is_attention else self._mamba(config)
        self.second_mixer = self._mamba(config) if is_mamba_pair else None
        self.mlp = None if is_mamba_pair else MLP(config.width, config.mlp_ratio)
        self.cross: CrossAttention | None = None
        if config.backbone.startswith("cross"):
            self.cross_norm = nn.RMSNorm(config.width, eps=1e-5)
            self.cross = CrossAttention(config.width, config.head_dim)

    @staticmethod
    def _mamba(config: Stage1Config) -> Mamba2:
        return Mamba2(
            config.width,
            config.state_size,
            config.head_dim,
            config.expand,
            config.conv_kernel,
            config.groups,
            config.chunk_size,
        )

    def forward(
        self, x_BSD: Tensor, state: BlockState, mask_BS: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, BlockState]:
        first, second = state.first, state.second
        normed = self.first_norm(x_BSD)
        if isinstance(self.mixer, Attention):
            y_BSD, first = self.mixer(normed, first, mask_BS, bidirectional)
        else:
            y_BSD, first = self.mixer(normed, first, mask_BS)
        x_BSD = x_BSD + self.dropout(y_BSD)
        if self.cross is not None:
            assert state.memory is not None
            x_BSD = x_BSD + self.dropout(self.cross(self.cross_norm(x_BSD), state.memory))
        normed = self.second_norm(x_BSD)
        if self.second_mixer is not None:
            y_BSD, second = self.second_mixer(normed, second, mask_BS)
        else:
            assert self.mlp is not None
            y_BSD = self.mlp(normed)
        return x_BSD + self.dropout(y_BSD), BlockState(first, second, state.memory)


COMPILED_SIZES = 32  # numbers of rows for which a step may be compiled


def _step_block(block: Block, x_B1D: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
    return block(x_B1D, state)


@dataclass
class LMState:
    """What a stream must remember: each block's state, how many valid steps went by, the pooled text per block; and
    the token vectors, which are the same at every step. In inference a step writes over it."""

    blocks: list[BlockState]
    position_B: Tensor
    pooled_LBD: Tensor | None
    table_KVD: Tensor


class MusicLM(nn.Module):
    """Autoregressive model of delayed codes given a text prefix (and, optionally, a pooled text vector).

    Args:
        codebook_features: vectors [V, Dc] of codebook 0's entries; with `config.codebook_features` the token table
            is learned + linear(vector), which gives it the codec's metric from the first step.

    Raises:
        UserError: if attention cannot cut the width into heads.
    """

    def __init__(
        self, config: Stage1Config, codebook_size: int, text_dim: int, codebook_features: Tensor | None = None
    ):
        super().__init__()
        D, K, V = config.width, config.num_codebooks, codebook_size
        if config.backbone not in ("prefix_simba", "prefix_mamba") and D % config.head_dim:
            raise UserError(f"stage1.width={D} must be a multiple of stage1.head_dim={config.head_dim}")
        self.config, self.codebook_size, self.text_dim = config, V, text_dim
        self.special = V  # BOS, and the empty places of the delay pattern
        self.token_table = nn.Parameter(torch.randn(K, V + 1, D) * 0.02)
        self.feature_proj: nn.Linear | None = None
        if config.codebook_features:
            if codebook_features is None:
                raise ValueError("stage1.codebook_features needs the vectors of codebook 0")
            features = codebook_features.float() / codebook_features.float().std()
            self.register_buffer("codebook_features", features)
            self.feature_proj = nn.Linear(features.shape[1], D, bias=False)
            nn.init.normal_(self.feature_proj.weight, std=0.5 * features.shape[1] ** -0.5)
        self.prefix_proj = nn.Linear(text_dim, D)
        self.prefix_norm = nn.LayerNorm(D)
        self.null_prefix = nn.Parameter(torch.randn(D) * 0.02)
        self.pooled_proj: nn.Linear | None = None
        if config.pooled:
            # One projection holds every layer's; its small init keeps it from swamping the token embeddings.
            self.pooled_proj = nn.Linear(text_dim, config.layers * D)
            nn.init.normal_(self.pooled_proj.weight, std=config.pooled_init_std)
            nn.init.zeros_(self.pooled_proj.bias)
            self.null_pooled = nn.Parameter(torch.zeros(text_dim))
        for name in ("text_mean", "pooled_mean"):
            self.register_buffer(name, torch.zeros(text_dim))
        for name in ("text_std", "pooled_std"):
            self.register_buffer(name, torch.ones(text_dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.looks_across = config.backbone.startswith("cross")
        self._block_step: Callable[..., tuple[Tensor, BlockState]] = _step_block
        self.norm = nn.RMSNorm(D, eps=1e-5)
        self.head = None if config.tie_head else nn.Parameter(torch.randn(K, V, D) * 0.02)
        self.head_bias = nn.Parameter(torch.zeros(K, V))

    @property
    def has_fixed_state(self) -> bool:
        """Whether what a stream remembers stays as large as it is, and steps write over it."""
        mixers = [mixer for block in self.blocks for mixer in (block.mixer, block.second_mixer)]
        return all(mixer is None or mixer.fixed_state for mixer in mixers)

    def set_text_statistics(self, statistics: TextStatistics) -> None:
        """Standardise text by these from now on; they are stored with the weights."""
        self.get_buffer("text_mean").copy_(statistics.mean)
        self.get_buffer("text_std").copy_(statistics.std)
        self.get_buffer("pooled_mean").copy_(statistics.pooled_mean)
        self.get_buffer("pooled_std").copy_(statistics.pooled_std)

    def _token_vectors(self) -> Tensor:
        if self.feature_proj is None:
            return self.token_table
        metric_VD = F.pad(self.feature_proj(self.get_buffer("codebook_features")), (0, 0, 0, 1))
        first = (self.token_table[0] + metric_VD)[None]
        return torch.cat([first, self.token_table[1:]]) if self.config.num_codebooks > 1 else first

    def _embed(self, tokens_BKS: Tensor, table_KVD: Tensor) -> Tensor:
        x_BSD = F.embedding(tokens_BKS[:, 0], table_KVD[0])
        for k in range(1, tokens_BKS.shape[1]):
            x_BSD = x_BSD + F.embedding(tokens_BKS[:, k], table_KVD[k])
        return x_BSD

    def _logits(self, h_BSD: Tensor, table_KVD: Tensor) -> Tensor:
        h_BSD = self.norm(h_BSD)
        weight_KVD = table_KVD[:, :-1] if self.head is None else self.head
        logits = torch.einsum("bsd,kvd->bksv", h_BSD * h_BSD.shape[-1] ** -0.5, weight_KVD)
        return logits + self.head_bias[:, None]

    def _prefix(self, text: TextBatch, drop: bool) -> tuple[Tensor, Tensor]:
        """Prefix [B, T, D] and its mask; a dropped text is the learned null vector at the last place."""
        standard = (text.states_BSD - self.get_buffer("text_mean")) / self.get_buffer("text_std")
        prefix_BTD = self.prefix_norm(self.prefix_proj(standard))
        null_B11 = (torch.ones_like(text.null_B) if drop else text.null_B)[:, None, None]
        is_last_T = torch.arange(prefix_BTD.shape[1], device=prefix_BTD.device) == prefix_BTD.shape[1] - 1
        prefix_BTD = torch.where(null_B11, self.null_prefix.to(prefix_BTD.dtype), prefix_BTD)
        return prefix_BTD, torch.where(null_B11[..., 0], is_last_T, text.mask_BS)

    def _pooled(self, text: TextBatch, drop: bool) -> Tensor | None:
        """What the pooled text adds in each layer: [L, B, D]."""
        if self.pooled_proj is None:
            return None
        standard_BT = (text.pooled_BD - self.get_buffer("pooled_mean")) / self.get_buffer("pooled_std")
        null_B1 = (torch.ones_like(text.null_B) if drop else text.null_B)[:, None]
        added = self.pooled_proj(torch.where(null_B1, self.null_pooled, standard_BT))
        return added.unflatten(-1, (self.config.layers, -1)).transpose(0, 1)

    def _run(
        self, x_BSD: Tensor, state: LMState, mask_BS: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, LMState]:
        valid_BS = torch.ones(x_BSD.shape[:2], dtype=torch.long, device=x_BSD.device) if mask_BS is None else mask_BS
        if self.config.positions == "sinusoidal":
            position_BS = (state.position_B[:, None] + valid_BS.long().cumsum(1) - 1).clamp(min=0)
            x_BSD = x_BSD + sinusoids(position_BS, x_BSD.shape[-1]).to(x_BSD.dtype)
        is_step = x_BSD.shape[1] == 1 and mask_BS is None
        blocks = []
        for index, (block, block_state) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            if state.pooled_LBD is not None:
                x_BSD = x_BSD + state.pooled_LBD[index][:, None].to(x_BSD.dtype)
            if is_step:
                x_BSD, block_state = self._block_step(block, x_BSD, block_state)
            else:
                x_BSD, block_state = block(x_BSD, block_state, mask_BS, bidirectional)
            blocks.append(block_state)
        if is_step and not torch.is_grad_enabled():
            position_B = state.position_B.add_(1)
        else:
            position_B = state.position_B + valid_BS.long().sum(1)
        return x_BSD, LMState(blocks, position_B, state.pooled_LBD, state.table_KVD)

    def _begin(
        self, text: TextBatch, drop_pooled: bool = False, drop_prefix: bool = False
    ) -> tuple[Tensor, Tensor, LMState]:
        """The text as prefix [B, T, D] with its mask (T = 0 where blocks look at the text instead), and the state
        before anything was read."""
        blocks = [BlockState()] * len(self.blocks)
        prefix_BTD, mask_BT = self._prefix(text, drop_prefix)
        if self.looks_across:
            if self.config.positions == "sinusoidal":
                position_BT = (mask_BT.long().cumsum(1) - 1).clamp(min=0)
                prefix_BTD = prefix_BTD + sinusoids(position_BT, prefix_BTD.shape[-1]).to(prefix_BTD.dtype)
            readers = [cast(CrossAttention, block.cross) for block in cast(list[Block], self.blocks)]
            blocks = [BlockState(memory=reader.read(prefix_BTD, mask_BT)) for reader in readers]
            prefix_BTD, mask_BT = prefix_BTD[:, :0], mask_BT[:, :0]
        position_B = torch.zeros(len(text.null_B), dtype=torch.long, device=text.null_B.device)
        return prefix_BTD, mask_BT, LMState(blocks, position_B, self._pooled(text, drop_pooled), self._token_vectors())

    def forward(
        self, delayed_BKS: Tensor, text: TextBatch, drop_pooled: bool = False, drop_prefix: bool = False
    ) -> Tensor:
        """Logits [B, K, S, V]; those at step s predict `delayed[..., s]` from the text and the steps before s.

        Args:
            delayed_BKS: codes under the delay pattern, `special` where a codebook has no frame (or is padded).
            drop_pooled, drop_prefix: replace one text path by its null (to measure what each carries).

        Raises:
            UserError: if they are more frames than positions are made for.
        """
        self.check_length(delayed_BKS.shape[-1] - self.config.num_codebooks + 1)
        prefix_BTD, mask_BT, state = self._begin(text, drop_pooled, drop_prefix)
        input_BKS = shift_right(delayed_BKS, self.special)
        if self.training and self.config.token_dropout:
            # A model that can always read the music so far learns the text late, if at all.
            hidden = torch.rand(input_BKS.shape, device=input_BKS.device) < self.config.token_dropout
            input_BKS = input_BKS.masked_fill(hidden, self.special)
        x_BSD = self._embed(input_BKS, state.table_KVD)
        T = prefix_BTD.shape[1]
        # Without a prefix nothing is padded, which spares attention its mask.
        mask_BS = torch.cat([mask_BT, mask_BT.new_ones(x_BSD.shape[:2])], dim=1) if T else None
        h_BSD, _ = self._run(torch.cat([prefix_BTD.to(x_BSD.dtype), x_BSD], dim=1), state, mask_BS, bidirectional=T)
        return self._logits(h_BSD[:, T:], state.table_KVD)

    def read_text(self, text: TextBatch) -> LMState:
        """The state before BOS."""
        prefix_BTD, mask_BT, state = self._begin(text)
        if prefix_BTD.shape[1]:
            _, state = self._run(prefix_BTD, state, mask_BT, bidirectional=prefix_BTD.shape[1])
        return state

    def prefill(self, text: TextBatch, delayed_BKS: Tensor | None = None) -> tuple[Tensor, LMState]:
        """Read the text, BOS and the first steps' codes, if any: logits [B, K, V] of the next step, and the state."""
        bos_BK1 = text.null_B.new_full((len(text.null_B), self.config.num_codebooks, 1), self.special, dtype=torch.long)
        tokens_BKS = bos_BK1 if delayed_BKS is None else torch.cat([bos_BK1, delayed_BKS], dim=2)
        logits_BKSV, state = self.read(tokens_BKS, self.read_text(text))
        return logits_BKSV[:, :, -1], state

    def read(self, tokens_BKS: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """Feed several steps' codes at once: logits [B, K, S, V], those at s of the step after s, as S calls of `step`
        give them."""
        h_BSD, state = self._run(self._embed(tokens_BKS, state.table_KVD), state)
        return self._logits(h_BSD, state.table_KVD), state

    def step(self, tokens_BK: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """Feed one step's codes (`special` where a codebook has none): logits [B, K, V] of the next step."""
        logits_BKSV, state = self.read(tokens_BK[..., None], state)
        return logits_BKSV[:, :, 0], state

    def check_length(self, frames: int) -> None:
        """Raises UserError if a piece is longer than sinusoidal positions are trained for."""
        longest = self.config.max_frames
        if longest and frames > longest:
            raise UserError(
                f"a piece of {frames} frames is longer than this model's positions are made for ({longest}); "
                f"make it shorter, set generation.reread_every, or train with stage1.positions=none"
            )

    def narrow(self, precision: str) -> None:
        """Keep the weights of the blocks' linear layers in bf16 or int8, for inference alone (see `NarrowLinear`).
        Norms, convolutions, what belongs to the state space, tables and head stay as they are."""
        narrow_linears(self.blocks, precision)

    def compile_steps(self, enabled: bool = True) -> None:
        """Let torch.compile fuse what one step does in a block; all blocks share the code. It is compiled at the
        first steps, for each number of rows. Results may differ from eager ones in the last bits."""
        self._block_step = _step_block
        if enabled:
            self._block_step = torch.compile(  # type: ignore[call-overload]
                _step_block, dynamic=False, recompile_limit=COMPILED_SIZES, isolate_recompiles=True
            )

    def optimizer_groups(self, lr: float, weight_decay: float, pooled_lr_factor: float) -> list[dict[str, Any]]:
        """Parameter groups: matrices decay; SSM internals, norms, biases, tables and null vectors do not; the
        pooled path learns at its own rate."""
        return parameter_groups(self, lr, weight_decay, {"pooled_proj": pooled_lr_factor})


NEVER_DECAYED = ("A_log", "D", "dt_bias", "token_table", "head", "head_bias")


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, lr_factors: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """AdamW groups with keys params, lr, lr_scale, weight_decay, name.

    Args:
        lr_factors: by the first component of a parameter's name, its learning rate relative to `lr`.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        scale = (lr_factors or {}).get(name.split(".")[0], 1.0)
        decayed = parameter.ndim >= 2 and name.split(".")[-1] not in NEVER_DECAYED
        group = groups.setdefault(
            (scale, decayed),
            {
                "params": [],
                "lr": lr * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay if decayed else 0.0,
                "name": f"{'decayed' if decayed else 'plain'}-x{scale:g}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
