"""What an ablation compares: one stage that writes several codebooks, and two stages with each kind of denoiser, all of
one size and of one training cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssmttm import config as configuration
from ssmttm.codec.base import load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model import costs
from ssmttm.model.denoiser import EQUAL_SIZES
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.training.data import read_dataset_info
from ssmttm.training.flops import task_flops
from ssmttm.training.order import Draw
from ssmttm.training.stages import StageName, make_task
from tuning.trial import head_dim, scaled_rate

STAGE1 = "stage1"  # the run that all systems of two stages share
SINGLE, TWO = "single-", "two-"
SYSTEMS = (f"{SINGLE}4", f"{SINGLE}8", f"{TWO}convnext", f"{TWO}unet", f"{TWO}transformer", f"{TWO}ssm")
GRAIN = 8  # widths are multiples of it
SHALLOWEST = 2


@dataclass(frozen=True)
class TrainingRun:
    """One training: its name, stage, configuration, and what it comes to."""

    name: str
    stage: StageName
    config: Config
    parameters: int
    flops: float


@dataclass(frozen=True)
class System:
    """What is compared, and the runs it is made of."""

    name: str
    stage1: TrainingRun
    stage2: TrainingRun | None

    @property
    def parameters(self) -> int:
        return self.stage1.parameters + (self.stage2.parameters if self.stage2 else 0)

    @property
    def flops(self) -> float:
        return self.stage1.flops + (self.stage2.flops if self.stage2 else 0.0)


def parameters_of(config: Config, stage: StageName) -> int:
    """Trainable parameters of a stage, counted without memory behind them."""
    dataset = read_dataset_info(config.train.data)
    codec, text_dim = load_codec(dataset["codec"]["uri"]), dataset["text"]["dim"]
    if stage == "stage1":
        module: nn.Module = costs.build(config.stage1, costs.Shape(codec.codebook_size, text_dim, codec.coarse_dim))
    else:
        with torch.device("meta"):
            module = LatentCompleter(config.stage2, codec.fine_dim, codec.coarse_dim, text_dim)
    return sum(parameter.numel() for parameter in module.parameters())


def _nearest(choices: Iterable[dict[str, Any]], count: Callable[[dict[str, Any]], int], wanted: int) -> dict[str, Any]:
    return min(choices, key=lambda choice: abs(math.log(count(choice) / wanted)))


def _changed(config: Config, section: str, values: dict[str, Any]) -> Config:
    return configuration.with_overrides(config, [f"{section}.{key}={value}" for key, value in values.items()])


def _stage1_of_size(config: Config, wanted: int) -> Config:
    """Stage 1 with the width that comes nearest to a number of parameters."""
    stage1 = config.stage1
    widths = [GRAIN * n for n in range(4, 65)]
    choices = [{"width": width, "head_dim": head_dim(stage1, stage1.backbone, width)} for width in widths]
    counted = _nearest(choices, lambda one: parameters_of(_changed(config, STAGE1, one), "stage1"), wanted)
    return _changed(config, STAGE1, counted)


def _stage2_of_size(config: Config, denoiser: str, wanted: int) -> Config:
    """A denoiser with the width, and about the depth of the one that `mini` would have, that come nearest."""
    depth = EQUAL_SIZES["mini"][denoiser]["layers"]
    choices = [
        {"denoiser": denoiser, "width": GRAIN * n, "layers": layers, "head_dim": math.gcd(GRAIN * n, 64)}
        for layers in range(max(depth - 2, min(depth, SHALLOWEST)), depth + 1)
        for n in range(4, 49)
    ]
    counted = _nearest(choices, lambda one: parameters_of(_changed(config, "stage2", one), "stage2"), wanted)
    return _changed(config, "stage2", counted)


def _run(name: str, stage: StageName, config: Config, flops: float) -> TrainingRun:
    """As many steps as the operations allow, at the preset's rate for this width."""
    task = make_task(stage, config)
    terms = sum(task.count(Draw(row, 0)) for row in range(len(task.data))) / len(task.data)
    each = task_flops(task) * terms * config.train.global_batch
    steps = round(flops / each)
    if steps < (least := 2 * config.train.warmup_steps):
        raise UserError(f"--flops buys {name} only {steps} steps; give it at least {least * each:.1e}")
    width = config.stage1.width if stage == "stage1" else config.stage2.width
    sized = {"name": name, "steps": steps, "lr": scaled_rate(config.train.lr, width), "validate_every": steps}
    config = _changed(config, "train", sized)
    return TrainingRun(name, stage, config, parameters_of(config, stage), steps * each)


def plan(stage1: Config, stage2: Config, flops: float, names: Iterable[str] = SYSTEMS) -> list[System]:
    """The systems asked for. Those of two stages spend half of the operations on each, and share the first one.

    Args:
        stage1, stage2: the configurations of both jobs; `stage1.width` and `stage1.layers` of the first are the size of
            half a system.
        flops: of the training of one system, forward and backward.

    Raises:
        UserError: for an unknown system, for shards that are not there, or too few operations for a schedule.
    """
    shared = _run(STAGE1, "stage1", stage1, flops / 2)
    systems = []
    for name in names:
        if name not in SYSTEMS:
            raise UserError(f"{name} is no system; use some of: {', '.join(SYSTEMS)}")
        if name.startswith(SINGLE):
            several = _changed(stage1, STAGE1, {"num_codebooks": name.removeprefix(SINGLE)})
            sized = _stage1_of_size(several, 2 * shared.parameters)
            systems.append(System(name, _run(name, "stage1", sized, flops), None))
        else:
            sized = _stage2_of_size(stage2, name.removeprefix(TWO), shared.parameters)
            systems.append(System(name, shared, _run(name, "stage2", sized, flops / 2)))
    return systems
