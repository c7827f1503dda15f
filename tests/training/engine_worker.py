"""One of the workers of test_training_engine.py: DeepSpeed at every ZeRO stage beside plain torch on the same steps.

python engine_worker.py RANK WORLD PORT stages|offload|state-space
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.conditions.text import collate_text
from ssmttm.config import TrainConfig, load
from ssmttm.model.lm import MusicLM
from ssmttm.training.deepspeed_engine import DeepSpeedEngine
from ssmttm.training.engine import Engine, LossModule, State, TorchEngine
from ssmttm.training.order import BatchShape

WIDTH, MICRO, ACCUMULATION = 5, 2, 2  # an odd width, so that partitions need padding


@dataclass
class Points:
    """Inputs [B, WIDTH]; `trouble` is how this batch misbehaves."""

    x: Tensor
    trouble: str = ""

    @property
    def count(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Points:
        return self


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 7)
        self.second = nn.Linear(7, 1, bias=False)
        self.A_log = nn.Parameter(torch.zeros(3))
        self.register_buffer("scale", torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.scale + self.A_log.exp().sum()


def loss(model: nn.Module, batch: Points) -> Tensor:
    total = (model(batch.x) - batch.x.sum(1, keepdim=True)).float().square().sum()
    if batch.trouble == "nan loss":
        return total * math.nan
    if batch.trouble == "nan gradient":  # the value is finite, the root's slope at 0 is not
        return total + (model.A_log[0] * 0).sqrt()
    return total


def build(settings: TrainConfig, world: int, deepspeed: bool) -> Engine:
    torch.manual_seed(0)
    module = LossModule(Model(), loss)
    plain = [module.model.first.bias, module.model.A_log]
    matrices = [module.model.first.weight, module.model.second.weight]
    groups = [
        {"params": matrices, "weight_decay": 0.1, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 0.5},
    ]
    if deepspeed:
        return DeepSpeedEngine(module, groups, settings, BatchShape(MICRO, ACCUMULATION), None)
    return TorchEngine(module, groups, settings, None)


def step(engine: Engine, number: int, trouble: str = "", place: int = -1) -> float | None:
    """One optimizer step on the global batch of this number, of which each worker takes its part. The trouble is in
    one of the micro-batches, counted over all workers."""
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(number))
    whole = [Points(part) for part in x.split(MICRO)]
    whole[place].trouble = trouble
    parts = whole[engine.rank :: engine.world_size]
    for number_of_part, part in enumerate(parts):
        is_last = number_of_part == len(parts) - 1
        value = engine.forward(part)
        (total,) = engine.sum(float(value.detach()))
        if not math.isfinite(total):
            engine.abandon(value)
            return None
        engine.backward(value / len(x), is_last)
    norm = engine.step(lr=0.05)
    if norm is not None:
        engine.update_average(0.9)
    return norm


def assert_close(engine: Engine, reference: Engine, tolerance: float = 2e-6) -> None:
    for mine, theirs in (
        (engine.model_state(), reference.model_state()),
        (engine.optimizer_state(), reference.optimizer_state()),
    ):
        if engine.rank == 0:
            assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
            for name in mine:
                torch.testing.assert_close(mine[name], theirs[name], atol=tolerance, rtol=1e-5)


# What happens to each step: the kind of trouble, and the micro-batch that has it. Also two in a row, one in the very
# first micro-batch, and one on each of two workers.
TROUBLES = [
    ("", 0),
    ("", 0),
    ("nan loss", -1),
    ("", 0),
    ("nan gradient", -1),
    ("nan gradient", 0),
    ("nan loss", 0),
    ("", 0),
]


def check_stage(stage: int, world: int, clip: float, **more: Any) -> None:
    settings = TrainConfig(zero=stage, ema=0.9, clip=clip, precision="fp32", **more)
    engine, reference = build(settings, world, True), build(settings, world, False)
    for number, (trouble, place) in enumerate(TROUBLES):
        norm, expected = step(engine, number, trouble, place), step(reference, number, trouble, place)
        assert (norm is None) == (expected is None) == bool(trouble), (trouble, norm, expected)
        if norm is not None:
            assert abs(norm - expected) < 1e-5
        assert_close(engine, reference)
    with engine.averaged(), reference.averaged():
        assert_close(engine, reference)
        batch = Points(torch.ones(2, WIDTH))
        assert abs(engine.evaluate(batch) - reference.evaluate(batch)) < 1e-5
    assert_close(engine, reference)
    # What plain torch saved, a fresh engine continues from.
    resumed = build(settings, world, True)
    resumed.load_optimizer_state(reference.optimizer_state())
    if engine.rank == 0:
        saved, loaded = reference.optimizer_state(), resumed.optimizer_state()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    else:
        resumed.optimizer_state()


def check_bf16(stage: int, world: int, **more: Any) -> None:
    settings = TrainConfig(zero=stage, precision="bf16", **more)
    engine = build(settings, world, True)
    for number, (trouble, place) in enumerate(TROUBLES):
        before = engine.model_state()
        assert (step(engine, number, trouble, place) is None) == bool(trouble), (number, trouble)
        after = engine.model_state()
        assert all(value.dtype == torch.float32 for value in after.values())
        if engine.rank == 0:
            assert all(torch.equal(value, before[name]) for name, value in after.items()) == bool(trouble)


def check_state_space(stage: int, world: int) -> None:
    """A real language model under bf16: what the state space is made of stays fp32 and does not decay."""
    settings = TrainConfig(zero=stage, precision="bf16", weight_decay=0.5, ema=0.9)
    torch.manual_seed(0)
    lm = MusicLM(load("tiny", ["stage1.codebook_features=false"]).stage1, 16, {"text": 12})
    codes_BKS = torch.randint(0, 16, (MICRO, 1, 9), generator=torch.Generator().manual_seed(1))
    text = collate_text([np.ones((3, 12), np.float32)] * MICRO, [False] * MICRO)
    scale, seen = 0.0, set()

    def loss(model: nn.Module, batch: Points) -> Tensor:
        logits = model(codes_BKS, text)
        return scale * logits.float().square().sum()

    def watch(module: nn.Module, _: Any, output: Tensor) -> None:
        seen.add(output.dtype)

    lm.blocks[0].mixer.in_proj.register_forward_hook(watch)
    groups = lm.optimizer_groups(settings.lr, settings.weight_decay)
    engine = DeepSpeedEngine(LossModule(lm, loss), groups, settings, BatchShape(MICRO, 1), None)

    def updated(lr: float) -> tuple[State, State]:
        before = engine.model_state()
        engine.backward(engine.forward(Points(torch.ones(MICRO, 1))), is_last=True)
        assert engine.step(lr) is not None
        engine.update_average(0.9)
        return before, engine.model_state()

    internals = ("A_log", "D", "dt_bias")
    before, after = updated(lr=0.1)  # no gradient at all: what changes has decayed
    assert seen == {torch.bfloat16}
    if engine.rank == 0:
        assert all(value.dtype == torch.float32 for value in after.values())
        kept = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert {name for name in after if name.split(".")[-1] in internals} <= kept
        weight = "blocks.0.mixer.in_proj.weight"
        torch.testing.assert_close(after[weight], before[weight] * (1 - 0.1 * 0.5))
    scale = 1.0
    before, after = updated(lr=1e-5)  # which bf16 numbers of this size could not hold
    if engine.rank == 0:
        for name in after:
            if name.split(".")[-1] in internals:
                moved = (after[name] - before[name]).abs().max()
                assert 1e-7 < moved < 1e-4, (name, moved)
    assert all(value.dtype == torch.float32 for value in engine.optimizer_state().values())
    with engine.averaged():
        assert all(value.dtype == torch.float32 for value in engine.model_state().values())


def stages(world: int) -> None:
    for stage in range(4):
        check_stage(stage, world, clip=0.5)
        check_stage(stage, world, clip=0.0)
        print(f"stage {stage} agrees", flush=True)
        check_bf16(stage, world)


def offloads(world: int) -> None:
    for stage, offload in ((1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")):
        for clip in (0.5, 0.0):
            check_stage(stage, world, clip, offload=offload)
        check_bf16(stage, world, offload=offload)
        print(f"stage {stage} with {offload} offloaded agrees", flush=True)


def state_spaces(world: int) -> None:
    for stage in range(4):
        check_state_space(stage, world)
        print(f"stage {stage} keeps its state space", flush=True)


CHECKS = {"stages": stages, "offload": offloads, "state-space": state_spaces}


def main() -> None:
    rank, world, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_RANK"] = str(rank)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    CHECKS[sys.argv[4]](world)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # now and then a thread of gloo's outlives the interpreter and aborts it, all checks done


if __name__ == "__main__":
    main()
