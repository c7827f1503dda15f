"""The fixed held-out rows, and their mean loss under each condition, shared among workers.

Shapes: B batch.
"""

from __future__ import annotations

import numpy as np

from ssmttm.conditions.base import Conditions, FrameControl
from ssmttm.conditions.text import token_states
from ssmttm.config import TrainConfig
from ssmttm.tokens.read import TokenDataset
from ssmttm.training.engine import Engine
from ssmttm.training.task import Task


class ValidationSet:
    """Evenly spaced rows of the `val` split, each with its first caption."""

    def __init__(self, data: TokenDataset, count: int):
        self.data = data
        places = np.linspace(0, len(data), min(count, len(data)), endpoint=False)
        self.rows = [int(place) for place in places]

    @classmethod
    def open(cls, config: TrainConfig, with_fine: bool) -> ValidationSet:
        return cls(TokenDataset.open(config.data, "val", with_fine), config.validation_rows)

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, i: int) -> str:
        return self.data.rows[self.rows[i]]["id"]

    def frames(self, i: int) -> int:
        return self.data.frames(self.rows[i])

    def codes(self, i: int) -> np.ndarray:
        return self.data.codes(self.rows[i])

    def fine(self, i: int) -> np.ndarray:
        return self.data.fine(self.rows[i])

    def prompt(self, i: int) -> str:
        return self.data.prompt(self.rows[i])

    def conditions(self, rows: list[int], variant: str = "own") -> Conditions:
        """Conditions of the rows: their own, those of the row half a set away (`shuffled`), or none (`null`)."""
        shift = len(self) // 2 if variant == "shuffled" else 0
        places = [self.rows[(i + shift) % len(self)] for i in rows]
        states = [self.data.text.states(self.data.text_keys(place)[0]) for place in places]
        controls = {
            name: FrameControl.of([self.data.control(place, name) for place in places]) for name in self.data.controls
        }
        asked = Conditions({"text": token_states(states), **controls}).frames(0, max(map(self.frames, rows)))
        return asked.as_null() if variant == "null" else asked


def validate(engine: Engine, task: Task, micro_batch: int, final: bool) -> dict[str, float]:
    """Figures of the current weights over all validation rows. Every worker makes the same number of forward
    passes, as partitioned parameters require; one that has no row left repeats the first, uncounted."""
    losses = {}
    for variant in task.validation_variants(final):
        total = count = 0.0
        for start in range(0, task.validation_rows, engine.world_size * micro_batch):
            first = start + engine.rank * micro_batch
            rows = list(range(first, min(first + micro_batch, task.validation_rows)))
            batch = task.collate_validation(rows or [0], variant)
            loss = engine.evaluate(batch)
            if rows:
                total += loss
                count += batch.count
        total, count = engine.sum(total, count)
        losses[variant] = total / count
    return task.summarise_validation(losses)
