from __future__ import annotations

from typing import Any

import pytest

from ssmttm import config
from ssmttm.errors import UserError
from ssmttm.training.launch import NODE_GROUP, check_cluster

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
