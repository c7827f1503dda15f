"""Training across Ray nodes that are as separate as one machine allows; one of them is taken away in mid-run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_nodes

from ssmttm import config, storage
from ssmttm.training.launch import train
from ssmttm.training.run import Run
from ssmttm.training.writer import read_rows

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ("stage1.dropout=0", "stage1.token_dropout=0", "tracking.enabled=false", "train.steps=120")
SETTINGS += ("train.checkpoint_every=5", "train.validate_every=120", "train.log_every=5")


@pytest.fixture
def nodes() -> Iterator[ray_nodes.Nodes]:
    if not ray_nodes.possible():
        pytest.skip("network namespaces need root and iproute2")
    made = ray_nodes.Nodes()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_is_lost_and_the_numbers_are_those_of_an_undisturbed_run(
    nodes: ray_nodes.Nodes, tiny_tokens: str, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        nodes.start(number, cpus=1)
        nodes.wait(number)
    run = Run(str(tmp_path / "shared" / "stage1"))
    # One worker fills more than half of a node, so two workers stand on two nodes.
    job = [sys.executable, str(ROOT / "jobs" / "train_stage1.py"), "--preset", "tiny"]
    job += [f"train.data=file://{tiny_tokens}", f"train.out=file://{tmp_path}/shared", *SETTINGS]
    job += ["train.workers=2", "train.cpus_per_worker=0.6", "train.zero=1", "train.max_failures=3"]
    process = subprocess.Popen(
        [*nodes.inside(1), *job],
        env={**nodes.environment, "RAY_ADDRESS": nodes.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    saved = Path(run.path("checkpoints", "step-000010", "checkpoint.json"))
    deadline = time.monotonic() + 240
    while not saved.exists():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    working = [number for number in (1, 2, 3) if nodes.running(number, "RayTrainWorker")]
    assert len(working) == 2
    nodes.kill(working[-1])
    assert not storage.exists(run.summary)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-4000:]
    assert "continuing from step" in output
    left = [number for number in (1, 2, 3) if number != working[-1]]
    assert all(nodes.running(number, "raylet") for number in left)
    fixed = [f"train.data={tiny_tokens}", f"train.out={tmp_path}", "train.launch=local", "train.name=undisturbed"]
    alone = train(config.load("tiny", [*fixed, *SETTINGS], job="stage1"), "stage1")
    rows, expected = read_rows(run.metrics), read_rows(alone.metrics)
    assert [row["step"] for row in rows] == list(range(1, 121)) == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        # Rounding, which differs with the number of workers, grows over the steps.
        assert row["loss"] == pytest.approx(other["loss"], rel=2e-3), row["step"]
