"""One trial of a study: its configuration and its training. Tune's workers import this."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import Any

from ray import tune

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config, Stage1Config
from ssmttm.lease import Process
from ssmttm.training.launch import train
from ssmttm.training.session import DivergedError
from tuning.table import DONE, Row, nats

WIDTH_PER_LAYER = 64
"""Width over depth, the same at every size: around such ratios the shape matters little to the loss (Kaplan et al.
2020, arXiv 2001.08361, figure 5), so one dial is enough."""
BASE_WIDTH = 256
"""The width at which the presets' learning rates were found."""


def scaled_rate(lr: float, width: int) -> float:
    """A learning rate given at width 256, at another width: it falls with the square root of the width, as in Vaswani
    et al. 2017 (arXiv 1706.03762, section 5.3)."""
    return lr * math.sqrt(BASE_WIDTH / width)


def head_dim(stage1: Stage1Config, backbone: str, width: int) -> int:
    """The configured dimensions of a head, or fewer where those do not divide what heads share out: the inner width of
    a state-space layer, or the width itself where a backbone attends."""
    attends = backbone not in ("prefix_simba", "prefix_mamba")
    return math.gcd(width * (1 if attends else stage1.expand), stage1.head_dim)


def sized(config: Config, trial: Row) -> Config:
    """A trial's configuration: in process, on one worker. Batch, data and schedule stay those of the study, so that
    trials of equal steps see equal tokens in equal order."""
    overrides = [word for word in trial.variant.split(";") if word]
    values = configuration.with_overrides(config, overrides).model_dump()
    values["stage1"] |= {"backbone": trial.backbone, "layers": trial.layers, "width": trial.width}
    values["stage1"]["head_dim"] = head_dim(config.stage1, trial.backbone, trial.width)
    values["train"] |= {
        "name": trial.name,
        "steps": trial.steps,
        "lr": trial.lr,
        "seed": trial.seed,
        # A Ray Train run of its own would cost every trial a controller and a worker beside Tune's own process. Small
        # models train in that one; larger ones are jobs/train_stage1.py's business.
        "launch": "local",
        "workers": 1,
        "samples": 0,
    }
    return configuration.from_dict(values)


class TuneReporter:
    """Passes a run's figures on to Tune as they come. See `Listener`.

    Args:
        row: of the trial; its values are part of every report.
    """

    def __init__(self, row: Row):
        self._values = asdict(row)
        del self._values["val_nats"]  # until there is one

    def begin(self, step: int) -> None: ...

    def metrics(self, values: dict[str, float], step: int) -> None:
        if "val/own" in values:
            validation = {name.removeprefix("val/"): value for name, value in values.items()}
            self._values["val_nats"] = nats(validation)
        if any(name.startswith(("train/", "val/")) for name in values):
            tune.report({**self._values, **values, "step": step})

    def checkpoint(self, uri: str, step: int) -> None: ...

    def artifacts(self, uris: list[str]) -> None: ...

    def samples(self, uris: list[str], step: int) -> None: ...


def measure(config: Config, row: Row, study: Process) -> Row:
    """Train one configuration in this process (or go on, or find it finished), and fill in its row. `study`: the
    process that asked for it."""
    start = time.perf_counter()
    summary = storage.read_json(train(config, "stage1", TuneReporter(row), study).summary)
    return replace(
        row,
        params=summary["parameters"],
        tokens=summary["tokens"],
        flops=summary["flops"],
        val_nats=nats(summary["validation"]),
        seconds=round(time.perf_counter() - start, 1),
        status=DONE,
    )


def run_trial(parameters: dict[str, Any]) -> None:
    """What Tune runs: measure one trial, or report why it could not be measured."""
    trial = parameters["trial"]
    row, config = Row(**trial["row"]), configuration.from_dict(trial["config"])
    try:
        row = measure(config, row, Process(**trial["study"]))
    except DivergedError as error:
        row = replace(row, val_nats=math.inf, status=f"failed: diverged: {' '.join(str(error).split())}")
    except Exception as error:
        row = replace(row, status=f"failed: {type(error).__name__}: {' '.join(str(error).split())}")
    tune.report(asdict(row))
