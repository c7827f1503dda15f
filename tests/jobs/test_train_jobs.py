"""The training jobs as a user starts them, and the same runs on Ray workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssmttm import config, storage
from ssmttm.training.launch import train
from ssmttm.training.run import Run
from ssmttm.training.writer import read_rows

ROOT = Path(__file__).parent.parent.parent
# Dropout is keyed by worker: without it, runs on different numbers of workers can be compared.
COMPARABLE = ("stage1.dropout=0", "stage1.token_dropout=0", "tracking.enabled=false")
LONG = (*COMPARABLE, "train.steps=60", "train.checkpoint_every=5", "train.validate_every=60", "train.log_every=5")
ON_RAY = ("train.launch=ray", "train.workers=2", "train.cpus_per_worker=0.5")


def command(stage: str, tokens: str, out: Path, *overrides: str) -> list[str]:
    job = str(ROOT / "jobs" / f"train_{stage}.py")
    return [sys.executable, job, "--preset", "tiny", f"train.data={tokens}", f"train.out={out}", *overrides]


def run_local(tokens: str, out: Path, *overrides: str, name: str = "local") -> Run:
    fixed = [f"train.data={tokens}", f"train.out={out}", f"train.name={name}", "train.launch=local"]
    return train(config.load("tiny", [*fixed, *overrides], job="stage1"), "stage1")


def assert_same_numbers(run: Run, reference: Run, tolerance: float = 1e-4) -> None:
    rows, expected = read_rows(run.metrics), read_rows(reference.metrics)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=tolerance), row["step"]
        assert row["tokens"] == other["tokens"]


def test_bad_input_ends_in_one_line_and_code_2(tmp_path: Path) -> None:
    result = subprocess.run(
        command("stage1", str(tmp_path / "none"), tmp_path), capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds no finished token shards" in result.stderr


SLOW = [(0, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "parameters")]


@pytest.mark.parametrize(
    ("zero", "offload"), [(1, "none"), *(pytest.param(*settings, marks=pytest.mark.slow) for settings in SLOW)]
)
def test_two_ray_workers_give_the_numbers_of_one_process(
    ray_cluster: dict[str, Any], tiny_tokens: str, tmp_path: Path, zero: int, offload: str
) -> None:
    expected = run_local(tiny_tokens, tmp_path, *COMPARABLE)
    paths = [f"train.data={tiny_tokens}", f"train.out={tmp_path}"]
    overrides = [*paths, f"train.zero={zero}", f"train.offload={offload}", *ON_RAY, *COMPARABLE]
    run = train(config.load("tiny", overrides, job="stage1"), "stage1")
    assert_same_numbers(run, expected)
    summary = storage.read_json(run.summary)
    assert (summary["workers"], summary["zero"]) == (2, zero)
    reference = storage.read_json(expected.summary)["validation"]
    assert {"own", "shuffled", "null"} <= reference.keys()
    assert summary["validation"] == pytest.approx(reference, rel=1e-4)
    told = storage.read_json(run.path("deepspeed.json"))["zero_optimization"]
    assert (told["stage"], "offload_param" in told) == (zero, offload == "parameters")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_TMPDIR": "/tmp"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.slow
def test_sigterm_saves_and_the_next_start_goes_on(tiny_tokens: str, tmp_path: Path) -> None:
    arguments = command("stage1", tiny_tokens, tmp_path / "stopped", "train.launch=local", *LONG)
    first = start(arguments)
    wait_for(tmp_path / "stopped" / "stage1" / "checkpoints" / "step-000010" / "checkpoint.json", first)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 143, output
    assert "checkpoint saved" in output
    second = start(arguments)
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert "continuing from step" in output
    assert_same_numbers(Run(str(tmp_path / "stopped" / "stage1")), run_local(tiny_tokens, tmp_path, *LONG))


def ray_workers(job: subprocess.Popen[str]) -> list[Any]:
    import psutil

    workers = [p for p in psutil.Process(job.pid).children(recursive=True) if "RayTrainWorker" in p.name()]
    assert len(workers) == 2
    return workers


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("victim", "zero"), [("driver", 2), ("worker", 0), ("worker", 1), ("worker", 2), ("worker", 3)]
)
def test_killed_on_ray_it_ends_with_the_undisturbed_numbers(
    tiny_tokens: str, tmp_path: Path, victim: str, zero: int
) -> None:
    run = Run(str(tmp_path / "killed" / "stage1"))
    arguments = command("stage1", tiny_tokens, tmp_path / "killed", *ON_RAY, *LONG, f"train.zero={zero}")
    job = start(arguments)
    wait_for(Path(run.path("checkpoints", "step-000010", "checkpoint.json")), job)
    if victim == "driver":
        job.kill()
        job.communicate()
        assert not storage.exists(run.summary)
        job = start(arguments)
    else:
        ray_workers(job)[zero % 2].kill()
    output, _ = job.communicate(timeout=400)
    assert job.returncode == 0, output[-4000:]
    assert "continuing from step" in output
    # Rounding, which differs with the number of workers, grows over the steps.
    assert_same_numbers(run, run_local(tiny_tokens, tmp_path, *LONG), tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_told_that_it_will_be_taken_away_loses_no_step(tiny_tokens: str, tmp_path: Path) -> None:
    """SIGTERM to one of two workers: a checkpoint at that step, both start again, and go on from that very step."""
    run = Run(str(tmp_path / "preempted" / "stage1"))
    rare = (*LONG, "train.checkpoint_every=1000", "train.steps=120", "train.validate_every=120", "train.log_every=1")
    job = start(command("stage1", tiny_tokens, tmp_path / "preempted", *ON_RAY, *rare, "train.zero=1"))
    wait_for(Path(run.metrics), job)
    while len(read_rows(run.metrics)) < 5:
        time.sleep(0.05)
    ray_workers(job)[1].send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=400)
    assert job.returncode == 0, output[-4000:]
    told = re.search(r"a worker is about to be taken away: stopped at step (\d+), checkpoint saved", output)
    assert told, output[-4000:]
    assert f"continuing from step {told[1]}\n" in output
    assert_same_numbers(run, run_local(tiny_tokens, tmp_path, *rare), tolerance=1e-2)
