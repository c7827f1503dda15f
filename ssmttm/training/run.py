"""A run's folder: what it was asked to do, what it learnt from, and whether it is done.

OUT/NAME/  config.json  dataset.json  deepspeed.json  metrics.jsonl  validation.jsonl  checkpoints/  samples/  weights/
           summary.json
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

from ssmttm import storage
from ssmttm.bundle import initial
from ssmttm.codec.store import load_codec
from ssmttm.config import SECTIONS, CodecConfig, Config, TrainConfig, from_dict
from ssmttm.errors import UserError
from ssmttm.lease import Lease
from ssmttm.model.denoisers.registry import DENOISERS
from ssmttm.model.mixers.registry import BACKBONES
from ssmttm.tokens.read import read_dataset_info
from ssmttm.training.checkpoint import CheckpointStore, folder_of
from ssmttm.training.schedule import SCHEDULES, learning_rate

STEPS = "steps.json"  # how many steps `train.minutes` led to


@dataclass(frozen=True)
class Run:
    """Names of everything in a run's folder. `lease`: by which this process may write there; None for who only reads,
    or answers for it otherwise."""

    uri: str
    lease: Lease | None = field(default=None, compare=False, repr=False)

    def path(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)

    def check_ours(self) -> None:
        """Raises LeaseLostError if another job writes here by now."""
        if self.lease is not None:
            self.lease.check()

    @property
    def checkpoints(self) -> str:
        return self.path("checkpoints")

    @property
    def weights(self) -> str:
        return self.path("weights")

    @property
    def metrics(self) -> str:
        return self.path("metrics.jsonl")

    @property
    def validation(self) -> str:
        return self.path("validation.jsonl")

    @property
    def summary(self) -> str:
        return self.path("summary.json")


def run_of(config: Config, stage: str) -> Run:
    """The run that a configuration names; without a name, the stage's."""
    return Run(storage.join(config.train.out, config.train.name or stage))


def _identity(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """What a run keeps as it was started, by dotted name; of a schedule, see `_check_schedule`."""
    return {
        f"{section}.{key}": config[section][key]
        for section in ("train", stage)
        for key in SECTIONS[section].deciding("model", "training")
        if key in config[section]  # a run of before has not every key of today
    }


def _saved_steps(run: Run) -> list[int]:
    return CheckpointStore(run.checkpoints, keep=1).committed()


def _check_schedule(run: Run, before: TrainConfig, now: TrainConfig) -> None:
    """Refuse a schedule that would have given a step already done another rate: the run would be neither's."""
    changed = [key for key in TrainConfig.deciding("schedule") if getattr(before, key) != getattr(now, key)]
    if not changed:
        return
    key, saved = changed[0], _saved_steps(run)
    done = storage.read_json(run.summary)["steps"] if storage.exists(run.summary) else max(saved, default=0)
    for step in range(done):
        if learning_rate(step, before) != learning_rate(step, now):
            usable = max((other for other in saved if other <= step), default=None)
            remedy = "" if usable is None else f" and train.resume={folder_of(run.checkpoints, usable)}"
            raise UserError(
                f"run {run.uri} was started with train.{key}={getattr(before, key)}, now {getattr(now, key)}, which "
                f"changes the learning rate of step {step + 1}, of {done} done; choose another train.name{remedy}"
            )


def _check_same(run: Run, config: Config, stage: str, dataset: dict[str, Any]) -> None:
    stored = storage.read_json(run.path("config.json"))
    before = _identity(stored, stage)
    now = _identity(config.model_dump(mode="json"), stage)
    for key, value in now.items():
        if key in before and before[key] != value:
            raise UserError(
                f"run {run.uri} was started with {key}={before[key]}, now {value}; choose another train.name"
            )
    _check_schedule(run, from_dict(stored).train, config.train)
    old = storage.read_json(run.path("dataset.json"))
    for part in ("codec", "text"):
        if old[part]["fingerprint"] != dataset[part]["fingerprint"]:
            raise UserError(f"run {run.uri} was started on token shards of another {part}; choose another train.name")


def check_dataset(config: Config, dataset: dict[str, Any]) -> None:
    """Refuse token shards that another codec or text encoder made than the configuration names. A codec path left at
    its default, or where nothing lies, says nothing: the shards name theirs.

    Raises:
        UserError: saying which differ, and how to go on.
    """
    again = f"preprocess the corpus again, or train with what made {config.train.data}"
    made, asked = dataset["codec"]["config"]["name"], config.codec.name
    if made != asked:
        raise UserError(f"{config.train.data} holds codes of codec '{made}', but codec.name={asked}; {again}")
    named, default = config.codec.path, CodecConfig().path
    paths = [dataset["codec"]["uri"]]
    if named not in (default, storage.absolute(default), *paths) and storage.exists(named):
        paths.append(named)
    for path in paths:
        if load_codec(path).fingerprint() != dataset["codec"]["fingerprint"]:
            raise UserError(f"{config.train.data} was made with another codec than {path} is now; {again}")
    reference = dataset["text"]["reference"]
    made, asked = reference["encoder"], config.text.encoder
    if made != asked:
        raise UserError(f"{config.train.data} holds states of text encoder '{made}', but text.encoder={asked}; {again}")
    if reference.get("numbers", False) != config.text.numbers:
        has = "no numbers" if config.text.numbers else "numbers"
        raise UserError(
            f"{config.train.data} holds text states with {has} beside them, but "
            f"text.numbers={config.text.numbers}; {again}"
        )


def prepare(config: Config, stage: str) -> Run | None:
    """Create the run's folder or check that it is this run's. None if the run is already finished; if more steps are
    asked of it than it has done, it is not.

    Raises:
        UserError: if the name is taken (`resume=never`), belongs to a run of other settings or data, or the
            checkpoint to resume from does not exist, the weights to start from do not fit, or there is no such model.
    """
    if stage == "stage1":
        BACKBONES.find(config.stage1.backbone)
    else:
        DENOISERS.find(config.stage2.denoiser).check(config.stage2)
    SCHEDULES.find(config.train.schedule)
    run = run_of(config, stage)
    dataset = read_dataset_info(config.train.data)
    check_dataset(config, dataset)
    resume = config.train.resume
    if storage.exists(run.path("config.json")):
        if resume == "never":
            raise UserError(f"run {run.uri} exists and train.resume=never; choose another train.name")
        _check_same(run, config, stage, dataset)
        if storage.exists(run.summary):
            if storage.read_json(run.summary)["steps"] >= config.train.steps:
                return None
            if not _saved_steps(run):
                raise UserError(f"run {run.uri} has no checkpoint left to go on from; choose another train.name")
            storage.remove_tree(run.summary)
    if resume not in ("auto", "never") and not storage.exists(resume):
        raise UserError(f"train.resume={resume} does not exist; give auto, never or the folder of a checkpoint")
    if config.train.init is not None and not _saved_steps(run):
        initial.keep(initial.check(config, stage, dataset), run.uri)
    known = {key: value for key, value in dataset.items() if key != "files"}
    storage.write_json(run.path("dataset.json"), {"uri": config.train.data, **known})
    storage.write_json(run.path("config.json"), config.model_dump(mode="json"))
    return run


def decided(config: Config, stage: str) -> Config:
    """The configuration with the number of steps that `train.minutes` led to, if it did already."""
    note = run_of(config, stage).path(STEPS)
    if config.train.minutes is None or not storage.exists(note):
        return config
    return config.model_copy(update={"train": config.train.model_copy(update=storage.read_json(note))})


def keep_steps(run: Run, config: Config) -> None:
    """Note in a run's folder the number of steps that `train.minutes` led to, which its configuration now states."""
    storage.write_json(run.path(STEPS), {"steps": config.train.steps})
    storage.write_json(run.path("config.json"), config.model_dump(mode="json"))


def git_commit() -> str | None:
    """Commit of the checkout this package lies in, with `+` after it if files differ; None outside a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        commit = subprocess.run(
            ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", folder, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
