"""The cluster of machines is one that Ray accepts, with the properties its comments promise."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml
from cluster_files import CLUSTER, check_ray_start


@pytest.fixture
def vm_cluster() -> dict[str, Any]:
    """As `ray up` reads it: defaults filled in and checked against Ray's own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text()))
    validate_config(prepared)
    return prepared


def test_ray_refuses_an_unknown_key_of_the_vm_cluster(vm_cluster: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config({**vm_cluster, "max_wokers": 1})


def test_machines(vm_cluster: dict[str, Any]) -> None:
    types = vm_cluster["available_node_types"]
    head = types[vm_cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"], "a cluster dies with its head"
    workers = {name: one for name, one in types.items() if one is not head}
    for one in workers.values():
        assert one["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert one["node_config"]["IamInstanceProfile"] != head["node_config"]["IamInstanceProfile"]
    for one in types.values():
        assert one["node_config"]["SecurityGroupIds"]  # Ray's own opens port 22 to everyone
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert "KeyName" not in one["node_config"]
    assert sum(one["max_workers"] for one in workers.values()) == vm_cluster["max_workers"]
    # Nothing is paid for while nothing runs: training waits at a head alone, which `ray up` labels.
    assert [one["min_workers"] for one in workers.values()] == [0, 0]
    (gpu,) = (one for one in workers.values() if "GPU" in one["resources"])
    assert gpu["docker"]["worker_image"].endswith("-cuda")


def test_machines_ask_for_the_token(vm_cluster: dict[str, Any]) -> None:
    assert vm_cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in vm_cluster[key] if "ray start" in command)
        assert start.startswith("RAY_AUTH_MODE=token ")
        check_ray_start(shlex.split(start)[3:])
    assert "--dashboard-host=127.0.0.1" in " ".join(vm_cluster["head_start_ray_commands"])
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert vm_cluster[key] == [], "Ray's defaults would install another Ray"
