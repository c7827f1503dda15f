"""The states of many streams side by side: rows that streams take and give back. Rows in use come first.

States of fixed size are kept in preallocated tensors, and a step runs over the first n rows for a few values of n only:
each is compiled (CPU) or captured as a CUDA graph once. States that grow share one cache. Shapes: R rows, K codebooks,
V codes, L layers, D width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
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


def compile_with_fallback(lm: MusicLM, trial: Callable[[], object]) -> bool:
    """Let torch.compile fuse the step on a CPU, and say whether that worked; otherwise (there is no C++ compiler, for
    one) steps stay as they are, with a warning.

    Args:
        trial: takes steps of all the numbers of rows that there will be, which compiles them.
    """
    lm.compile_steps()
    try:
        trial()
    except Exception as error:  # whatever a compiler may raise
        lm.compile_steps(False)
        logger.warning("decoding stays uncompiled: %s", " ".join(str(error).split())[:200])
        return False
    return True


def row_counts(rows: int) -> list[int]:
    """The numbers of rows that steps run over where streams come and go: powers of two, and all."""
    return [*(1 << power for power in range((rows - 1).bit_length())), rows]


class _Rows(ABC):
    """What rows of both kinds share.

    Args:
        lm: in evaluation mode.
        tokens: length that prefixes are padded to where the model looks at them at every step.

    null: a stream of which nothing is asked, as a row of a state that `read` gave; it is the same for all.
    """

    def __init__(self, lm: MusicLM, tokens: int):
        self._lm, self._tokens, self.device = lm, tokens, lm.device
        self.null: tuple[LMState, int] | None = None

    @torch.inference_mode()
    def read(self, conditions: Conditions, tokens_BKS: Tensor | None = None) -> LMState:
        """The states after the prefix and the steps' codes (BOS first), if any, with the controls of the first frames;
        one row each, to be put into rows."""
        conditions = conditions.to(self.device)
        if self._lm.looks_across:
            conditions = conditions.padded(self._tokens)
        state = self._lm.read_prefix(conditions)
        if tokens_BKS is not None:
            controls_BSD = self._lm.controls(conditions, tokens_BKS.shape[2])
            _, state = self._lm.read(tokens_BKS.to(self.device), state, controls_BSD)
        for index, block in enumerate(cast(list[Block], self._lm.blocks)):
            state.blocks[index] = block.started(state.blocks[index], len(conditions), self.device)
        return state

    @abstractmethod
    def put(self, row: int, state: LMState, index: int) -> None:
        """Put row `index` of a state that `read` gave into a row."""

    def put_null(self, row: int) -> None:
        """Put a stream of which nothing is asked into a row."""
        if self.null is None:
            nothing = collate_text([np.zeros((1, self._lm.widths["text"]), np.float32)]).as_null()
            self.null = self.read(nothing), 0
        self.put(row, *self.null)


class FixedRows(_Rows):
    """`rows` states of fixed size.

    Args:
        lm, tokens: see `_Rows`.
        counts: the numbers of rows that steps run over; `row_counts` when left out.
    """

    def __init__(self, lm: MusicLM, rows: int, tokens: int, counts: Sequence[int] | None = None):
        super().__init__(lm, tokens)
        self.rows, self._counts = rows, row_counts(rows) if counts is None else counts
        self._places: list[Tensor] = []
        self._views: dict[int, LMState] = {}
        self._graphs: dict[int, StepGraph | None] = {}

    @torch.inference_mode()
    def warm_up(self, compiled: bool) -> bool:
        """Make the step fast for every number of rows, and say whether that worked: capture it as CUDA graphs, or
        on a CPU, if `compiled`, compile it. Only while no row is in use."""
        is_cuda = self.device.type == "cuda"
        if is_cuda or compiled:
            self.put_null(0)  # or there would be nothing to step over yet
        if is_cuda:
            for count, view in self._views.items():
                self.step(self._no_codes(count))  # loads all kernels
                self._graphs[count] = capture(self._lm, view)
            return all(self._graphs.values())
        return compiled and compile_with_fallback(
            self._lm, lambda: [self.step(self._no_codes(count)) for count in self._counts]
        )

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
    def put(self, row: int, state: LMState, index: int) -> None:
        if not self._places:  # the first state says how large they are
            whole = _map(state, lambda one: one.new_zeros(self.rows, *one.shape[1:]))
            self._places = _tensors(whole)
            self._views = {count: _first_rows(whole, count) for count in self._counts}
        for place, source in zip(self._places, _tensors(state), strict=True):
            place[row].copy_(source[index])

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        for place in self._places:
            place[target].copy_(place[source])

    def count_for(self, used: int) -> int:
        """Over how many rows a step runs when the first `used` are in use."""
        return next(count for count in self._counts if count >= used)

    @torch.inference_mode()
    def step(self, tokens_RK: Tensor, controls_RD: Tensor | None = None) -> Tensor:
        """Feed one step's codes to the first R rows, R from `count_for`, and the controls of the frames that follow:
        logits [R, K, V] of the next step, valid until then."""
        graph = self._graphs.get(len(tokens_RK))
        if graph is not None:
            return graph(tokens_RK, controls_RD)
        return self._lm.step(tokens_RK, self._views[len(tokens_RK)], controls_RD)[0]


class GrowingRows(_Rows):
    """The same for states that grow: all rows in use are one state, which is put together again when rows come and go.
    Those that began later are padded on the left, so that bits depend on the company."""

    def __init__(self, lm: MusicLM, tokens: int):
        super().__init__(lm, tokens)
        self._rows: list[tuple[LMState, int]] = []  # where each row is: in which state, at which place

    def warm_up(self, compiled: bool) -> bool:
        """Nothing can be captured or compiled where every step has another shape."""
        if compiled:
            logger.warning("decoding stays uncompiled: what this backbone remembers grows from step to step")
        return False

    @torch.inference_mode()
    def put(self, row: int, state: LMState, index: int) -> None:
        if self.null is not None and state is self.null[0]:
            state, index = self._gather([(state, index)]), 0  # steps write over it
        self._rows[row : row + 1] = [(state, index)]

    def move(self, source: int, target: int) -> None:
        self._rows[target] = self._rows[source]

    def count_for(self, used: int) -> int:
        return used

    @torch.inference_mode()
    def step(self, tokens_RK: Tensor, controls_RD: Tensor | None = None) -> Tensor:
        """See `FixedRows.step`."""
        rows = self._rows[: len(tokens_RK)]
        state = rows[0][0]
        is_whole = len(state.position_B) == len(rows)
        if not is_whole or any(one is not state or place != index for index, (one, place) in enumerate(rows)):
            state = self._gather(rows)
        logits_RKV, state = self._lm.step(tokens_RK, state, controls_RD)
        self._rows = [(state, index) for index in range(len(rows))]
        return logits_RKV

    def _gather(self, rows: Sequence[tuple[LMState, int]]) -> LMState:
        """A new state of one row each of other states."""
        blocks = [
            block.gather([(state.blocks[number], row) for state, row in rows])
            for number, block in enumerate(cast(list[Block], self._lm.blocks))
        ]
        position_B = torch.cat([state.position_B[row : row + 1] for state, row in rows])
        pooled = [state.pooled_LBD[:, row : row + 1] for state, row in rows if state.pooled_LBD is not None]
        return LMState(blocks, position_B, torch.cat(pooled, dim=1) if pooled else None, rows[0][0].table_KVD)
