"""What a mixer must say for itself: the part of stage 1's blocks that carries information from step to step.

Shapes: B batch, L steps, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ssmttm.config import Stage1Config


def gather(rows: Sequence[tuple[Any, int]]) -> Any:
    """A new named tuple of tensors, one row each of others of its kind."""
    parts = zip(*(tuple(tensor[row : row + 1] for tensor in state) for state, row in rows), strict=True)
    return type(rows[0][0])(*map(torch.cat, parts))


class Mixer(nn.Module, ABC):
    """`mixer(x_BLD, state, ...) -> (y_BLD, state)`; one call over L steps gives what L calls over one step give.

    A state is a tuple of tensors (None before the first step); in inference a step may write over it, so a state is to
    be continued only once.

    fixed_state: whether it keeps its size for ever, every tensor of it with one row per stream, and steps write over
        it. Only such streams can share slots and CUDA graphs. never_decayed: names of parameters without weight decay.
    """

    fixed_state: ClassVar[bool]
    never_decayed: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def of(cls, config: Stage1Config) -> Self:
        """The mixer of a block.

        Raises:
            UserError: for sizes that do not fit.
        """

    @abstractmethod
    def initial_state(self, batch: int, device: torch.device) -> Any:
        """The state before the first step."""

    @abstractmethod
    def forward(
        self, x_BLD: Tensor, state: Any = None, mask_BL: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, Any]:
        """Outputs and the state after the last step.

        Args:
            mask_BL: False where a step is padding, which leaves the state untouched.
            bidirectional: the first steps of the call, which may see one another both ways (a prefix).
        """

    def kept(self, state: Any) -> Sequence[Tensor]:
        """What a stream must keep of a state."""
        return () if state is None else tuple(state)

    def gather(self, rows: Sequence[tuple[Any, int]]) -> Any:
        """A new state of one row each of other states."""
        return gather(rows)
