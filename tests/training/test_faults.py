"""Workers killed, added, taken away or fed with what is not a number: the numbers of a run stay what they were."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssmttm.config import Config
from ssmttm.training.launch import EXIT_STOPPED, make_task, train
from ssmttm.training.order import SampleOrder
from ssmttm.training.run import prepare, run_of
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
STEPS = 50
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# Dropout is keyed by worker: without it, runs on different numbers of workers can be compared.
LONG = (f"train.steps={STEPS}", "train.checkpoint_every=7", "train.validate_every=25", "train.log_every=5")
COMPARABLE = (*LONG, "stage1.dropout=0", "stage1.token_dropout=0")


def run_workers(config: Config, folder: Path, world: int, *wishes: tuple[int, str]) -> list[int]:
    """Exit codes of `world` workers; `wishes` are words for one of them. Once one has been killed, so are the others,
    as Ray does it."""
    prepare(config, "stage1")
    file = folder / "worker-config.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    workers = []
    for rank in range(world):
        words = [word for wisher, word in wishes if wisher == rank]
        command = [sys.executable, Path(__file__).with_name("trainer_worker.py"), str(rank), str(world), port, file]
        with open(folder / f"worker-{rank}.log", "w") as log:
            workers.append(subprocess.Popen([*command, *words], stdout=log, stderr=subprocess.STDOUT))
    try:
        victims = [wisher for wisher, word in wishes if word.startswith("die")] or range(world)
        for rank in victims:
            workers[rank].wait(timeout=240)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    codes = [worker.returncode for worker in workers]
    unexpected = [code for code in codes if code not in (0, EXIT_STOPPED, -signal.SIGKILL)]
    assert not unexpected, "\n".join((folder / f"worker-{rank}.log").read_text()[-2000:] for rank in range(world))
    return codes


def figures(config: Config) -> list[tuple[Any, ...]]:
    rows = read_rows(run_of(config, "stage1").metrics)
    return [(row["step"], row["loss"], row["lr"], row["grad_norm"], row["tokens"]) for row in rows]


def assert_each_sample_once(config: Config) -> None:
    """Every step is there once, and learnt from exactly the samples that seed and position say."""
    task = make_task("stage1", config)
    order = SampleOrder(len(task.data), config.train.seed)
    rows = read_rows(run_of(config, "stage1").metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        draws = order.global_batch(row["step"] + row["skipped"] - 1, config.train.global_batch)
        assert row["tokens"] == sum(task.count(draw) for draw in draws)


def relative_difference(config: Config, reference: Config) -> float:
    pairs = zip(figures(config), figures(reference), strict=True)
    return max(abs(mine[1] - theirs[1]) / abs(theirs[1]) for mine, theirs in pairs)


@pytest.mark.parametrize("zero", range(4))
def test_killed_worker_costs_nothing_bit_for_bit(make_config: MakeConfig, tmp_path: Path, zero: int) -> None:
    """At each ZeRO stage, dropout included: one of two workers is killed in the middle of a step, and the run starts
    again from its newest checkpoint. Every later figure is the undisturbed run's, to the last bit."""
    settings = (*LONG, "stage1.dropout=0.1", "train.ema=0.9", f"train.zero={zero}", "train.workers=2")
    whole = make_config("stage1", *settings, "train.name=whole")
    assert run_workers(whole, tmp_path, 2) == [0, 0]
    draw = random.Random(zero)
    step, victim = draw.randrange(15, STEPS), draw.randrange(2)  # the save at 14 has waited for that at 7 to be written
    killed = make_config("stage1", *settings, "train.name=killed")
    codes = run_workers(killed, tmp_path, 2, (victim, f"die={step}"))
    assert codes[victim] == -signal.SIGKILL
    assert run_workers(killed, tmp_path, 2) == [0, 0]
    assert "continuing from step" in (tmp_path / "worker-0.log").read_text()
    assert figures(killed) == figures(whole), f"killed worker {victim} at step {step}"
    assert_each_sample_once(killed)


def test_workers_come_and_go_and_zero_stages_change(make_config: MakeConfig, tmp_path: Path) -> None:
    """2 -> 1 -> 2 workers, at three ZeRO stages, with the optimizer's state: the numbers of two undisturbed workers and
    of one process of plain torch, up to rounding."""
    whole = make_config("stage1", *COMPARABLE, "train.name=whole", "train.workers=2", "train.zero=2")
    assert run_workers(whole, tmp_path, 2) == [0, 0]
    assert_each_sample_once(whole)
    parts = [
        ("train.workers=2", "train.zero=2"),
        ("train.workers=1", "train.zero=0"),
        ("train.workers=2", "train.zero=3"),
    ]
    for number, (settings, world, stop) in enumerate(zip(parts, (2, 1, 2), (17, 34, -1), strict=True)):
        asked = (*settings, "train.continue_with=[workers,zero]")
        config = make_config("stage1", *COMPARABLE, "train.name=changing", *asked)
        expected = 0 if number == 2 else EXIT_STOPPED
        assert run_workers(config, tmp_path, world, (0, f"stop={stop}")) == [expected] * world
    assert_each_sample_once(config)
    alone = make_config("stage1", *COMPARABLE, "train.name=alone")
    train(alone, "stage1")
    assert relative_difference(config, whole) < 1e-4
    assert relative_difference(whole, alone) < 1e-4


@pytest.mark.parametrize("zero", range(4))
def test_a_batch_that_is_not_a_number_on_one_worker_is_skipped_on_all(
    make_config: MakeConfig, tmp_path: Path, zero: int
) -> None:
    config = make_config("stage1", *COMPARABLE, f"train.zero={zero}", "train.workers=2")
    assert run_workers(config, tmp_path, 2, (1, "nan=3,4,20")) == [0, 0]
    skipped = [row["skipped"] for row in read_rows(run_of(config, "stage1").metrics)]
    assert skipped == [0] * 3 + [2] * (20 - 5) + [3] * (STEPS - 18)
    assert_each_sample_once(config)
    assert "loss or gradient is not finite, batch skipped" in (tmp_path / "worker-0.log").read_text()
