"""What a task must say for itself so that the one training loop can train it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ssmttm.config import Config
from ssmttm.training.order import Draw


class Batch(Protocol):
    """A collated micro-batch. `count` is how many terms its loss sums, known without the model."""

    @property
    def count(self) -> int: ...

    def to(self, device: torch.device) -> Self: ...


class Task(ABC):
    """Something to train. All methods but `build` may run in any thread; none draws from a global random generator.

    name: stage1, stage2 or vocoder. unit: its loss per what (`nats/token`). data: what an epoch goes through once.
    """

    name: str
    unit: str
    config: Config
    data: Sized

    @abstractmethod
    def build(self) -> nn.Module:
        """The untrained module, with every statistic that it takes from the data."""

    @abstractmethod
    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """AdamW parameter groups, each with params, weight_decay and lr_scale."""

    @abstractmethod
    def count(self, draw: Draw) -> int:
        """How many terms this sample adds to the loss."""

    @abstractmethod
    def collate(self, draws: list[Draw]) -> Batch:
        """Training batch; every random choice is keyed by seed, epoch and sample id."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """Scalar sum of the loss over the batch's `count` terms."""

    @property
    def validation_rows(self) -> int:
        """How many rows are held out; without any, the methods below are not called."""
        return 0

    def validation_variants(self, final: bool) -> list[str]:
        """Names of the conditions that validation compares; all of them at the end of training."""
        raise NotImplementedError

    def collate_validation(self, rows: list[int], variant: str) -> Batch:
        """Batch of the given places among the fixed validation rows, under one condition."""
        raise NotImplementedError

    def summarise_validation(self, losses: dict[str, float]) -> dict[str, float]:
        """Reported figures from the mean loss of each variant; `own` is the one that counts."""
        return losses

    def flops(self) -> float | None:
        """Floating-point operations of forward and backward per loss term; None where nobody counts them."""
        return None

    def speed(self, terms_per_s: float) -> str:
        """What the progress line says of the pace."""
        return f"{terms_per_s:,.0f} {self.unit.split('/')[1]}s/s"

    @abstractmethod
    def remedy(self) -> str:
        """What to do where steps are not finite."""
