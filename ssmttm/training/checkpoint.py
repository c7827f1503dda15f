"""Checkpoints: everything a run needs to go on, in files that do not depend on engine or number of workers.

`checkpoints/step-000200/` holds `model.safetensors`, `optimizer.safetensors`, `average.safetensors` (with EMA) and
`progress.json`. It counts once `checkpoint.json`, written last, names the task and lists every file with size and
digest. Random generators have no state to save: each draw is keyed by seed and position.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import DamagedError, UserError
from ssmttm.model import weights
from ssmttm.tensors import TensorFile
from ssmttm.training.engine import MOMENTS, State
from ssmttm.verified import File, Listing

COMMIT = "checkpoint.json"
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
PROGRESS = "progress.json"
FITTING = "give a checkpoint of the same stage and sizes"


@dataclass
class Progress:
    """Where a run is.

    step: optimizer steps done. position: global batches consumed, skipped ones included. tokens: loss terms
    learnt from. seconds: of training so far, over restarts. best_loss, best_step: with `train.keep_best`, the lowest
    validation loss so far and the step whose checkpoint has it. precision: that of the last step.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    precision: str | None = None


@dataclass
class Checkpoint:
    """`task`: the name of what was trained; None in a checkpoint from before these said so."""

    progress: Progress
    model: State
    optimizer: State
    average: State | None
    task: str | None = None


def open_checkpoint(uri: str) -> Listing:
    """What a finished checkpoint lists, which is all that it needs.

    Raises:
        DamagedError: if its commit file makes no sense.
        UserError: if it has none.
    """
    if not storage.exists(storage.join(uri, COMMIT)):
        raise UserError(f"{uri} is missing or incomplete: it has no {COMMIT}")
    listing = Listing.read(uri, COMMIT, "remove it, or put a copy of the whole one there")
    if not isinstance(listing.content.get("task"), str | None):
        raise listing.commit.damaged("names no task")
    for name in (MODEL, OPTIMIZER, PROGRESS):
        listing.file(name)
    return listing


def _progress(file: File) -> Progress:
    """What `progress.json` says, where its figures are such."""
    found, kinds = file.json(), {one.name: str(one.type) for one in fields(Progress)}
    if not isinstance(found, dict) or not found.keys() <= kinds.keys() or "step" not in found:
        raise file.damaged("is not of this version")
    for name, value in found.items():
        is_whole = type(value) is int and 0 <= value < 2**62
        is_number = is_whole or (type(value) is float and math.isfinite(value))
        is_word = isinstance(value, str) and value.isprintable() and len(value) < 100
        fits = {"float": is_number, "str": is_word}.get(kinds[name].split(" ")[0], is_whole)
        if not fits and not (value is None and kinds[name].endswith("None")):
            raise file.damaged(f"says {name}={str(value)[:40]}")
    return Progress(**found)


def load_checkpoint(uri: str) -> Checkpoint:
    """Read one checkpoint, checking every file against its size and digest, and that all numbers are finite.

    Raises:
        DamagedError: if a file is not what the commit file says, or holds what no checkpoint does.
        UserError: if there is no finished checkpoint, or the storage fails.
    """
    listing = open_checkpoint(uri)
    names = (MODEL, OPTIMIZER, *([AVERAGE] if AVERAGE in listing.files else []))
    states = {name: TensorFile.look(listing.file(name)).load() for name in names}
    progress = _progress(listing.file(PROGRESS))
    return Checkpoint(progress, states[MODEL], states[OPTIMIZER], states.get(AVERAGE), listing.content.get("task"))


def check_fits(checkpoint: Checkpoint, module: nn.Module, uri: str) -> None:
    """Refuse a checkpoint, its names those of today, that is not of this model.

    Raises:
        UserError: naming the first tensor that is missing, too many or of another kind or shape.
    """
    wanted = module.state_dict()
    moments = {f"{moment}.{name}": value for name, value in module.named_parameters() for moment in MOMENTS}
    _compare(uri, MODEL, checkpoint.model, wanted)
    _compare(uri, OPTIMIZER, checkpoint.optimizer, {**moments, "step": torch.tensor(0.0)})
    if checkpoint.average is not None:
        _compare(uri, AVERAGE, checkpoint.average, wanted)
    if more := checkpoint.model.keys() - wanted.keys():
        raise UserError(f"{uri} does not fit this model, which has no {min(more)!r}; {FITTING}")


def _compare(uri: str, file: str, found: State, wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise UserError(f"{uri} does not fit this model: {file} lacks {name}; {FITTING}")
        value = found[name]
        if value.shape != tensor.shape or value.is_floating_point() != tensor.is_floating_point():
            raise UserError(
                f"{uri} does not fit this model: {file} holds {name} as {value.dtype} {list(value.shape)}, here it is "
                f"{tensor.dtype} {list(tensor.shape)}; {FITTING}"
            )


def folder_of(uri: str, step: int) -> str:
    """The checkpoint of a step among those under `uri`."""
    return storage.join(uri, f"step-{step:06d}")


def _step_of(name: str) -> int | None:
    """The step that a folder's name states; None for what is no checkpoint."""
    number = name.removeprefix("step-")
    return int(number) if name.startswith("step-") and number.isdigit() else None


class CheckpointStore:
    """The checkpoints of one run, of which the newest `keep` stay, the best, and that of the step `landmark`."""

    def __init__(self, uri: str, keep: int, landmark: int | None = None):
        self.uri, self._keep, self.landmark = uri, max(1, keep), landmark

    def _folder(self, step: int) -> str:
        return folder_of(self.uri, step)

    def _steps(self) -> list[int]:
        """Steps of all folders, finished or not, in order."""
        return sorted(step for name in storage.list_names(self.uri) if (step := _step_of(name)) is not None)

    def committed(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        return [step for step in self._steps() if storage.exists(storage.join(self._folder(step), COMMIT))]

    def load_newest(self, warn: bool = True) -> Checkpoint | None:
        """The newest intact checkpoint; a damaged one is passed over with a line on stderr. None if there is none.

        Raises:
            UserError: if there are checkpoints and all are damaged, or if the storage fails.
        """
        steps, reason = self.committed(), ""
        for step in reversed(steps):
            try:
                checkpoint = load_checkpoint(self._folder(step))
            except DamagedError as error:
                reason = str(error)
                if warn:
                    print(f"warning: {reason}; falling back to the checkpoint before it", file=sys.stderr, flush=True)
                continue
            if checkpoint.progress.best_step not in steps:
                checkpoint.progress = replace(checkpoint.progress, best_loss=None, best_step=None)
            return checkpoint
        if steps:
            raise UserError(
                f"none of the {len(steps)} checkpoints in {self.uri} is whole (the oldest: {reason}); remove that "
                "folder to train from the start, or put a copy of a whole checkpoint there"
            )
        return None

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint, commit it, then delete old ones. Returns its URI."""
        step = checkpoint.progress.step
        self._remove(step)  # left by a run that was killed while saving, or damaged
        try:
            self._write(self._folder(step), checkpoint)
        except OSError:
            if not storage.is_remote(self.uri):  # a full disk is no better for half a checkpoint
                self._remove(step)
            raise
        self._prune(step, checkpoint.progress.best_step)
        return self._folder(step)

    def _write(self, folder: str, checkpoint: Checkpoint) -> None:
        states = {"model": checkpoint.model, "optimizer": checkpoint.optimizer, "average": checkpoint.average}
        files: dict[str, dict[str, Any]] = {}

        def write(name: str, data: bytes) -> None:
            storage.write_bytes(storage.join(folder, name), data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

        for name, state in states.items():
            if state is not None:
                packed = {key: tensor.contiguous() for key, tensor in state.items()}
                write(f"{name}.safetensors", safetensors.torch.save(packed))
        write("progress.json", (json.dumps(asdict(checkpoint.progress), indent=2) + "\n").encode())
        storage.write_json(storage.join(folder, COMMIT), {"task": checkpoint.task, "files": files})

    def _prune(self, newest: int, best: int | None) -> None:
        """Remove all but the newest `keep`, the best and the landmark: also what was never finished, and what lies
        ahead of the newest, which was damaged, or it would have been resumed from."""
        there = [step for step in self.committed() if step <= newest]
        kept = {*there[-self._keep :], *(step for step in there if step in (best, self.landmark))}
        for step in self._steps():
            if step not in kept:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """The commit file first: a folder that is half gone must not count."""
        storage.remove_tree(storage.join(self._folder(step), COMMIT))
        storage.remove_tree(self._folder(step))


def under_current_names(checkpoint: Checkpoint, stage: str) -> Checkpoint:
    """A checkpoint of before, its entries under the names that parameters have now."""

    def renamed(key: str) -> str:  # optimizer state is `moment.parameter`
        moment, _, parameter = key.partition(".")
        return f"{moment}.{weights.current_name(stage, parameter)}" if moment in MOMENTS else key

    return replace(
        checkpoint,
        model=weights.current_names(stage, checkpoint.model),
        optimizer={renamed(key): value for key, value in checkpoint.optimizer.items()},
        average=None if checkpoint.average is None else weights.current_names(stage, checkpoint.average),
    )


def restore(config: Config, task: str, checkpoints: str) -> Checkpoint | None:
    """The newest intact one of the run's own checkpoints, else the one that `train.resume` names, else None.

    Raises:
        UserError: if that is a checkpoint of another task, or none is whole.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not distributed or torch.distributed.get_rank() == 0
    own = CheckpointStore(checkpoints, config.train.keep_checkpoints).load_newest(warn=first)
    if own is None and config.train.resume not in ("auto", "never"):
        own = load_checkpoint(config.train.resume)
        if own.task not in (None, task):
            raise UserError(f"train.resume={config.train.resume} is a checkpoint of {own.task}; {task} is needed here")
        own.progress = replace(own.progress, best_loss=None, best_step=None, precision=None)
    return None if own is None else under_current_names(own, task)
