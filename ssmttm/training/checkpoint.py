"""Checkpoints: everything a run needs to go on, in files that do not depend on engine or number of workers.

`checkpoints/step-000200/` holds `model.safetensors`, `optimizer.safetensors`, `average.safetensors` (with EMA) and
`progress.json`. It counts once `checkpoint.json`, written last, lists every file with size and digest. Random
generators have no state to save: each draw is keyed by seed and position.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.model.weights import load_tensors, save_tensors
from ssmttm.training.engine import State

COMMIT = "checkpoint.json"


@dataclass
class Progress:
    """Where a run is.

    step: optimizer steps done. position: global batches consumed, skipped ones included. tokens: loss terms
    learnt from. seconds: of training so far, over restarts.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Checkpoint:
    progress: Progress
    model: State
    optimizer: State
    average: State | None


def load_checkpoint(uri: str) -> Checkpoint:
    """Read one checkpoint, checking every file against its digest.

    Raises:
        UserError: if it is missing, incomplete or damaged.
    """
    commit = storage.read_commit(uri, COMMIT)
    average = storage.join(uri, "average.safetensors")
    return Checkpoint(
        Progress(**storage.read_json(storage.join(uri, "progress.json"))),
        load_tensors(storage.join(uri, "model.safetensors")),
        load_tensors(storage.join(uri, "optimizer.safetensors")),
        load_tensors(average) if "average.safetensors" in commit["files"] else None,
    )


class CheckpointStore:
    """The checkpoints of one run, of which the newest `keep` stay."""

    def __init__(self, uri: str, keep: int):
        self.uri, self._keep = uri, max(1, keep)

    def _folder(self, name: str) -> str:
        return storage.join(self.uri, name)

    def committed(self) -> list[str]:
        """Names of the finished checkpoints, oldest first."""
        names = [name for name in storage.list_names(self.uri) if name.startswith("step-")]
        return [name for name in names if storage.exists(storage.join(self._folder(name), COMMIT))]

    def load_newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; a damaged one is passed over with a warning. None if there is none."""
        for name in reversed(self.committed()):
            try:
                return load_checkpoint(self._folder(name))
            except UserError as error:
                print(f"warning: {error}; falling back to the checkpoint before it", file=sys.stderr, flush=True)
        return None

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint, commit it, then delete old ones. Returns its URI."""
        folder = self._folder(f"step-{checkpoint.progress.step:06d}")
        storage.remove_tree(folder)  # left by a run that was killed while saving, or damaged
        save_tensors(storage.join(folder, "model.safetensors"), checkpoint.model)
        save_tensors(storage.join(folder, "optimizer.safetensors"), checkpoint.optimizer)
        if checkpoint.average is not None:
            save_tensors(storage.join(folder, "average.safetensors"), checkpoint.average)
        storage.write_json(storage.join(folder, "progress.json"), asdict(checkpoint.progress))
        storage.write_commit(folder, COMMIT)
        for name in self.committed()[: -self._keep]:
            storage.remove_tree(self._folder(name))
        return folder
