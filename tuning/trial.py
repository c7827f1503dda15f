"""One trial of the scaling study: its configuration, its arithmetic, its training. Tune's workers import this."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import Any

from ray import tune
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config
from ssmttm.training.launch import train
from ssmttm.training.order import Draw
from ssmttm.training.stage1 import Stage1Task
from tuning.table import DONE, Row

WIDTH_PER_LAYER = 64
"""Width over depth, the same at every size: around such ratios the shape matters little to the loss (Kaplan et al.
2020, arXiv 2001.08361, figure 5), so one dial is enough."""
BASE_WIDTH = 256
"""The width at which the presets' learning rates were found."""


def new_row(backbone: str, size: int, seed: int) -> Row:
    """The row of a trial that is yet to run."""
    return Row(backbone, size, seed, width=WIDTH_PER_LAYER * size, layers=size)


def sized(config: Config, trial: Row) -> Config:
    """A trial's configuration: `size` layers of width 64 x size.

    The learning rate falls with the square root of the width, as in Vaswani et al. 2017 (arXiv 1706.03762, section
    5.3), from `train.lr` at width 256. Steps, batch, data and schedule stay: every trial sees equal tokens.
    """
    values = config.model_dump()
    values["stage1"] |= {"backbone": trial.backbone, "layers": trial.layers, "width": trial.width}
    values["train"] |= {
        "name": trial.name,
        "lr": config.train.lr * math.sqrt(BASE_WIDTH / trial.width),
        "seed": trial.seed,
        "launch": "local",
        "workers": 1,
        "samples": 0,
    }
    # Trials would race to create one MLflow database; the table and the runs' own files are the record.
    values["tracking"]["enabled"] = False
    return configuration.from_dict(values)


def counted_flops(config: Config) -> float:
    """FLOPs per token of forward and backward, counted operator by operator on one sample.

    Attention is counted in full, without the half that causality spares, as is usual (arXiv 2204.02311, appendix B).
    """
    task = Stage1Task(config)
    batch = task.collate([Draw(0, 0)])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention is not counted
        task.loss(task.build(), batch).backward()
    return counter.get_total_flops() / batch.count


def measure(config: Config) -> dict[str, Any]:
    """Train one configuration in this process (or go on, or find it finished): the figures of its row."""
    start = time.perf_counter()
    summary = storage.read_json(train(config, "stage1").summary)
    return {
        "params": summary["parameters"],
        "tokens": summary["tokens"],
        "flops": counted_flops(config) * summary["tokens"],
        "val_nats": summary["validation"]["own"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def run_trial(parameters: dict[str, Any]) -> None:
    """What Tune runs: measure one trial, or report why it could not be measured."""
    trial = parameters["trial"]
    row, config = Row(**trial["row"]), configuration.from_dict(trial["config"])
    try:
        row = replace(row, status=DONE, **measure(config))
    except Exception as error:
        row = replace(row, status=f"failed: {type(error).__name__}: {' '.join(str(error).split())}")
    tune.report(asdict(row))
