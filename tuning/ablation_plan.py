"""What an ablation compares: one stage that writes several codebooks, and two stages with each kind of denoiser, all of
one size and of one training cost."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ssmttm import config as configuration
from ssmttm.codec.store import load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model import costs
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.tokens.read import read_dataset_info
from ssmttm.training.launch import make_task
from ssmttm.training.order import Draw
from ssmttm.training.stage_task import StageName
from tuning.equal_sizes import EQUAL_SIZES
from tuning.trial import head_dim, scaled_rate

STAGE1 = "stage1"  # the run that all systems of two stages share
SINGLE, TWO = "single-", "two-"
SYSTEMS = (f"{SINGLE}4", f"{SINGLE}8", f"{TWO}convnext", f"{TWO}unet", f"{TWO}transformer", f"{TWO}ssm")
WIDTHS = range(32, 513, 8)
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


@dataclass(frozen=True)
class Dimensions:
    """What the sizes of both models depend on besides their configuration: codec and text encoder of the shards."""

    codebook: int
    coarse: int
    fine: int
    text: int

    @classmethod
    def of(cls, tokens: str) -> Dimensions:
        dataset = read_dataset_info(tokens)
        codec = load_codec(dataset["codec"]["uri"])
        return cls(codec.codebook_size, codec.coarse_dim, codec.fine_dim, dataset["text"]["dim"])


def parameters_of(config: Config, stage: StageName, dimensions: Dimensions) -> int:
    """Trainable parameters of a stage, counted without memory behind them."""
    if stage == "stage1":
        shape = costs.Shape(dimensions.codebook, dimensions.text, dimensions.coarse)
        return costs.trainable_parameters(costs.build(config.stage1, shape))
    with torch.device("meta"):
        completer = LatentCompleter(config.stage2, dimensions.fine, dimensions.coarse, {"text": dimensions.text})
    return costs.trainable_parameters(completer)


def _distance(parameters: int, wanted: int) -> float:
    return abs(math.log(parameters / wanted))


def _nearest(config_of: Callable[[int], Config], stage: StageName, wanted: int, dimensions: Dimensions) -> Config:
    """Of the configurations by width, whose parameters grow with it, the one that comes nearest."""

    def count(width: int) -> int:
        return parameters_of(config_of(width), stage, dimensions)

    place = bisect.bisect_left(WIDTHS, wanted, key=count)
    return config_of(min(WIDTHS[max(place - 1, 0) : place + 1], key=lambda width: _distance(count(width), wanted)))


def _changed(config: Config, section: str, values: dict[str, Any]) -> Config:
    return configuration.with_overrides(config, [f"{section}.{key}={value}" for key, value in values.items()])


def _stage1_of_size(config: Config, wanted: int, dimensions: Dimensions) -> Config:
    """Stage 1 with the width that comes nearest to a number of parameters."""
    stage1 = config.stage1

    def of_width(width: int) -> Config:
        return _changed(config, STAGE1, {"width": width, "head_dim": head_dim(stage1, stage1.backbone, width)})

    return _nearest(of_width, "stage1", wanted, dimensions)


def _stage2_of_size(config: Config, denoiser: str, wanted: int, dimensions: Dimensions) -> Config:
    """A denoiser with the width, and about the depth of the one that `mini` would have, that come nearest."""
    depth = EQUAL_SIZES["mini"][denoiser]["layers"]

    def of_depth(layers: int) -> Config:
        def of_width(width: int) -> Config:
            sized = {"denoiser": denoiser, "width": width, "layers": layers, "head_dim": math.gcd(width, 64)}
            return _changed(config, "stage2", sized)

        return _nearest(of_width, "stage2", wanted, dimensions)

    depths = range(max(depth - 2, min(depth, SHALLOWEST)), depth + 1)
    return min(map(of_depth, depths), key=lambda one: _distance(parameters_of(one, "stage2", dimensions), wanted))


def _run(name: str, stage: StageName, config: Config, flops: float, dimensions: Dimensions) -> TrainingRun:
    """As many steps as the operations allow, at the preset's rate for this width."""
    task = make_task(stage, config)
    terms = sum(task.count(Draw(row, 0)) for row in range(len(task.data))) / len(task.data)
    each = task.flops() * terms * config.train.global_batch
    steps = round(flops / each)
    if steps < (least := 2 * config.train.warmup_steps):
        raise UserError(f"--flops buys {name} only {steps} steps; give it at least {least * each:.1e}")
    width = config.stage1.width if stage == "stage1" else config.stage2.width
    sized = {"name": name, "steps": steps, "lr": scaled_rate(config.train.lr, width), "validate_every": steps}
    config = _changed(config, "train", sized)
    return TrainingRun(name, stage, config, parameters_of(config, stage, dimensions), steps * each)


def plan(stage1: Config, stage2: Config, flops: float, names: Iterable[str] = SYSTEMS) -> list[System]:
    """The systems asked for. Those of two stages spend half of the operations on each, and share the first one.

    Args:
        stage1, stage2: the configurations of both jobs; `stage1.width` and `stage1.layers` of the first are the size of
            half a system.
        flops: of the training of one system, forward and backward.

    Raises:
        UserError: for an unknown system, for shards that are not there, or too few operations for a schedule.
    """
    dimensions = Dimensions.of(stage1.train.data)
    shared = _run(STAGE1, "stage1", stage1, flops / 2, dimensions)
    systems = []
    for name in names:
        if name not in SYSTEMS:
            raise UserError(f"{name} is no system; use some of: {', '.join(SYSTEMS)}")
        if name.startswith(SINGLE):
            several = _changed(stage1, STAGE1, {"num_codebooks": name.removeprefix(SINGLE)})
            sized = _stage1_of_size(several, 2 * shared.parameters, dimensions)
            systems.append(System(name, _run(name, "stage1", sized, flops, dimensions), None))
        else:
            sized = _stage2_of_size(stage2, name.removeprefix(TWO), shared.parameters, dimensions)
            systems.append(System(name, shared, _run(name, "stage2", sized, flops / 2, dimensions)))
    return systems
