"""Training on Ray workers: Ray Train starts and restarts them, DeepSpeed joins them, our checkpoints carry the run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

from ssmttm import storage
from ssmttm.config import Config, from_dict
from ssmttm.errors import UserError
from ssmttm.training.budget import decided
from ssmttm.training.cluster import check_cluster
from ssmttm.training.deepspeed_config import deepspeed_config
from ssmttm.training.engine import Engine, LossModule, State, tune_allocator
from ssmttm.training.preemption import notice_callback, noticing
from ssmttm.training.run import Run
from ssmttm.training.schedule import batch_shape
from ssmttm.training.session import sigterm_flag, tracking
from ssmttm.training.signals import DivergedError, PreemptedError, TrainingStoppedError
from ssmttm.training.stages import StageName, make_task
from ssmttm.training.startup import StartUp
from ssmttm.training.trainer import Trainer

STOP_CHECK_SECONDS = 2.0


def connect() -> None:
    """Attach to the cluster that RAY_ADDRESS names (inside a submitted job, its own), else start one here."""
    import ray

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # report() waits one interval; default 2 s
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every progress line is shown twice
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        # An http address is that of the job server, which `ray job submit` reads from the same variable.
        ray.init(address="local" if not address or address.startswith("http") else address)


class StopFile:
    """How the driver asks the workers to stop: a file in the run's folder, looked for every other second."""

    def __init__(self, run: Run):
        self._uri = run.path("stop")

    def ask(self) -> None:
        storage.write_text(self._uri, "")

    def clear(self) -> None:
        storage.remove_tree(self._uri)

    @contextmanager
    def watched(self) -> Iterator[threading.Event]:
        """An event that is set once the file is there. A thread of its own looks for it: storage that is slow or away
        for a while must not hold training up."""
        found, done = threading.Event(), threading.Event()

        def watch() -> None:
            while not found.is_set() and not done.wait(STOP_CHECK_SECONDS):
                with suppress(Exception):  # each storage library raises its own
                    if storage.exists(self._uri):
                        found.set()

        threading.Thread(target=watch, name="stop-file", daemon=True).start()
        try:
            yield found
        finally:
            done.set()


def _engine_factory(config: Config) -> Callable[[LossModule, list[dict[str, Any]], State | None], Engine]:
    def make(module: LossModule, groups: list[dict[str, Any]], average: State | None) -> Engine:
        from ssmttm.training.deepspeed_engine import DeepSpeedEngine

        shape = batch_shape(config.train, torch.distributed.get_world_size())
        return DeepSpeedEngine(module, groups, config.train, shape, average)

    return make


def _worker(arguments: dict[str, Any]) -> tuple[str, str]:
    """What each Ray Train worker runs. Ends that a restart could not mend are returned, not raised."""
    import ray.train

    stage, run = arguments["stage"], Run(arguments["run"])
    config = decided(from_dict(arguments["config"]), stage)  # perhaps since this fit began
    startup = StartUp(**arguments["startup"])
    startup.over("workers")
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # a line for every report
    tune_allocator()
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    first = ray.train.get_context().get_world_rank() == 0
    try:
        if first:
            shape = batch_shape(config.train, config.train.workers)
            storage.write_json(run.path("deepspeed.json"), deepspeed_config(config.train, shape))
        with (
            noticing() as preempted,
            StopFile(run).watched() if first else nullcontext(threading.Event()) as stop,
            tracking(config, stage, run) if first else nullcontext() as tracker,
        ):
            task = make_task(stage, config)
            startup.over("data")
            Trainer(
                task,
                run,
                _engine_factory(config),
                listener=tracker,
                report=ray.train.report,
                stop_requested=stop.is_set,
                preempted=preempted.is_set,
                startup=startup,
            ).fit()
    except TrainingStoppedError as stopped:
        return "stopped", str(stopped)
    except PreemptedError as notice:  # raised on: Ray Train starts all workers again
        if first:
            print(str(notice), flush=True)
        raise
    except DivergedError as error:
        return "diverged", str(error)
    except UserError as error:
        return "refused", str(error)
    return "finished", ""


def train_on_ray(config: Config, stage: StageName, run: Run, startup: StartUp) -> None:
    """Train on `train.workers` Ray workers, which are restarted from the newest checkpoint up to
    `train.max_failures` times.

    Raises:
        UserError: see `check_cluster`.
        TrainingStoppedError: after SIGTERM, once a checkpoint is written.
        DivergedError: after `train.max_skipped` non-finite steps in a row.
    """
    connect()
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    lacking = check_cluster(config, ray.nodes())
    if lacking:
        print(f"waiting for machines: {lacking} so far", flush=True)
    train = config.train
    stop = StopFile(run)
    stop.clear()
    # Ray's own notes about a run must not outlive a fit: what to resume from is our checkpoints' business.
    storage.remove_tree(run.path("ray"))
    startup.over("cluster")
    resources = {"CPU": train.cpus_per_worker, **({"GPU": 1.0} if train.use_gpu else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "stage": stage,
            "run": run.uri,
            "startup": vars(startup),
        },
        scaling_config=ScalingConfig(num_workers=train.workers, use_gpu=train.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray",
            failure_config=FailureConfig(max_failures=train.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[notice_callback()],
            **_place(run),
        ),
    )
    with sigterm_flag(stop.ask):
        outcome, message = trainer.fit().return_value
    if outcome == "stopped":
        raise TrainingStoppedError(message)
    if outcome == "refused":
        raise UserError(message)
    if outcome == "diverged":
        raise DivergedError(message)


def _place(run: Run) -> dict[str, Any]:
    """Where Ray Train keeps its notes, as its RunConfig wants it."""
    if not storage.is_remote(run.uri):
        return {"storage_path": storage.local_path(run.uri)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = storage.filesystem(run.uri)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}
