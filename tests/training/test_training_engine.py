from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_worker import build, step

from ssmttm.config import TrainConfig
from ssmttm.training.engine import use_bf16


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("trouble", ["nan loss", "nan gradient"])
def test_a_step_that_is_not_finite_changes_nothing(trouble: str) -> None:
    engine = build(TrainConfig(precision="fp32", ema=0.9), world=1, deepspeed=False)
    step(engine, 0)
    model, optimizer = engine.model_state(), engine.optimizer_state()
    assert step(engine, 1, trouble) is None
    assert all(torch.equal(value, model[name]) for name, value in engine.model_state().items())
    assert all(torch.equal(value, optimizer[name]) for name, value in engine.optimizer_state().items())
    assert step(engine, 2) is not None


def test_average_is_held_and_given_back() -> None:
    engine = build(TrainConfig(precision="fp32", ema=0.9), world=1, deepspeed=False)
    before = engine.model_state()
    step(engine, 0)
    now = engine.model_state()
    with engine.averaged():
        for name, value in engine.model_state().items():
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * now[name])
    assert all(torch.equal(value, now[name]) for name, value in engine.model_state().items())


def test_restored_optimizer_continues_bit_for_bit() -> None:
    config = TrainConfig(precision="fp32")
    engine = build(config, 1, False)
    step(engine, 0)
    other = build(config, 1, False)
    other.model.load_state_dict(engine.model_state())
    other.load_optimizer_state(engine.optimizer_state())
    for number in (1, 2):
        step(engine, number)
        step(other, number)
    assert all(torch.equal(value, engine.model_state()[name]) for name, value in other.model_state().items())


def test_autocast_keeps_parameters_in_fp32() -> None:
    engine = build(TrainConfig(precision="bf16"), 1, False)
    step(engine, 0)
    assert all(value.dtype == torch.float32 for value in engine.model_state().values())


def test_precision_is_what_was_asked_for() -> None:
    assert use_bf16(TrainConfig(precision="bf16"))
    assert not use_bf16(TrainConfig(precision="fp32"))


def run_checks(kind: str) -> str:
    """What the first of two workers of engine_worker.py says, once both have passed."""
    port = free_port()
    workers = [
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name("engine_worker.py"), str(rank), "2", port, kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=560)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-3000:]
    return outputs[0]


def test_deepspeed_on_two_workers_agrees_with_plain_torch() -> None:
    """Every ZeRO stage: parameters, moments, averages, skipped steps; and bf16 leaves parameters fp32."""
    assert "stage 3 agrees" in run_checks("stages")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_offload_on_two_workers_agrees_with_plain_torch() -> None:
    """The same with moments, and with parameters, in the machine's memory. Here that is where all of it is, so
    what is tested is DeepSpeed's other path, not the way to a GPU and back."""
    assert "stage 3 with parameters offloaded agrees" in run_checks("offload")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_state_space_stays_fp32_and_undecayed_at_every_stage() -> None:
    """`A_log`, `D` and `dt_bias` of a real model, trained in bf16 on two workers."""
    assert "stage 3 keeps its state space" in run_checks("state-space")
