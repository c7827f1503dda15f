"""What a stage must say for itself so that the one training loop can train it."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.config import Config
from ssmttm.tokens.data import TokenDataset
from ssmttm.training.order import Draw


class Batch(Protocol):
    """A collated micro-batch. `count` is how many terms its loss sums, known without the model."""

    count: int

    def to(self, device: torch.device) -> Self: ...


class Task(Protocol):
    """One stage of training.

    `name` is stage1 or stage2, `data` the training rows, `unit` its loss per what (`nats/token`). All methods but
    `build` may run in any thread; none draws from a global random generator.
    """

    name: str
    unit: str
    config: Config
    data: TokenDataset

    def build(self) -> nn.Module:
        """The untrained module, with every statistic that it takes from the data."""
        ...

    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """AdamW parameter groups, each with params, weight_decay and lr_scale."""
        ...

    def count(self, draw: Draw) -> int:
        """How many terms this sample adds to the loss."""
        ...

    def collate(self, draws: list[Draw]) -> Batch:
        """Training batch; every random choice is keyed by seed, epoch and sample id."""
        ...

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """Scalar sum of the loss over the batch's `count` terms."""
        ...

    def validation_variants(self, final: bool) -> list[str]:
        """Names of the conditions that validation compares; all of them at the end of training."""
        ...

    def collate_validation(self, rows: list[int], variant: str) -> Batch:
        """Batch of the given places among the fixed validation rows, under one condition."""
        ...

    @property
    def validation_rows(self) -> int: ...

    def summarise_validation(self, losses: dict[str, float]) -> dict[str, float]:
        """Reported figures from the mean loss of each variant."""
        ...

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """What `model.json` needs to rebuild the module."""
        ...

    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """Audio made by the trained module for validation prompts: (prompt, audio)."""
        ...
