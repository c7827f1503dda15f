"""Token shards as training reads them: rows and codes of one split and the text states that belong to them in memory,
fine latents from a copy on this machine's disk.

Values in memory stay in the buffers that Arrow read (int16 codes, float16 states) and are handed out as views.
Fine latents are read row by row, so that memory stays the same however long the music is: shards give whole columns
only, and on an object store each access takes long. So the `fine` column of a dataset is copied once per machine, its
rows one after another, and every worker and later run reads rows from that file. Shards and text tables are compared
with their digests once per process, rows of the copy with their checksums each time.

Shapes: K codebooks, C channels of a control, T frames, D latent dimensions (or text width), S text tokens.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import weakref
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssmttm import storage
from ssmttm.errors import DamagedError, UserError
from ssmttm.tokens.schema import CODES, FLOATS, TEXT_FOLDER, control_column, open_dataset, read_checked, shards_of
from ssmttm.verified import File, Listing

COPY_FORMAT = 2  # of fine latents on this machine's disk
CHECKSUMS = np.dtype("<u4")  # CRC-32 of each row of that copy
METADATA = ["id", "source_id", "split", "start_s", "duration_s", "frames", "text_keys", "licence", "artist", "tags"]


def read_dataset_info(uri: str) -> dict[str, Any]:
    """The dataset's commit file: codec, text encoder, counts.

    Raises:
        UserError: if the folder holds no finished dataset.
    """
    return open_dataset(uri).content


def _buffers(tables: list[pa.Table], column: str) -> list[pa.Buffer]:
    return [value.as_buffer() for table in tables for value in table.column(column)]


class TextTable:
    """States of every distinct caption, by key."""

    def __init__(self, dataset: Listing, keys: set[str] | None = None):
        """Read a dataset's `text/*.parquet`; only the captions in `keys` are kept if it is given."""
        self._rows: dict[str, int] = {}
        self._states: list[pa.Buffer] = []
        self._lengths: list[int] = []
        self._captions: list[str] = []
        for name in sorted(name for name in dataset.files if name.startswith(f"{TEXT_FOLDER}/")):
            table = read_checked(dataset.file(name), ["key", "caption", "length", "states"])
            if keys is not None:
                table = table.filter(pc.is_in(table.column("key"), pa.array(sorted(keys), pa.string())))
            for key in table.column("key").to_pylist():
                self._rows[key] = len(self._rows)
            self._captions += table.column("caption").to_pylist()
            self._lengths += table.column("length").to_pylist()
            self._states += _buffers([table], "states")

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self) -> list[str]:
        """All keys, in table order."""
        return list(self._rows)

    def caption(self, key: str) -> str:
        return self._captions[self._rows[key]]

    def states(self, key: str) -> np.ndarray:
        """Token states float16 [S, D]."""
        row = self._rows[key]
        return np.frombuffer(self._states[row], FLOATS).reshape(self._lengths[row], -1)


class TokenDataset:
    """The rows of one split, in shard order."""

    def __init__(self, dataset: Listing, split: str, tables: list[pa.Table], fine: FineLatents | None):
        self.uri, self.info, self.split = dataset.uri, dataset.content, split
        self.rows: list[dict[str, Any]] = [row for table in tables for row in table.select(METADATA).to_pylist()]
        self._codes = _buffers(tables, "codes")
        self.controls: dict[str, int] = self.info.get("controls", {})  # channels of controls by frame, by name
        self._controls = {name: _buffers(tables, control_column(name)) for name in self.controls}
        self._fine = fine
        self.text = TextTable(dataset, {key for row in self.rows for key in row["text_keys"]})

    @classmethod
    def open(cls, uri: str, split: str, with_fine: bool = True) -> TokenDataset:
        """Read a split; with `with_fine`, its continuous latents can be read too, from this machine's copy of them.

        Raises:
            UserError: if there is no finished dataset, a file of it is missing or not as it was written, the split is
                empty or the latents cannot be copied.
        """
        dataset = open_dataset(uri)
        shards, controls = shards_of(dataset), dataset.content.get("controls", {})
        tables, frames, chosen = [], [], []
        for shard in shards:
            table = read_checked(shard, [*METADATA, "codes", *map(control_column, controls)])
            mine = pc.equal(table.column("split"), split)
            tables.append(table.filter(mine))
            frames.append(table.column("frames").to_numpy())
            chosen.append(mine.to_numpy())
        if not any(len(table) for table in tables):
            raise UserError(f"{uri} has no rows in split '{split}'; compose or collect more music")
        fine = FineLatents(uri, shards, np.concatenate(frames), np.concatenate(chosen)) if with_fine else None
        return cls(dataset, split, tables, fine)

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, i: int) -> int:
        return int(self.rows[i]["frames"])

    def codes(self, i: int) -> np.ndarray:
        """Codes int16 [K, T]."""
        return np.frombuffer(self._codes[i], CODES).reshape(-1, self.frames(i))

    def fine(self, i: int) -> np.ndarray:
        """Fine latents float16 [D, T]."""
        assert self._fine is not None, "opened without fine latents"
        return self._fine[i]

    def control(self, i: int, name: str) -> np.ndarray:
        """A control by frame, float16 [C, T], NaN where it is unknown."""
        return np.frombuffer(self._controls[name][i], FLOATS).reshape(-1, self.frames(i))

    def text_keys(self, i: int) -> list[str]:
        return self.rows[i]["text_keys"]

    def tags(self, i: int) -> dict[str, Any]:
        return json.loads(self.rows[i]["tags"])

    def caption(self, key: str) -> str:
        return self.text.caption(key)

    def prompt(self, i: int) -> str:
        """The evaluation caption: the first of the row."""
        return self.caption(self.text_keys(i)[0])


class FineLatents:
    """Some rows of the `fine` column of a dataset's shards.

    Read with `pread`, not through a memory map: what was read is not counted as this process' memory, and a disk that
    fails raises an error instead of ending the process.
    """

    def __init__(self, uri: str, shards: list[File], frames: np.ndarray, chosen: np.ndarray):
        """Open the copy, which is made first if this machine has none; datasets of equal content share one.

        Args:
            uri: of the dataset.
            shards: its parquet files, in order.
            frames: T of every row in them.
            chosen: bool for each of these rows; the rows to keep, which are then counted from 0.

        Raises:
            UserError: if the copy cannot be written, or is not what was written.
        """
        self._path = _local_copy(uri, shards)
        self._file = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        size, total = os.fstat(self._file).st_size - CHECKSUMS.itemsize * len(frames), int(frames.sum())
        if size < 0 or size % (FLOATS.itemsize * total):
            raise self._damaged()
        checksums = os.pread(self._file, CHECKSUMS.itemsize * len(frames), size)
        ends = np.cumsum(frames, dtype=np.int64) * (size // total)
        self._ends, self._starts = ends[chosen], (ends - frames * (size // total))[chosen]
        self._frames, self._checksums = frames[chosen], np.frombuffer(checksums, CHECKSUMS)[chosen]

    def _damaged(self) -> UserError:
        return DamagedError(f"{self._path} is damaged; remove it and start again, it is copied from the token shards")

    def __getitem__(self, row: int) -> np.ndarray:
        """float16 [D, T].

        Raises:
            DamagedError: if it is not what was copied.
        """
        length = int(self._ends[row] - self._starts[row])
        data = os.pread(self._file, length, int(self._starts[row]))
        if len(data) != length or zlib.crc32(data) != self._checksums[row]:
            raise self._damaged()
        return np.frombuffer(data, FLOATS).reshape(-1, int(self._frames[row]))


def _local_copy(uri: str, shards: list[File]) -> str:
    """The copy's path, named by the digests of what it is made of. The first process of a machine to ask makes it,
    others wait for that; a process that is killed over it lets the next one through."""
    folder = storage.cache_folder("fine-latents")
    content = "\n".join(f"{shard.sha256}" for shard in shards)
    path = os.path.join(folder, hashlib.sha256(f"{COPY_FORMAT}\n{content}".encode()).hexdigest()[:32])
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


def _copy(shards: list[File], path: str) -> None:
    """One shard in memory at a time; `path` exists once all are written, then every row's checksum."""
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            checksums = []
            for shard in shards:
                for value in read_checked(shard, ["fine"]).column("fine"):
                    data = value.as_buffer()
                    file.write(data)
                    checksums.append(zlib.crc32(data))
            file.write(np.array(checksums, CHECKSUMS).tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.remove(partial)  # the disk may be full
        raise
