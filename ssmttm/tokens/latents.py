"""Fine latents, row by row from a copy on this machine's disk: memory stays the same however long the music is.

Shards give whole columns only, and on an object store each access takes long. So the `fine` column of a dataset is
copied once per machine, its rows one after another, and every worker and later run reads rows from that file.
Shapes: D latent dimensions, T frames.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress

import numpy as np

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.tokens.parts import read_columns

VALUE_BYTES = 2  # float16


class FineLatents:
    """Some rows of the `fine` column of a dataset's shards.

    Read with `pread`, not through a memory map: what was read is not counted as this process' memory, and a disk that
    fails raises an error instead of ending the process.
    """

    def __init__(self, uri: str, commit: str, shards: list[str], frames: np.ndarray, chosen: np.ndarray):
        """Open the copy, which is made first if this machine has none.

        Args:
            uri: of the dataset.
            commit: name of its commit file; datasets of equal content share a copy.
            shards: URIs of its parquet files, in order.
            frames: T of every row in them.
            chosen: bool for each of these rows; the rows to keep, which are then counted from 0.

        Raises:
            UserError: if the copy cannot be written, or is not what was written.
        """
        self._path = _local_copy(uri, storage.digest(storage.join(uri, commit)), shards)
        self._file = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        size, total = os.fstat(self._file).st_size, int(frames.sum())
        if size % (VALUE_BYTES * total):
            raise self._damaged()
        ends = np.cumsum(frames, dtype=np.int64) * (size // total)
        self._ends, self._starts = ends[chosen], (ends - frames * (size // total))[chosen]
        self._frames = frames[chosen]

    def _damaged(self) -> UserError:
        return UserError(f"{self._path} is damaged; remove it and start again, it is copied anew from the token shards")

    def __getitem__(self, row: int) -> np.ndarray:
        """float16 [D, T]."""
        length = int(self._ends[row] - self._starts[row])
        data = os.pread(self._file, length, int(self._starts[row]))
        if len(data) != length:
            raise self._damaged()
        return np.frombuffer(data, np.float16).reshape(-1, int(self._frames[row]))


def _local_copy(uri: str, digest: str, shards: list[str]) -> str:
    """The copy's path. The first process of a machine to ask makes it, others wait for that; a process that is killed
    over it lets the next one through."""
    folder = storage.cache_folder("fine-latents")
    path = os.path.join(folder, digest[:32])
    if os.path.exists(path):
        return path
    try:
        os.makedirs(folder, exist_ok=True)
        with open(f"{path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                print(f"copying the fine latents of {uri} to {path}, once per machine", flush=True)
                _copy(shards, path)
    except OSError as error:
        raise UserError(
            f"the fine latents of {uri} could not be copied to {folder} ({error}); make room there, or let "
            "XDG_CACHE_HOME name a folder on a larger disk"
        ) from error
    return path


def _copy(shards: list[str], path: str) -> None:
    """One shard in memory at a time; `path` exists once all are written."""
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            for shard in shards:
                for value in read_columns(shard, ["fine"]).column("fine"):
                    file.write(value.as_buffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.remove(partial)  # the disk may be full
        raise
