"""Trials on Ray Tune: as many at a time as the cluster has room for, under one parent run in MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray import tune
from tqdm import tqdm

from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.tracking.courier import UnusableError
from ssmttm.tracking.mlflow_run import MlflowRun, read_note
from ssmttm.training.ray_launch import connect

Space = Callable[[Config], list[dict[str, Any]]]


class Progress:
    """A bar over trials, with a line for each that ends."""

    def __init__(self, name: str, total: int):
        self._bar = tqdm(desc=name, total=total, unit="trial", mininterval=1.0)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune copies its callbacks into its notes; a bar is no part of those

    def done(self, line: str) -> None:
        tqdm.write(line)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _parent(config: Config, out: str) -> MlflowRun | None:
    """The MLflow run that the trials belong to, found again when a study goes on. Made here, so that trials do not race
    to make one database. None without tracking."""
    if not config.tracking.enabled:
        return None
    try:
        return MlflowRun(config, out.rstrip("/").rsplit("/", 1)[-1], out, lambda: None)
    except UnusableError as error:
        print(f"warning: MLflow is not used: {error}", flush=True)
        return None


def run_trials(
    trainable: Callable[[dict[str, Any]], None],
    space: Space,
    config: Config,
    out: str,
    callbacks: list[tune.Callback],
    scheduler: Any = None,
) -> tune.ResultGrid:
    """Run `trainable` on each entry of the space, and wait for all.

    Args:
        space: the entries, given the configuration with the trials' tracking in it.
        config: `train.cpus_per_worker` and `train.use_gpu` are what one trial takes.
        out: folder or URI for Tune's own notes, which a rerun replaces.
        scheduler: may stop trials early; default: none is stopped.

    Raises:
        UserError: if the cluster has no room for a single trial.
    """
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the first reports hold no validation loss
    connect()
    import ray

    resources = {"cpu": config.train.cpus_per_worker, "gpu": 1.0 if config.train.use_gpu else 0.0}
    there = ray.cluster_resources()
    room = min(there.get(name.upper(), 0.0) // each for name, each in resources.items() if each)
    if room < 1:
        raise UserError(
            f"a trial takes {resources['cpu']:g} CPUs and {resources['gpu']:g} GPUs, the cluster has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; set train.cpus_per_worker or train.use_gpu"
        )
    parent = _parent(config, out)
    note = read_note(out) if parent is not None else None
    tracking = {"enabled": note is not None, "parent": note["run_id"] if note else None}
    configured = config.model_copy(update={"tracking": config.tracking.model_copy(update=tracking)})
    results = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"trial": tune.grid_search(space(configured))},
        tune_config=tune.TuneConfig(max_concurrent_trials=int(room), scheduler=scheduler),
        run_config=tune.RunConfig(name="tune", storage_path=out, callbacks=callbacks, verbose=0),
    ).fit()
    if parent is not None:
        with suppress(Exception):  # a server that is away costs no results
            parent.item("status", "FINISHED")
    return results
