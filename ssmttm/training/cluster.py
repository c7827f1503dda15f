"""Whether a Ray cluster can train a configuration: now, or once the machines that it lacks have been added.

Plain data in, plain data out: nothing here imports Ray.
"""

from __future__ import annotations

from typing import Any

from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError

# Ray labels a node with the group that its launcher (`ray up`, KubeRay) keeps it in; `ray start` and `ray.init` by hand
# set no such label. Ray 2.60 tells no more of an autoscaler: `get_cluster_config()` of its state stays empty.
NODE_GROUP = "ray.io/node-group"


def launched(nodes: list[dict[str, Any]]) -> bool:
    """Whether a launcher keeps these nodes in groups, to which it can add machines."""
    return any(NODE_GROUP in node.get("Labels", {}) for node in nodes)


def lacking(train: TrainConfig, nodes: list[dict[str, Any]]) -> str:
    """What all workers need at once and the nodes do not have, in words; empty if there is enough."""
    needed = {"CPU": (train.cpus_per_worker, f"train.cpus_per_worker={train.cpus_per_worker:g}")}
    if train.use_gpu:
        needed["GPU"] = (1.0, "train.use_gpu=true")
    for name, (each, setting) in needed.items():
        present = sum(node["Resources"].get(name, 0) for node in nodes)
        if train.workers * each > present:
            total = train.workers * each
            return f"train.workers={train.workers} x {setting} needs {total:g} {name}s, Ray has {present:g}"
    return ""


def check_cluster(config: Config, nodes: list[dict[str, Any]]) -> str:
    """Refuse what would fail only later, on the workers.

    Args:
        nodes: as `ray.nodes()` lists them.

    Returns:
        What is lacking so far, for which the workers will wait; empty if they can start.

    Raises:
        UserError: if the only node is too small and nobody would add others, or several nodes would not share what is
            read and written.
    """
    train = config.train
    alive = [node for node in nodes if node["Alive"]]
    missing = lacking(train, alive)
    if missing and len(alive) == 1 and not launched(alive):
        raise UserError(f"{missing} here; use fewer workers")
    if len(alive) < 2 and not missing:
        return ""
    place = f"the cluster has {len(alive)} nodes" if len(alive) > 1 else "workers will be on nodes yet to be added"
    for key, facts in TrainConfig.facts().items():
        uri = getattr(train, key)
        if facts.is_path and uri not in (None, *facts.words) and "://" not in uri:
            raise UserError(
                f"train.{key}={uri} is on one node's disk and {place}; use s3://..., or file://{uri} for a mount that "
                "all nodes share"
            )
    if config.tracking.enabled and config.tracking.uri is None:
        raise UserError("a cluster of several nodes needs tracking.uri, an MLflow server (or tracking.enabled=false)")
    return missing
