"""The language model over codec codes: a prefix, then (delayed) codes, one backbone of several.

Shapes: B batch, K codebooks, S delayed steps, V codebook size, D width, T tokens of the prefix (padded), L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.base import Conditions, Prefix
from ssmttm.conditions.registry import lm_inputs
from ssmttm.conditions.text import TextInput, TextStatistics
from ssmttm.config import Stage1Config
from ssmttm.errors import UserError
from ssmttm.model.delay import shift_right
from ssmttm.model.layers import MLP, sinusoids
from ssmttm.model.linear import narrow_linears
from ssmttm.model.mixers.attention import CrossAttention, PrefixMemory, check_heads
from ssmttm.model.mixers.base import gather
from ssmttm.model.mixers.registry import BACKBONES, MIXERS


class BlockState(NamedTuple):
    """What a block must remember: the states of its mixers (None before the first step), and the prefix it looks at."""

    first: Any = None
    second: Any = None
    memory: PrefixMemory | None = None


class Block(nn.Module):
    """Pre-norm residual branches (figure of arXiv 2601.14786): a mixer; attention to the prefix, if the backbone looks
    across; a second mixer or an MLP."""

    def __init__(self, config: Stage1Config):
        super().__init__()
        backbone = BACKBONES.find(config.backbone)
        self.first_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.second_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)
        self.mixer = MIXERS.find(backbone.mixer).of(config)
        self.second_mixer = None if backbone.second is None else MIXERS.find(backbone.second).of(config)
        self.mlp = MLP(config.width, config.mlp_ratio) if backbone.second is None else None
        self.cross: CrossAttention | None = None
        if backbone.is_cross:
            check_heads(config)
            self.cross_norm = nn.RMSNorm(config.width, eps=1e-5)
            self.cross = CrossAttention(config.width, config.head_dim)

    @property
    def fixed_state(self) -> bool:
        """Whether what the block remembers keeps its size (see `Mixer`)."""
        return self.mixer.fixed_state and (self.second_mixer is None or self.second_mixer.fixed_state)

    def started(self, state: BlockState, batch: int, device: torch.device) -> BlockState:
        """The state with those of mixers through which nothing was read yet."""
        first, second, memory = state
        if first is None:
            first = self.mixer.initial_state(batch, device)
        if second is None and self.second_mixer is not None:
            second = self.second_mixer.initial_state(batch, device)
        return BlockState(first, second, memory)

    def gather(self, rows: Sequence[tuple[BlockState, int]]) -> BlockState:
        """A new state of one row each of other states; prefixes that are looked at must be equally long."""
        second = memory = None
        if self.second_mixer is not None:
            second = self.second_mixer.gather([(state.second, row) for state, row in rows])
        if self.cross is not None:
            memory = gather([(state.memory, row) for state, row in rows])
        return BlockState(self.mixer.gather([(state.first, row) for state, row in rows]), second, memory)

    def kept(self, state: BlockState) -> tuple[list[Tensor], list[Tensor]]:
        """What a stream must keep of a state: of the mixers, which write it, and of the prefix, which stays."""
        written = list(self.mixer.kept(state.first))
        if self.second_mixer is not None:
            written += self.second_mixer.kept(state.second)
        return written, [] if state.memory is None else list(state.memory)

    def forward(
        self, x_BSD: Tensor, state: BlockState, mask_BS: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, BlockState]:
        first, second = state.first, state.second
        y_BSD, first = self.mixer(self.first_norm(x_BSD), first, mask_BS, bidirectional)
        x_BSD = x_BSD + self.dropout(y_BSD)
        if self.cross is not None:
            assert state.memory is not None
            x_BSD = x_BSD + self.dropout(self.cross(self.cross_norm(x_BSD), state.memory))
        normed = self.second_norm(x_BSD)
        if self.second_mixer is not None:
            y_BSD, second = self.second_mixer(normed, second, mask_BS, bidirectional)
        else:
            assert self.mlp is not None
            y_BSD = self.mlp(normed)
        return x_BSD + self.dropout(y_BSD), BlockState(first, second, state.memory)


COMPILED_SIZES = 32  # numbers of rows for which a step may be compiled


def _step_block(block: Block, x_B1D: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
    return block(x_B1D, state)


@dataclass
class LMState:
    """What a stream must remember: each block's state, how many valid steps went by, what is added in every block; and
    the token vectors, which are the same at every step. In inference a step writes over it."""

    blocks: list[BlockState]
    position_B: Tensor
    pooled_LBD: Tensor | None
    table_KVD: Tensor


class MusicLM(nn.Module):
    """Autoregressive model of delayed codes given conditions: sequences as a prefix, which blocks read or look at,
    their pooled vectors in every block, and controls by frame at the step that writes the frame.

    Args:
        widths: of each condition, by name: that of its states, or its number of channels.
        codebook_features: vectors [V, Dc] of codebook 0's entries; with `config.codebook_features` the token table
            is learned + linear(vector), which gives it the codec's metric from the first step.

    Raises:
        UserError: for an unknown backbone or condition, or if attention cannot cut the width into heads.
    """

    never_decayed = ("token_table", "head", "head_bias")

    def __init__(
        self,
        config: Stage1Config,
        codebook_size: int,
        widths: Mapping[str, int],
        codebook_features: Tensor | None = None,
    ):
        super().__init__()
        D, K, V = config.width, config.num_codebooks, codebook_size
        self.config, self.codebook_size, self.widths = config, V, dict(widths)
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
        self.inputs = lm_inputs(config, widths)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.looks_across = BACKBONES.find(config.backbone).is_cross
        self._block_step: Callable[..., tuple[Tensor, BlockState]] = _step_block
        self.norm = nn.RMSNorm(D, eps=1e-5)
        self.head = None if config.tie_head else nn.Parameter(torch.randn(K, V, D) * 0.02)
        self.head_bias = nn.Parameter(torch.zeros(K, V))

    @property
    def fixed_state(self) -> bool:
        """Whether a stream's state keeps its size however long it is, and steps write over it."""
        return all(cast(Block, block).fixed_state for block in self.blocks)

    @property
    def device(self) -> torch.device:
        return self.token_table.device

    def set_text_statistics(self, statistics: TextStatistics) -> None:
        """Standardise text by these from now on; they are stored with the weights."""
        cast(TextInput, self.inputs["text"]).set_statistics(statistics)

    def controls(self, conditions: Conditions, frames: int) -> Tensor | None:
        """What the controls add to the steps that write the first `frames` frames: [B, frames, D], as `read` and `step`
        take it; None for a model without controls. Made at once for all of them, so that a step costs no more for
        being asked by many controls."""
        packed_BTP = self.inputs.pack(conditions, frames)
        return None if packed_BTP is None else self.inputs.by_frame(packed_BTP)

    def _token_vectors(self) -> Tensor:
        if self.feature_proj is None:
            return self.token_table
        metric_VD = F.pad(self.feature_proj(self.get_buffer("codebook_features")), (0, 0, 0, 1))
        first = (self.token_table[0] + metric_VD)[None]
        return torch.cat([first, self.token_table[1:]]) if self.config.num_codebooks > 1 else first

    def _embed(self, tokens_BKS: Tensor, table_KVD: Tensor, controls_BTD: Tensor | None = None) -> Tensor:
        """Vectors [B, S, D] of steps. Controls add to those that write their frames, codebook 0's; steps past them (the
        delayed codebooks' last) have none."""
        x_BSD = F.embedding(tokens_BKS[:, 0], table_KVD[0])
        for k in range(1, tokens_BKS.shape[1]):
            x_BSD = x_BSD + F.embedding(tokens_BKS[:, k], table_KVD[k])
        if controls_BTD is not None:
            missing = x_BSD.shape[1] - controls_BTD.shape[1]
            x_BSD = x_BSD + F.pad(controls_BTD, (0, 0, 0, missing)).to(x_BSD.dtype)
        return x_BSD

    def _logits(self, h_BSD: Tensor, table_KVD: Tensor) -> Tensor:
        h_BSD = self.norm(h_BSD)
        weight_KVD = table_KVD[:, :-1] if self.head is None else self.head
        logits = torch.einsum("bsd,kvd->bksv", h_BSD * h_BSD.shape[-1] ** -0.5, weight_KVD)
        return logits + self.head_bias[:, None]

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
        self, conditions: Conditions, drop_pooled: bool = False, drop_prefix: bool = False
    ) -> tuple[Prefix, LMState]:
        """The prefix to be read (of no tokens where blocks look at it instead), and the state before it."""
        blocks = [BlockState()] * len(self.blocks)
        prefix = self.inputs.prefix(conditions, drop_prefix)
        if self.looks_across:
            if self.config.positions == "sinusoidal":
                position_BT = (prefix.mask_BS.long().cumsum(1) - 1).clamp(min=0)
                position_BTD = sinusoids(position_BT, prefix.tokens_BSD.shape[-1]).to(prefix.tokens_BSD.dtype)
                prefix = prefix._replace(tokens_BSD=prefix.tokens_BSD + position_BTD)
            readers = [cast(CrossAttention, block.cross) for block in cast(list[Block], self.blocks)]
            blocks = [BlockState(memory=reader.read(prefix)) for reader in readers]
            prefix = Prefix(prefix.tokens_BSD[:, :0], prefix.mask_BS[:, :0])
        position_B = torch.zeros(len(prefix.mask_BS), dtype=torch.long, device=prefix.mask_BS.device)
        pooled_LBD = self.inputs.pooled(conditions, drop_pooled)
        return prefix, LMState(blocks, position_B, pooled_LBD, self._token_vectors())

    def forward(
        self, delayed_BKS: Tensor, conditions: Conditions, drop_pooled: bool = False, drop_prefix: bool = False
    ) -> Tensor:
        """Logits [B, K, S, V]; those at step s predict `delayed[..., s]` from the conditions and the steps before s.

        Args:
            delayed_BKS: codes under the delay pattern, `special` where a codebook has no frame (or is padded).
            drop_pooled, drop_prefix: replace one path of the sequences by its null (to measure what each carries).

        Raises:
            UserError: if there are more frames than positions are made for.
        """
        frames = delayed_BKS.shape[-1] - self.config.num_codebooks + 1
        self.check_length(frames)
        (prefix_BTD, mask_BT), state = self._begin(conditions, drop_pooled, drop_prefix)
        input_BKS = shift_right(delayed_BKS, self.special)
        if self.training and self.config.token_dropout:
            # A model that can always read the music so far learns the text late, if at all.
            hidden = torch.rand(input_BKS.shape, device=input_BKS.device) < self.config.token_dropout
            input_BKS = input_BKS.masked_fill(hidden, self.special)
        x_BSD = self._embed(input_BKS, state.table_KVD, self.controls(conditions, frames))
        T = prefix_BTD.shape[1]
        # Without a prefix nothing is padded, which spares attention its mask.
        mask_BS = torch.cat([mask_BT, mask_BT.new_ones(x_BSD.shape[:2])], dim=1) if T else None
        h_BSD, _ = self._run(torch.cat([prefix_BTD.to(x_BSD.dtype), x_BSD], dim=1), state, mask_BS, bidirectional=T)
        return self._logits(h_BSD[:, T:], state.table_KVD)

    def read_prefix(self, conditions: Conditions) -> LMState:
        """The state before BOS."""
        prefix, state = self._begin(conditions)
        length = prefix.tokens_BSD.shape[1]
        if length:
            _, state = self._run(prefix.tokens_BSD, state, prefix.mask_BS, bidirectional=length)
        return state

    def prefill(self, conditions: Conditions, delayed_BKS: Tensor | None = None) -> tuple[Tensor, LMState]:
        """Read the prefix, BOS and the first steps' codes, if any: logits [B, K, V] of the next step, and the state.
        Controls are read from frame 0 on."""
        bos_BK1 = torch.full(
            (len(conditions), self.config.num_codebooks, 1), self.special, dtype=torch.long, device=self.device
        )
        tokens_BKS = bos_BK1 if delayed_BKS is None else torch.cat([bos_BK1, delayed_BKS], dim=2)
        controls_BSD = self.controls(conditions, tokens_BKS.shape[2])
        logits_BKSV, state = self.read(tokens_BKS, self.read_prefix(conditions), controls_BSD)
        return logits_BKSV[:, :, -1], state

    def read(self, tokens_BKS: Tensor, state: LMState, controls_BSD: Tensor | None = None) -> tuple[Tensor, LMState]:
        """Feed several steps' codes at once: logits [B, K, S, V], those at s of the step after s, as S calls of `step`
        give them. `controls_BSD`: what `controls` gives for the frames that these logits write."""
        h_BSD, state = self._run(self._embed(tokens_BKS, state.table_KVD, controls_BSD), state)
        return self._logits(h_BSD, state.table_KVD), state

    def step(self, tokens_BK: Tensor, state: LMState, controls_BD: Tensor | None = None) -> tuple[Tensor, LMState]:
        """Feed one step's codes (`special` where a codebook has none): logits [B, K, V] of the next step, whose frame
        the controls are of."""
        controls_B1D = None if controls_BD is None else controls_BD[:, None]
        logits_BKSV, state = self.read(tokens_BK[..., None], state, controls_B1D)
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

    def optimizer_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups: matrices decay; SSM internals, norms, biases, tables and null vectors do not; input layers
        may learn at rates of their own."""
        return parameter_groups(self, lr, weight_decay, self.inputs.lr_factors("inputs"))


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, lr_factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """AdamW groups with keys params, lr, lr_scale, weight_decay, name. Vectors do not decay, nor does what a module
    names in `never_decayed`.

    Args:
        lr_factors: by the beginning of a parameter's name, its learning rate relative to `lr`.
    """
    spared = {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name in getattr(part, "never_decayed", ())
    }
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        scale = next((factor for begin, factor in (lr_factors or {}).items() if name.startswith(begin)), 1.0)
        decayed = parameter.ndim >= 2 and name not in spared
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
