"""A run's folder: what it was asked to do, what it learnt from, and whether it is done.

OUT/NAME/  config.json  dataset.json  history.json  ATTRIBUTION.csv  deepspeed.json  metrics.jsonl  validation.jsonl
           checkpoints/  samples/  weights/  summary.json

What it learnt from is never forgotten: `dataset.json` describes the token shards it is on, `history.json` those before
and what else was changed on the way, and `ATTRIBUTION.csv` names the recordings of all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ssmttm import storage
from ssmttm.bundle import initial
from ssmttm.codec.store import load_codec
from ssmttm.conditions.encoders import is_same_text
from ssmttm.config import (
    CHANGEABLE,
    SECTIONS,
    CodecConfig,
    Config,
    TrainConfig,
    changeable,
    from_dict,
    full_name,
)
from ssmttm.errors import UserError
from ssmttm.lease import Lease
from ssmttm.model.denoisers.registry import DENOISERS
from ssmttm.model.mixers.registry import BACKBONES
from ssmttm.tokens.attribution import merged_attribution
from ssmttm.tokens.read import read_dataset_info
from ssmttm.tokens.schema import ATTRIBUTION_NAME
from ssmttm.training.checkpoint import CheckpointStore, folder_of
from ssmttm.training.schedule import SCHEDULES, learning_rate

STEPS = "steps.json"  # how many steps `train.minutes` led to
HISTORY = "history.json"
NAME_DIGITS = 12  # of a data set's fingerprint: short, and unlike any other's


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


@dataclass(frozen=True)
class History:
    """What a run's folder remembers besides its present configuration and data.

    datasets: descriptions of the token shards that it learnt from before (as `dataset.json`). changes: a line for each
    setting that it went on with another value of, with the step. deepspeed: names the content of the file
    `train.deepspeed`; empty where there is none.
    """

    datasets: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    deepspeed: str | None = None

    @classmethod
    def of(cls, run: Run) -> History:
        uri = run.path(HISTORY)
        return cls(**storage.read_json(uri)) if storage.exists(uri) else cls()

    def extended(self, datasets: Iterable[dict[str, Any]] = (), changes: Iterable[str] = ()) -> History:
        """With what is not in it yet."""
        known = {dataset["fingerprint"]: dataset for dataset in (*self.datasets, *datasets)}
        return replace(self, datasets=list(known.values()), changes=list(dict.fromkeys((*self.changes, *changes))))

    def write(self, run: Run) -> None:
        storage.write_json(run.path(HISTORY), asdict(self))


def _described(dataset: dict[str, Any], uri: str) -> dict[str, Any]:
    """What a run keeps of a data set's commit file. Its fingerprint is that of the plan it was made by, or, where it
    knows none, of its files."""
    files = json.dumps(dataset["files"], sort_keys=True).encode()
    fingerprint = dataset.get("fingerprint") or hashlib.sha256(files).hexdigest()
    return {"uri": uri, **{key: value for key, value in dataset.items() if key != "files"}, "fingerprint": fingerprint}


def _deepspeed(config: Config) -> str:
    if config.train.deepspeed is None:
        return ""
    content = json.dumps(storage.read_json(config.train.deepspeed), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:NAME_DIGITS]


def _identity(config: dict[str, Any], stage: str, dataset: dict[str, Any], deepspeed: str | None) -> dict[str, Any]:
    """What a run keeps as it was started, by dotted name; of a schedule, see `_check_schedule`. Token shards and the
    file of DeepSpeed's settings count by what they hold."""
    kept = {
        f"{section}.{key}": config[section][key]
        for section in ("train", stage)
        for key in SECTIONS[section].deciding("model", *CHANGEABLE)
        if key in config[section]  # a run of before has not every key of today
    }
    for name in ("train.data", "train.deepspeed"):
        kept.pop(name, None)
    if deepspeed is not None:
        kept["train.deepspeed"] = deepspeed
    if "fingerprint" in dataset:
        kept["train.data"] = dataset["fingerprint"][:NAME_DIGITS]
    return kept


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


def _changes(run: Run, config: Config, stage: str, dataset: dict[str, Any]) -> dict[str, str]:
    """By key, a line about each setting that differs from what the run was started or last gone on with, all of which
    `train.continue_with` allows.

    Raises:
        UserError: naming one that it does not allow, or that no run can change.
    """
    stored, old = storage.read_json(run.path("config.json")), storage.read_json(run.path("dataset.json"))
    same = {
        "codec": old["codec"]["fingerprint"] == dataset["codec"]["fingerprint"],
        "text": is_same_text(old["text"]["fingerprint"], dataset["text"]["fingerprint"]),
    }
    for part, is_same in same.items():
        if not is_same:
            raise UserError(f"run {run.uri} was started on token shards of another {part}; choose another train.name")
    before = _identity(stored, stage, old, History.of(run).deepspeed)
    now = _identity(config.model_dump(mode="json"), stage, dataset, _deepspeed(config))
    may, allowed, changes = changeable(stage), {*map(full_name, config.train.continue_with)}, {}
    for key, value in now.items():
        if key not in before or before[key] == value:
            continue
        if key == "train.precision" and "auto" in (before[key], value):
            continue  # what it comes to is known where it is computed: see the trainer
        if key not in allowed:
            remedy = f", or train.continue_with=[{key.removeprefix('train.')}]" if key in may else ""
            places = (f" ({old['uri']})", f" ({dataset['uri']})") if key == "train.data" else ("", "")
            raise UserError(
                f"run {run.uri} was started with {key}={before[key]}{places[0]}, now {value}{places[1]}; "
                f"choose another train.name{remedy}"
            )
        changes[key] = f"{key}={value}, {before[key]} before"
    _check_schedule(run, from_dict(stored).train, config.train)
    return changes


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
        UserError: if the name is taken (`resume=never`), belongs to a run of other settings or data that
            `train.continue_with` does not name, or the checkpoint to resume from does not exist or does not say what
            it learnt from, the weights to start from do not fit, or there is no such model.
    """
    if stage == "stage1":
        BACKBONES.find(config.stage1.backbone)
    else:
        DENOISERS.find(config.stage2.denoiser).check(config.stage2)
    SCHEDULES.find(config.train.schedule)
    run = run_of(config, stage)
    dataset = read_dataset_info(config.train.data)
    check_dataset(config, dataset)
    known = _described(dataset, config.train.data)
    resume, saved = config.train.resume, _saved_steps(run)
    if resume not in ("auto", "never") and not storage.exists(resume):
        raise UserError(f"train.resume={resume} does not exist; give auto, never or the folder of a checkpoint")
    history, tables = History.of(run), [storage.join(config.train.data, ATTRIBUTION_NAME)]
    if storage.exists(run.path("config.json")):
        if resume == "never":
            raise UserError(f"run {run.uri} exists and train.resume=never; choose another train.name")
        changes = _changes(run, config, stage, known)
        if storage.exists(run.summary):
            done = storage.read_json(run.summary)["steps"]
            if done >= config.train.steps:
                if "train.data" in changes:
                    raise UserError(
                        f"run {run.uri} is done with its {done} steps, and {config.train.data} is not what it learnt "
                        "from; give more train.steps or another train.name"
                    )
                return None
            if not saved:
                raise UserError(f"run {run.uri} has no checkpoint left to go on from; choose another train.name")
            storage.remove_tree(run.summary)
        if changes and saved:
            old = storage.read_json(run.path("dataset.json"))
            if "train.data" in changes:
                tables += initial.attribution_of_run(run.uri, old["uri"])
                history = history.extended([old])
            history = history.extended(changes=_told(stage, max(saved), changes.values()))
    if resume not in ("auto", "never") and not saved:
        earlier = _earlier(resume, known)
        tables += initial.attribution_of_run(earlier.uri, storage.read_json(earlier.path("dataset.json"))["uri"])
        history = _inherited(history, earlier, stage)
        initial.hand_on(earlier.uri, run.uri)
    if config.train.init is not None and not saved:
        initial.keep(initial.check(config, stage, dataset), stage, run.uri)
    # First what was, then what is: a start that is killed in between is told the same again.
    _attribute(run, stage, tables)
    replace(history, deepspeed=_deepspeed(config)).write(run)
    storage.write_json(run.path("dataset.json"), known)
    storage.write_json(run.path("config.json"), config.model_dump(mode="json"))
    return run


def _told(stage: str, step: int, changes: Iterable[str]) -> list[str]:
    """Changes with the step after which they count; they are printed too."""
    lines = [f"from step {step} on with {change}" for change in changes]
    for line in lines:
        print(f"{stage} goes on {line}", flush=True)
    return lines


def note_change(run: Run, stage: str, step: int, change: str) -> None:
    """Print and remember a setting that a run goes on with another value of."""
    History.of(run).extended(changes=_told(stage, step, [change])).write(run)


def _earlier(checkpoint: str, dataset: dict[str, Any]) -> Run:
    """The run that a checkpoint lies in, which says what its weights learnt from."""
    folder = checkpoint.rstrip("/").rsplit("/", 2)[0]
    run = Run(folder)
    if not storage.exists(run.path("dataset.json")):
        raise UserError(
            f"train.resume={checkpoint} does not lie in the folder of its run, so nobody knows what it learnt from; "
            "give RUN/checkpoints/STEP"
        )
    old = storage.read_json(run.path("dataset.json"))
    for part in ("codec", "text"):
        if old[part]["fingerprint"] != dataset[part]["fingerprint"]:
            raise UserError(f"train.resume={checkpoint} was trained on token shards of another {part}; give another")
    return run


def _inherited(history: History, earlier: Run, stage: str) -> History:
    """A run's history, and that of the one whose checkpoint it goes on from."""
    old, name = History.of(earlier), earlier.uri.rsplit("/", 1)[-1]
    change = f"{stage} began with a checkpoint of run {name}"
    known = storage.read_json(earlier.path("dataset.json"))
    datasets = [*old.datasets, *([known] if "fingerprint" in known else [])]
    return history.extended(datasets, [*old.changes, change])


def _attribute(run: Run, stage: str, tables: list[str]) -> None:
    """Add tables, as far as there are, to what a run names as its sources."""
    own = run.path(ATTRIBUTION_NAME)
    there = [storage.read_text(uri) for uri in dict.fromkeys((own, *tables)) if storage.exists(uri)]
    if there:
        storage.write_text(own, merged_attribution([(text, (stage,)) for text in there]))


def learnt_from(run: Run) -> list[dict[str, Any]]:
    """Descriptions of all token shards that a run learnt from, the last ones last."""
    now = storage.read_json(run.path("dataset.json"))
    return [*(one for one in History.of(run).datasets if one["fingerprint"] != now.get("fingerprint")), now]


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
