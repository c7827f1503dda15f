"""The study's table: one row per trial, a CSV that is rewritten in one piece whenever a trial ends."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, get_type_hints

from ssmttm import storage
from ssmttm.spreadsheet import from_csv, to_csv

DONE = "done"


@dataclass(frozen=True)
class Row:
    """What a trial was to train, and what came of it.

    `variant` holds the overrides, `key=value` between semicolons, by which a trial differs from others of its backbone,
    size, steps and seed. `status` is `done` or says why the trial failed; `flops` are those of the whole training,
    `val_nats` is the `nats` of its last validation, `seconds` is wall time.
    """

    backbone: str
    size: int
    seed: int
    width: int
    layers: int
    steps: int
    lr: float
    variant: str = ""
    params: int = 0
    tokens: int = 0
    flops: float = 0.0
    val_nats: float = math.nan
    seconds: float = 0.0
    status: str = ""

    @property
    def name(self) -> str:
        """Names the trial's run, and the row among others."""
        varied = self.variant.split(";") if self.variant else []
        words = [self.backbone, str(self.size), *varied, f"{self.steps}steps", f"seed{self.seed}"]
        return re.sub(r"[^\w.=-]", "_", "-".join(words))  # a folder's name

    @property
    def group(self) -> str:
        """What is compared with what: backbone and variant."""
        return f"{self.backbone} {self.variant}".strip()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Row:
        """A row from the texts of a CSV line, or from values among others."""
        kinds = get_type_hints(cls)
        return cls(**{field.name: kinds[field.name](values[field.name]) for field in fields(cls)})


def nats(validation: Mapping[str, float]) -> float:
    """The loss per validation code of codebook 0 with the rows' own prompts, so that models of one codebook and of
    several compare."""
    return validation.get("first_codebook", validation["own"])


def read_rows(uri: str) -> list[Row]:
    """The table's rows; none if there is no table yet."""
    if not storage.exists(uri):
        return []
    return [Row.parse(line) for line in from_csv(storage.read_text(uri))]


def write_rows(uri: str, rows: list[Row]) -> None:
    """Replace the table; rows are sorted by size, backbone, variant, steps and seed."""
    ordered = sorted(rows, key=lambda row: (row.size, row.backbone, row.variant, row.steps, row.seed))
    storage.write_text(uri, to_csv([field.name for field in fields(Row)], map(astuple, ordered)))
