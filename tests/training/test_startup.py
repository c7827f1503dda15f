from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from ssmttm.config import Config
from ssmttm.training.launch import train
from ssmttm.training.session import StartUp

MakeConfig = Callable[..., Config]


def test_parts_follow_one_another_and_add_up() -> None:
    driver = StartUp(time.time() - 10, {"imports": 4.0})
    driver.ended("cluster")
    assert driver.parts["cluster"] == pytest.approx(6, abs=0.5)
    worker = StartUp(**vars(driver))  # as it is sent
    worker.ended("workers")
    assert "workers" not in driver.parts
    assert str(worker) == "first step after 10.0 s (imports 4.0, cluster 6.0, workers 0.0)"


def test_a_run_says_once_what_came_before_its_first_step(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_config("stage1", "train.steps=3", "train.validate_every=3", "train.name=told")
    train(settings, "stage1")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("first step after")]
    assert len(lines) == 1
    parts = r"checks [\d.]+, data [\d.]+, model [\d.]+, step [\d.]+"
    assert re.fullmatch(rf"first step after [\d.]+ s \({parts}\)", lines[0])
