"""Trials on Ray Tune: as many at a time as the cluster has room for, under one parent run in MLflow."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ray import tune
from tqdm import tqdm

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.lease import Process
from ssmttm.tokens.read import read_dataset_info
from ssmttm.tracking.mlflow_run import MlflowRun, read_note
from ssmttm.training.launch import connect
from ssmttm.training.run import check_dataset
from tuning.table import Row
from tuning.trial import run_trial, sized


class TrialBar:
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


def trial_config(config: Config, out: str) -> Config:
    """The configuration that trials share: runs under `out`, and the codec that the token shards name. A relative path
    means something else on Tune's workers, so what the shards fit is checked here.

    Raises:
        UserError: if there are no finished shards, or another codec or text encoder made them.
    """
    dataset = read_dataset_info(config.train.data)
    check_dataset(config, dataset)
    train = config.train.model_copy(update={"out": storage.join(out, "trials")})
    codec = config.codec.model_copy(update={"path": dataset["codec"]["uri"]})
    return config.model_copy(update={"train": train, "codec": codec})


def _parent(config: Config, out: str) -> MlflowRun | None:
    """The MLflow run that the trials belong to, found again when a study goes on. Made here, so that trials do not race
    to make one database. None without tracking, or where MLflow cannot be reached: no study fails for that."""
    if not config.tracking.enabled:
        return None
    try:
        return MlflowRun(config, out.rstrip("/").rsplit("/", 1)[-1], out, lambda: None)
    except Exception as error:  # every client raises its own
        print(f"warning: trials are not tracked: {' '.join(str(error).split())[:200]}", flush=True)
        return None


def run_trials(rows: list[Row], config: Config, out: str, keeper: tune.Callback, scheduler: Any = None) -> None:
    """Train one trial for each row, and wait for all.

    Args:
        config: what the trials share; `train.cpus_per_worker` and `train.use_gpu` are what one of them takes.
        out: folder or URI of the study.
        keeper: hears how each trial ends.
        scheduler: may stop trials early; default: none is stopped.

    Raises:
        UserError: see `trial_config`; also if the cluster has no room for a single trial.
    """
    config = trial_config(config, out)
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
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update=tracking)})
    own = asdict(Process.own())
    space = [{"row": asdict(row), "config": sized(config, row).model_dump(mode="json"), "study": own} for row in rows]
    tune.Tuner(
        tune.with_resources(run_trial, resources),
        param_space={"trial": tune.grid_search(space)},
        tune_config=tune.TuneConfig(max_concurrent_trials=int(room), scheduler=scheduler),
        run_config=tune.RunConfig(name="tune", storage_path=out, callbacks=[keeper], verbose=0),
    ).fit()
    if parent is not None:
        with suppress(Exception):  # a server that is away costs no results
            parent.item("status", "FINISHED")
