"""The states of many streams side by side: rows of preallocated tensors that streams take and give back.

Rows in use come first, so a step runs over the first n rows for a few values of n only: each is compiled (CPU) or
captured as a CUDA graph once. Shapes: R rows, K codebooks, V codes, L layers, P packed
control channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
from ssmttm.errors import UserError
from ssmttm.model.lm import Block, BlockState, LMState, MusicLM
from ssmttm.model.step_graph import StepGraph, capture

logger = logging.getLogger(__name__)

TILE = 8  # rows that matrix products take together; those of a tile that is not full are summed in another order


def _map(state: LMState, change: Callable[[Tensor], Tensor]) -> LMState:
    """The state with every tensor changed; each enters and leaves with rows as its first dimension."""

    def each(part: Any) -> Any:
        return None if part is None else type(part)(*map(change, part))

    pooled_LRD = state.pooled_LBD
    if pooled_LRD is not None:
        pooled_LRD = change(pooled_LRD.transpose(0, 1)).transpose(0, 1)
    blocks = [BlockState(each(block.first), each(block.second), each(block.memory)) for block in state.blocks]
    return LMState(blocks, change(state.position_B), pooled_LRD, state.table_KVD)


def _first_rows(state: LMState, count: int) -> LMState:
    return _map(state, lambda tensor: tensor[:count])


def _tensors(state: LMState) -> list[Tensor]:
    """Every tensor that has rows, with rows as its first dimension."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(state, note)
    return found


def _nothing_asked(lm: MusicLM) -> Conditions:
    return collate_text([np.zeros((1, lm.widths["text"]), np.float32)]).as_null().to(lm.device)


def row_counts(rows: int) -> list[int]:
    """The numbers of rows that steps run over: powers of two, and all."""
    return [*(1 << power for power in range((rows - 1).bit_length())), rows]


class StateRows:
    """`rows` states of fixed size.

    Args:
        lm: in evaluation mode.
        text_tokens: length that prefixes are padded to where the model looks at them at every step.
        fixed: always step over all rows, so that no number depends on how many are in use; there are then a few more,
            to fill the last tile.

    Raises:
        UserError: if the model's state grows with the stream.
    """

    @torch.inference_mode()
    def __init__(self, lm: MusicLM, rows: int, text_tokens: int, fixed: bool = False):
        if fixed:
            rows = -(-rows // TILE) * TILE
        self._lm, self._text_tokens = lm, text_tokens
        self.rows, self.device = rows, lm.device
        self._null = self.read(_nothing_asked(lm))
        if not lm.fixed_state:
            raise UserError(
                f"a stream of the backbone {lm.config.backbone} remembers ever more, and slots have a fixed size; "
                "serve a bundle of prefix_simba, prefix_mamba or cross_simba"
            )
        self._state = _map(self._null, lambda one: one.new_zeros(rows, *one.shape[1:]))
        self._places = _tensors(self._state)
        self._counts = [rows] if fixed else row_counts(rows)
        self._views = {count: _first_rows(self._state, count) for count in self._counts}
        self._graphs: dict[int, StepGraph | None] = {}

    @torch.inference_mode()
    def warm_up(self, compiled: bool) -> bool:
        """Make the step fast for every number of rows, and say whether that worked: capture it as CUDA graphs, or
        on a CPU, if `compiled`, let torch.compile fuse it. Only while no row is in use."""
        if self.device.type == "cuda":
            for count, view in self._views.items():
                self.step(self._no_codes(count))  # loads all kernels
                self._graphs[count] = capture(self._lm, view)
            return all(self._graphs.values())
        if not compiled:
            return False
        self._lm.compile_steps()
        try:
            for count in self._counts:
                self.step(self._no_codes(count))
        except Exception as error:  # whatever a compiler may raise
            self._lm.compile_steps(False)
            logger.warning("decoding stays uncompiled: %s", " ".join(str(error).split())[:200])
            return False
        return True

    @torch.inference_mode()
    def check_rows_agree(self) -> None:
        """Raises ArithmeticError if the same stream has other bits in another row: matrix products may sum in another
        order at their edges. Only while no row is in use."""
        for row in range(self.rows):
            self.put_null(row)
        for step in range(4):
            tokens_RK = torch.full((self.rows, self._lm.config.num_codebooks), step, device=self.device)
            logits_RKV = self.step(tokens_RK)
            if not torch.equal(logits_RKV, logits_RKV[:1].expand_as(logits_RKV)):
                raise ArithmeticError(f"here, a stream's bits depend on which of {self.rows} rows it is in")

    def _no_codes(self, count: int) -> Tensor:
        return torch.full((count, self._lm.config.num_codebooks), self._lm.special, device=self.device)

    @torch.inference_mode()
    def read(self, conditions: Conditions, tokens_BKS: Tensor | None = None) -> LMState:
        """The states after the prefix and the steps' codes (BOS first), if any, with the controls of the first frames;
        one row each, to be put into rows."""
        conditions = conditions.to(self.device)
        if self._lm.looks_across:
            conditions = conditions.padded(self._text_tokens)
        state = self._lm.read_prefix(conditions)
        if tokens_BKS is not None:
            controls_BSP = self._lm.controls(conditions, tokens_BKS.shape[2])
            _, state = self._lm.read(tokens_BKS.to(self.device), state, controls_BSP)
        for index, block in enumerate(cast(list[Block], self._lm.blocks)):
            state.blocks[index] = block.started(state.blocks[index], len(conditions), self.device)
        return state

    @torch.inference_mode()
    def put(self, row: int, state: LMState, index: int) -> None:
        """Copy row `index` of a state that `read` gave into a row."""
        for place, source in zip(self._places, _tensors(state), strict=True):
            place[row].copy_(source[index])

    def put_null(self, row: int) -> None:
        """The state of a stream of which nothing is asked. It is the same for all, so it is read once."""
        self.put(row, self._null, 0)

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        for place in self._places:
            place[target].copy_(place[source])

    def count_for(self, used: int) -> int:
        """Over how many rows a step runs when the first `used` are in use."""
        return next(count for count in self._counts if count >= used)

    @torch.inference_mode()
    def step(self, tokens_RK: Tensor, controls_RP: Tensor | None = None) -> Tensor:
        """Feed one step's codes to the first R rows, R from `count_for`, and the controls of the frames that follow:
        logits [R, K, V] of the next step, valid until then."""
        graph = self._graphs.get(len(tokens_RK))
        if graph is not None:
            return graph(tokens_RK, controls_RP)
        return self._lm.step(tokens_RK, self._views[len(tokens_RK)], controls_RP)[0]
