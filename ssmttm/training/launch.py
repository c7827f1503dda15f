"""Start a run: in this process with plain torch, or on Ray workers with DeepSpeed.

Ray Train starts the workers and restarts them, DeepSpeed joins them, our checkpoints carry the run.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch

from ssmttm import cluster, storage
from ssmttm.config import Config, TrainConfig, from_dict
from ssmttm.errors import UserError
from ssmttm.hardware import tune_allocator
from ssmttm.lease import Process, hold, join
from ssmttm.training.deepspeed_engine import DeepSpeedEngine, base_config, deepspeed_config
from ssmttm.training.engine import Engine, LossModule, State, TorchEngine
from ssmttm.training.order import batch_shape
from ssmttm.training.run import Run, decided, prepare, run_of
from ssmttm.training.schedule import check_budget
from ssmttm.training.session import (
    DivergedError,
    Listener,
    Listeners,
    PreemptedError,
    StartUp,
    TrainingStoppedError,
    sigterm_flag,
    tracking_stage,
)
from ssmttm.training.stage1 import Stage1Task
from ssmttm.training.stage2 import Stage2Task
from ssmttm.training.stage_task import StageName, StageTask
from ssmttm.training.trainer import Trainer

TASKS: dict[StageName, Callable[[Config], StageTask]] = {"stage1": Stage1Task, "stage2": Stage2Task}
EXIT_STOPPED = 143  # 128 + SIGTERM, as a shell reports it
STOP_CHECK_SECONDS = 2.0
# Ray labels a node with the group that its launcher (`ray up`, KubeRay) keeps it in; `ray start` and `ray.init` by hand
# set no such label. Ray 2.60 tells no more of an autoscaler: `get_cluster_config()` of its state stays empty.
NODE_GROUP = "ray.io/node-group"


def make_task(stage: StageName, config: Config) -> StageTask:
    """The task of a stage on the configured token shards.

    Raises:
        UserError: if there are no finished shards.
    """
    return TASKS[stage](config)


def train(config: Config, stage: StageName, listener: Listener | None = None, job: Process | None = None) -> Run:
    """Train a stage to the end, continuing what an earlier start of the same run left. A finished run is left
    as it is.

    Args:
        listener: hears what the tracker hears; in process only (`train.launch=local`).
        job: the process that this one works for, if it is a worker of a study.

    Raises:
        UserError: for settings, data or a run name that cannot be used, one that another job writes to among them.
        SystemExit: with code 143 after SIGTERM, once a checkpoint is written.
    """
    startup = StartUp(time.time())
    check_launch(config.train)
    named = run_of(config, stage)
    with hold(named.uri, "choose another train.name", job) as lease:
        config = decided(config, stage)
        run = prepare(config, stage)
        if run is None:
            print(f"{stage} is already finished: {named.summary}", flush=True)
            return named
        startup.ended("checks")
        try:
            if config.train.launch == "local":
                train_locally(config, stage, replace(run, lease=lease), startup, listener)
            else:
                train_on_ray(config, stage, replace(run, lease=lease), startup)
        except TrainingStoppedError as stopped:
            print(str(stopped), flush=True)
            raise SystemExit(EXIT_STOPPED) from None
    return named


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
    with sigterm_flag() as stop, tracking_stage(config, stage, run) as tracker:
        task = make_task(stage, config)
        startup.ended("data")
        Trainer(
            task,
            run,
            lambda module, groups, average: TorchEngine(module, groups, config.train, average),
            listener=tracker if listener is None else Listeners(tracker, listener),
            stop_requested=stop.is_set,
            startup=startup,
        ).fit()


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
        if facts.is_path and uri not in (None, *facts.words) and not storage.is_uri(uri):
            raise UserError(
                f"train.{key}={uri} is on one node's disk and {place}; use s3://..., or file://{uri} for a mount that "
                "all nodes share"
            )
    if config.tracking.enabled and config.tracking.uri is None:
        raise UserError("a cluster of several nodes needs tracking.uri, an MLflow server (or tracking.enabled=false)")
    return missing


def connect() -> None:
    """Attach to a cluster, see `cluster.connect`, with Ray Train as we use it."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # report() waits one interval; default 2 s
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every progress line is shown twice
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # see `_replace_handler`
    cluster.connect()


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


# The notice that a worker is about to be taken away: SIGTERM, as clouds, Kubernetes and Slurm send it. What
# `ray.train.get_preemption_info` knows are nodes that Ray itself drains, and asking it holds up every worker.
_listening, _noticed = threading.Event(), threading.Event()


def _replace_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        if _listening.is_set() and not _noticed.is_set():
            _noticed.set()
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)


def _noticing_config() -> Any:
    """Ray Train's TorchConfig, which sets our handler on every worker before training begins.

    Python runs signal handlers in a process's main thread alone, where Ray has its own and where no training function
    runs; a backend's set-up does.
    """
    from ray.train.torch import TorchConfig

    backend: Any = TorchConfig().backend_cls

    class NoticingBackend(backend):
        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(_replace_handler)

    class NoticingConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return NoticingBackend

    return NoticingConfig()


@contextmanager
def noticing() -> Iterator[threading.Event]:
    """An event that the first SIGTERM sets while the block runs; one before, after or besides ends the process."""
    _listening.set()
    try:
        yield _noticed
    finally:
        _listening.clear()


def _engine_factory(config: Config) -> Callable[[LossModule, list[dict[str, Any]], State | None], Engine]:
    def make(module: LossModule, groups: list[dict[str, Any]], average: State | None) -> Engine:
        shape = batch_shape(config.train, torch.distributed.get_world_size())
        return DeepSpeedEngine(module, groups, config.train, shape, average)

    return make


@contextmanager
def _joined(uri: str, token: str) -> Iterator[Run]:
    with join(uri, token) as lease:
        yield Run(uri, lease)


def _worker(arguments: dict[str, Any]) -> tuple[str, str]:
    """What each Ray Train worker runs. Ends that a restart could not mend are returned, not raised."""
    import ray.train

    stage, uri = arguments["stage"], arguments["run"]
    config = decided(from_dict(arguments["config"]), stage)  # perhaps since this fit began
    startup = StartUp(**arguments["startup"])
    startup.ended("workers")
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # a line for every report
    tune_allocator()
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    first = ray.train.get_context().get_world_rank() == 0
    try:
        with (
            _joined(uri, arguments["lease"]) if first else nullcontext(Run(uri)) as run,
            noticing() as preempted,
            StopFile(run).watched() if first else nullcontext(threading.Event()) as stop,
            tracking_stage(config, stage, run) if first else nullcontext() as tracker,
        ):
            if first:
                shape = batch_shape(config.train, config.train.workers)
                storage.write_json(run.path("deepspeed.json"), deepspeed_config(config.train, shape))
            task = make_task(stage, config)
            startup.ended("data")
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

    run_config: Any = RunConfig  # its annotations are those of an older version

    lacking = check_cluster(config, ray.nodes())
    if lacking:
        print(f"waiting for machines: {lacking} so far", flush=True)
    train = config.train
    stop = StopFile(run)
    stop.clear()
    # Ray's own notes about a run must not outlive a fit: what to resume from is our checkpoints' business.
    storage.remove_tree(run.path("ray"))
    startup.ended("cluster")
    resources = {"CPU": train.cpus_per_worker, **({"GPU": 1.0} if train.use_gpu else {})}
    trainer: Any = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # what it returns is handed on
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "stage": stage,
            "run": run.uri,
            "lease": run.lease.token if run.lease else "",
            "startup": vars(startup),
        },
        torch_config=_noticing_config(),
        scaling_config=ScalingConfig(num_workers=train.workers, use_gpu=train.use_gpu, resources_per_worker=resources),
        run_config=run_config(
            name="ray",
            failure_config=FailureConfig(max_failures=train.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
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
