"""What is checked and set up before a run begins, here and on a cluster, and the times that this takes."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from ssmttm import config
from ssmttm.errors import UserError
from ssmttm.training import launch
from ssmttm.training.launch import NODE_GROUP, check_cluster, train
from ssmttm.training.session import StartUp

MakeConfig = Callable[..., config.Config]
SHARED = ("train.data=s3://b/d", "train.out=file:///shared", "tracking.uri=http://tracking:5000")


def settings(*overrides: str) -> config.Config:
    return config.load("tiny", ["train.workers=2", "train.data=/d", "train.out=/o", *overrides])


def node(cpus: float, gpus: float = 0, group: str | None = None, alive: bool = True) -> dict[str, Any]:
    """As `ray.nodes()` lists it: what a node has none of is not among its resources."""
    resources = {name: value for name, value in (("CPU", cpus), ("GPU", gpus)) if value}
    labels = {"ray.io/node-id": "ab12", **({NODE_GROUP: group} if group else {})}
    return {"Alive": alive, "Resources": {"memory": 1e9, **resources}, "Labels": labels}


def test_one_node_started_by_hand_must_hold_all_workers() -> None:
    with pytest.raises(UserError, match=r"train\.workers=2 x train\.cpus_per_worker=1 needs 2 CPUs, Ray has 1 here"):
        check_cluster(settings(), [node(1)])
    with pytest.raises(UserError, match=r"train\.workers=2 x train\.use_gpu=true needs 2 GPUs, Ray has 1 here"):
        check_cluster(settings("train.use_gpu=true"), [node(8, gpus=1)])
    assert check_cluster(settings(), [node(2), node(1, alive=False)]) == ""
    assert check_cluster(settings("train.use_gpu=true"), [node(2, gpus=2)]) == ""


def test_several_nodes_must_share_what_is_read_and_written() -> None:
    nodes = [node(1), node(1)]
    with pytest.raises(UserError, match=r"train\.data=/d is on one node's disk and the cluster has 2 nodes"):
        check_cluster(settings(), nodes)
    with pytest.raises(UserError, match=r"train\.out=/o is on one node's disk"):
        check_cluster(settings(*SHARED, "train.out=/o"), nodes)
    with pytest.raises(UserError, match=r"train\.deepspeed=/d\.json is on one node's disk"):
        check_cluster(settings(*SHARED, "train.deepspeed=/d.json"), nodes)
    with pytest.raises(UserError, match=r"train\.resume=/runs/a is on one node's disk"):
        check_cluster(settings(*SHARED, "train.resume=/runs/a"), nodes)
    assert check_cluster(settings(*SHARED, "train.resume=never"), nodes) == ""
    with pytest.raises(UserError, match=r"tracking\.uri"):
        check_cluster(settings(*SHARED[:2]), nodes)
    assert check_cluster(settings(*SHARED), nodes) == ""
    assert check_cluster(settings(*SHARED), [node(0.5), node(0.5)]).endswith("needs 2 CPUs, Ray has 1")


@pytest.mark.parametrize("head", [node(0, group="head"), node(1, group="headgroup")])
def test_a_lone_head_that_was_launched_waits_for_machines(head: dict[str, Any]) -> None:
    """What it has none of, others are added for: on these the rules of several nodes hold from the start."""
    assert "needs 2 CPUs, Ray has" in check_cluster(settings(*SHARED), [head])
    with pytest.raises(UserError, match=r"train\.data=/d is on one node's disk and workers will be on nodes yet to be"):
        check_cluster(settings(), [head])
    with pytest.raises(UserError, match=r"tracking\.uri"):
        check_cluster(settings(*SHARED[:2]), [head])


def test_a_launched_head_that_is_large_enough_needs_nobody() -> None:
    assert check_cluster(settings(), [node(2, group="headgroup")]) == ""
    waits = check_cluster(settings(*SHARED, "train.use_gpu=true"), [node(2, group="headgroup")])
    assert waits == "train.workers=2 x train.use_gpu=true needs 2 GPUs, Ray has 0"


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


def test_ray_workers_get_our_handler_after_their_own_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the hooks that Ray documents for backends; none of its internals is named."""
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    noticing_config, calls = launch._noticing_config(), []
    assert isinstance(noticing_config, TorchConfig)
    assert issubclass(noticing_config.backend_cls, Backend)
    assert issubclass(noticing_config.backend_cls, TorchConfig().backend_cls)

    class Workers:
        def execute(self, function: Callable[[], None]) -> None:
            calls.append(function)

    noticing_config.backend_cls().on_training_start(Workers(), noticing_config)
    assert calls == [launch._replace_handler]


def test_only_the_first_notice_while_training_is_ours() -> None:
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        launch._replace_handler()
        signal.raise_signal(signal.SIGTERM)
        assert len(ended) == 1  # not training yet
        with launch.noticing() as noticed:
            assert not noticed.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert noticed.is_set()
            assert len(ended) == 1
            signal.raise_signal(signal.SIGTERM)
        assert len(ended) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
        launch._noticed.clear()
