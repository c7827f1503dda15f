"""Start a run: in this process with plain torch, or on Ray workers with DeepSpeed."""

from __future__ import annotations

import time

import torch

from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.budget import check_budget, decided
from ssmttm.training.deepspeed_config import base_config
from ssmttm.training.engine import TorchEngine, tune_allocator
from ssmttm.training.listener import Listener, Listeners
from ssmttm.training.run import Run, prepare, run_of
from ssmttm.training.schedule import batch_shape
from ssmttm.training.session import sigterm_flag, tracking
from ssmttm.training.signals import TrainingStoppedError
from ssmttm.training.stages import StageName, make_task
from ssmttm.training.startup import StartUp
from ssmttm.training.trainer import Trainer

EXIT_STOPPED = 143  # 128 + SIGTERM, as a shell reports it


def train(config: Config, stage: StageName, listener: Listener | None = None) -> Run:
    """Train a stage to the end, continuing what an earlier start of the same run left. A finished run is left
    as it is.

    Args:
        listener: hears what the tracker hears; in process only (`train.launch=local`).

    Raises:
        UserError: for settings, data or a run name that cannot be used.
        SystemExit: with code 143 after SIGTERM, once a checkpoint is written.
    """
    startup = StartUp(time.time())
    check_launch(config.train)
    config = decided(config, stage)
    run = prepare(config, stage)
    if run is None:
        done = run_of(config, stage)
        print(f"{stage} is already finished: {done.summary}", flush=True)
        return done
    startup.over("checks")
    try:
        if config.train.launch == "local":
            train_locally(config, stage, run, startup, listener)
        else:
            from ssmttm.training.ray_launch import train_on_ray

            train_on_ray(config, stage, run, startup)
    except TrainingStoppedError as stopped:
        print(str(stopped), flush=True)
        raise SystemExit(EXIT_STOPPED) from None
    return run


def check_launch(config: TrainConfig) -> None:
    """Refuse what would otherwise fail only on the workers.

    Raises:
        UserError: for a batch that cannot be divided, for settings that DeepSpeed would not get or take, or for
            `init_without` without `init`.
    """
    batch_shape(config, config.workers)
    check_budget(config)
    if config.launch == "local" and (config.offload != "none" or config.deepspeed is not None):
        key = "deepspeed" if config.offload == "none" else "offload"
        raise UserError(f"train.{key}={getattr(config, key)} is for DeepSpeed, and train.launch=local is plain torch")
    if config.init_without and config.init is None:
        raise UserError("train.init_without leaves modules out of train.init, and there is none; set it, or neither")
    base_config(config)


def train_locally(
    config: Config, stage: StageName, run: Run, startup: StartUp, listener: Listener | None = None
) -> None:
    """One process of plain torch, with as many threads as the configured workers have CPUs together."""
    tune_allocator()
    torch.set_num_threads(max(1, int(config.train.workers * config.train.cpus_per_worker)))
    with sigterm_flag() as stop, tracking(config, stage, run) as tracker:
        task = make_task(stage, config)
        startup.over("data")
        Trainer(
            task,
            run,
            lambda module, groups, average: TorchEngine(module, groups, config.train, average),
            listener=tracker if listener is None else Listeners(tracker, listener),
            stop_requested=stop.is_set,
            startup=startup,
        ).fit()
