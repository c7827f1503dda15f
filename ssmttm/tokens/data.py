"""Token shards: rows and codes of one split and the text states that belong to them in memory, fine latents on disk.

Values in memory stay in the buffers that Arrow read (int16 codes, float16 states) and are handed out as views.
Shapes: K codebooks, T frames, D latent dimensions (or text width), S text tokens.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.tokens.latents import FineLatents
from ssmttm.tokens.parts import read_columns

COMMIT = "dataset.json"
METADATA = ["id", "source_id", "split", "start_s", "duration_s", "frames", "text_keys", "licence", "artist", "tags"]


def control_column(name: str) -> str:
    """The shards' column of a control by frame: float16 [C, T] in C order, NaN where unknown."""
    return f"control.{name}"


def read_dataset_info(uri: str) -> dict[str, Any]:
    """The dataset's commit file: codec, text encoder, counts.

    Raises:
        UserError: if the folder holds no finished dataset.
    """
    if not storage.exists(storage.join(uri, COMMIT)):
        raise UserError(f"{uri} holds no finished token shards (no {COMMIT}); run jobs/preprocess.py first")
    return storage.read_commit(uri, COMMIT, verify=False)


def _buffers(tables: list[pa.Table], column: str) -> list[pa.Buffer]:
    return [value.as_buffer() for table in tables for value in table.column(column)]


class TextTable:
    """States of every distinct caption, by key."""

    def __init__(self, uri: str, keys: set[str] | None = None):
        """Read `text/*.parquet` under a dataset; only the captions in `keys` are kept if it is given."""
        folder = storage.join(uri, "text")
        self._rows: dict[str, int] = {}
        self._states: list[pa.Buffer] = []
        self._lengths: list[int] = []
        self._captions: list[str] = []
        for name in storage.list_names(folder):
            table = read_columns(storage.join(folder, name), ["key", "caption", "length", "states"])
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
        return np.frombuffer(self._states[row], np.float16).reshape(self._lengths[row], -1)


class TokenDataset:
    """The rows of one split, in shard order."""

    def __init__(self, uri: str, info: dict[str, Any], split: str, tables: list[pa.Table], fine: FineLatents | None):
        self.uri, self.info, self.split = uri, info, split
        self.rows: list[dict[str, Any]] = [row for table in tables for row in table.select(METADATA).to_pylist()]
        self._codes = _buffers(tables, "codes")
        self.controls: dict[str, int] = info.get("controls", {})  # channels of controls by frame, by name
        self._controls = {name: _buffers(tables, control_column(name)) for name in self.controls}
        self._fine = fine
        self.text = TextTable(uri, {key for row in self.rows for key in row["text_keys"]})

    @classmethod
    def open(cls, uri: str, split: str, with_fine: bool = True) -> TokenDataset:
        """Read a split; with `with_fine`, its continuous latents can be read too, from this machine's copy of them.

        Raises:
            UserError: if there is no finished dataset, the split is empty or the latents cannot be copied.
        """
        info = read_dataset_info(uri)
        folder = storage.join(uri, "shards")
        shards = [storage.join(folder, name) for name in storage.list_names(folder) if name.endswith(".parquet")]
        tables, frames, chosen = [], [], []
        for shard in shards:
            table = read_columns(shard, [*METADATA, "codes", *map(control_column, info.get("controls", {}))])
            mine = pc.equal(table.column("split"), split)
            tables.append(table.filter(mine))
            frames.append(table.column("frames").to_numpy())
            chosen.append(mine.to_numpy())
        if not any(len(table) for table in tables):
            raise UserError(f"{uri} has no rows in split '{split}'; compose or collect more music")
        fine = FineLatents(uri, COMMIT, shards, np.concatenate(frames), np.concatenate(chosen)) if with_fine else None
        return cls(uri, info, split, tables, fine)

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, i: int) -> int:
        return int(self.rows[i]["frames"])

    def codes(self, i: int) -> np.ndarray:
        """Codes int16 [K, T]."""
        return np.frombuffer(self._codes[i], np.int16).reshape(-1, self.frames(i))

    def fine(self, i: int) -> np.ndarray:
        """Fine latents float16 [D, T]."""
        assert self._fine is not None, "opened without fine latents"
        return self._fine[i]

    def control(self, i: int, name: str) -> np.ndarray:
        """A control by frame, float16 [C, T], NaN where it is unknown."""
        return np.frombuffer(self._controls[name][i], np.float16).reshape(-1, self.frames(i))

    def text_keys(self, i: int) -> list[str]:
        return self.rows[i]["text_keys"]

    def tags(self, i: int) -> dict[str, Any]:
        return json.loads(self.rows[i]["tags"])

    def caption(self, key: str) -> str:
        return self.text.caption(key)

    def prompt(self, i: int) -> str:
        """The evaluation caption: the first of the row."""
        return self.caption(self.text_keys(i)[0])
