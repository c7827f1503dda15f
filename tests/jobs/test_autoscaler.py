"""A head without CPUs whose autoscaler starts nodes when they are asked for, as on cloud machines and Kubernetes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_train_jobs import COMPARABLE, assert_same_numbers, command, run_local

from ssmttm.training.run import Run

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster_config(address: str) -> dict[str, Any]:
    """For Ray's provider of pretended machines: raylets on this one. Up to three of a CPU each."""
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    }
    # By its class: the defaults that its name stands for are not in the package.
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    provider = {"type": "external", "module": module, "gcs_address": address, "launch_multiple": True}
    provider |= {"use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True}
    return {
        "cluster_name": "test",
        "max_workers": 3,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": provider,
        "auth": {},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
        **{f"{kind}_setup_commands": [] for kind in ("head", "worker")},
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
    }


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """The environment of its drivers. Started with what `ray up` starts a head with."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    address = f"127.0.0.1:{free_port()}"
    Path(folder, "cluster.json").write_text(json.dumps(cluster_config(address)))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    launched = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
    launched |= {"RAY_NODE_TYPE_NAME": "ray.head.default", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    launched |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    words = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--num-cpus=0", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", f"--temp-dir={folder}"]
    words += [f"--autoscaling-config={folder}/cluster.json", "--object-store-memory=100000000"]
    log = Path(folder, "head.log")
    with log.open("w") as output:
        done = subprocess.run(words, env=environment | launched, stdout=output, stderr=output, timeout=180, check=False)
    try:
        assert done.returncode == 0, log.read_text()
        yield environment | {"RAY_ADDRESS": address}
    finally:
        end_all_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_all_of(folder: str) -> None:
    """Every process started for the cluster that has this folder; Ray's workers end with their raylet."""
    for process in psutil.process_iter(["cmdline"]):
        if folder in " ".join(process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_waits_at_a_head_without_cpus_until_machines_are_there(
    head: dict[str, str], tiny_tokens: str, tmp_path: Path
) -> None:
    options = [*COMPARABLE, "train.workers=2", "train.cpus_per_worker=1"]
    job = command("stage1", f"file://{tiny_tokens}", Path("-"), *options, f"train.out=file://{tmp_path}/shared")
    done = subprocess.run(job, env=head, capture_output=True, text=True, timeout=500, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (
        "waiting for machines: train.workers=2 x train.cpus_per_worker=1 needs 2 CPUs, Ray has 0 so far" in done.stdout
    )
    assert_same_numbers(Run(str(tmp_path / "shared" / "stage1")), run_local(tiny_tokens, tmp_path, *COMPARABLE))


@pytest.mark.slow
def test_what_other_machines_would_not_see_is_refused_before_they_are_asked_for(
    head: dict[str, str], tiny_tokens: str, tmp_path: Path
) -> None:
    job = command("stage1", tiny_tokens, tmp_path, *COMPARABLE, "train.workers=2")
    done = subprocess.run(job, env=head, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
    assert "is on one node's disk and workers will be on nodes yet to be added" in done.stderr
