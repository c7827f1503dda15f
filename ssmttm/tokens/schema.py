"""The dataset format: the files of a token dataset, their columns, and how arrays lie in them.

- `dataset.json`: the commit, written last: configuration, codec, text encoder, counts, digests of all files.
- `shards/part-00000.parquet`, ...: one row per segment (`ROW_SCHEMA`, and a column for each control by frame).
- `text/table-00000.parquet`, ...: one row per distinct caption (`TEXT_SCHEMA`); rows name theirs in `text_keys`.
- `rejects.jsonl`, `ATTRIBUTION.csv`, `README.md`: what was refused, whom the rest is from, the dataset card.

Parquet files are written in one piece under a fixed name and carry the fingerprint of the plan they fulfil: a part
exists whole or not at all, and a rerun tells from the fingerprint whether it is the part it would write.

Shapes: K codebooks, C channels of a control, D latent dimensions (or text width), T code frames, S text tokens.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssmttm import storage
from ssmttm.errors import DamagedError, UserError
from ssmttm.verified import File, Listing

FORMAT_VERSION = 2
COMMIT_NAME = "dataset.json"
PLAN_NAME = "plan.json"
ATTRIBUTION_NAME = "ATTRIBUTION.csv"
SHARD_FOLDER = "shards"
TEXT_FOLDER = "text"
METADATA_KEY = b"ssmttm"

ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_id", pa.string()),  # of the track
        ("split", pa.string()),
        ("start_s", pa.float64()),  # in the track
        ("duration_s", pa.float64()),
        ("frames", pa.int32()),
        ("codes", pa.binary()),  # [K, T]
        ("fine", pa.binary()),  # [D, T]
        ("text_keys", pa.list_(pa.string())),
        ("licence", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("source_url", pa.string()),
        ("audio", pa.string()),  # relative to the corpus
        ("tags", pa.string()),  # JSON
    ]
)
TEXT_SCHEMA = pa.schema(
    [("key", pa.string()), ("caption", pa.string()), ("length", pa.int32()), ("states", pa.binary())]  # [S, D]
)
# Values of arrays, which lie in C order: codes; latents, states and controls.
CODES, FLOATS = np.dtype(np.int16), np.dtype(np.float16)
# What a row says apart from its arrays; of that, whom the track is from.
ROW_COLUMNS = [field.name for field in ROW_SCHEMA if not pa.types.is_binary(field.type)]
ATTRIBUTION_COLUMNS = ("source_id", "title", "artist", "licence", "source_url", "audio")
# Stored uncompressed in small row groups: a reader that wants a few captions, or only the keys, pays for no more.
TEXT_ROW_GROUP = 256


def caption_key(caption: str, encoder_fingerprint: str) -> str:
    """The key of a caption's states: 32 hexadecimal digits of a SHA-256 over encoder (its weights) and caption."""
    weights = encoder_fingerprint.partition(".")[0]
    return hashlib.sha256(f"{weights}\n{caption}".encode()).hexdigest()[:32]


def control_column(name: str) -> str:
    """The shards' column of a control by frame: float16 [C, T], NaN where unknown."""
    return f"control.{name}"


def row_schema(controls: Iterable[str]) -> pa.Schema:
    """`ROW_SCHEMA` with the columns of controls by frame."""
    return pa.schema([*ROW_SCHEMA, *((control_column(name), pa.binary()) for name in controls)])


def shard_names(dataset: Mapping[str, Any]) -> list[str]:
    """Shard files of a dataset, relative to it, in order. dataset: the content of `dataset.json`."""
    return sorted(name for name in dataset["files"] if name.startswith(f"{SHARD_FOLDER}/"))


def open_dataset(uri: str) -> Listing:
    """A finished dataset: what its commit file says, and the files that it lists.

    Raises:
        UserError: if the folder holds none.
    """
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        raise UserError(f"{uri} holds no finished token shards (no {COMMIT_NAME}); run jobs/preprocess.py first")
    remedy = f"put it back as it was, or delete it and {COMMIT_NAME} and run jobs/preprocess.py again"
    return Listing.read(uri, COMMIT_NAME, remedy, links=True)


def shards_of(dataset: Listing) -> list[File]:
    """Shard files of a dataset, in order."""
    return [dataset.file(name) for name in shard_names(dataset.content)]


def codes_of(row: Mapping[str, Any]) -> np.ndarray:
    """Codes int16 [K, T] of a row read with `codes` and `frames`."""
    return np.frombuffer(row["codes"], CODES).reshape(-1, row["frames"])


@dataclass(frozen=True)
class PartReport:
    """What became of one part: its rows, the seconds of audio in them, the rejects it names, and whether a finished
    part was found and left alone."""

    name: str
    rows: int
    seconds: float
    rejects: int
    skipped: bool


def write_part(
    uri: str,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    fingerprint: str,
    content: dict[str, Any] | None = None,
    row_group_size: int | None = None,
) -> None:
    """Write rows with `fingerprint` and `content` in the file's metadata.

    Binary columns are stored plain and everything uncompressed: codes and fp16 values hardly compress, and reading
    is what training waits for.
    """
    metadata = json.dumps({"fingerprint": fingerprint, **(content or {})}, sort_keys=True)
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({METADATA_KEY: metadata}))
    binary = {field.name for field in schema if pa.types.is_binary(field.type)}
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="none",
        use_dictionary=[name for name in schema.names if name not in binary],
        write_statistics=[name for name in schema.names if name not in binary],
        row_group_size=row_group_size,
    )
    storage.write_bytes(uri, buffer.getvalue())


def read_part_metadata(uri: str) -> dict[str, Any] | None:
    """The metadata `write_part` stored: `fingerprint` and the content. None if the file is missing or foreign."""
    fs, path = storage.filesystem(uri)

    def read() -> dict[bytes, bytes]:
        with fs.open(path, "rb") as file:
            try:
                return pq.read_metadata(file).metadata or {}
            except pa.ArrowInvalid:
                return {}

    try:
        metadata = storage.with_retries(read, uri)
    except FileNotFoundError:
        return None
    return json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None


def part_matches(uri: str, fingerprint: str) -> bool:
    """True if the file exists and fulfils the plan with this fingerprint."""
    metadata = read_part_metadata(uri)
    return metadata is not None and metadata["fingerprint"] == fingerprint


def read_checked(file: File, columns: Iterable[str]) -> pa.Table:
    """Columns of a dataset's file, which is read whole and compared with its digest once per process.

    Raises:
        DamagedError: if it is not as its dataset lists it.
    """
    if file.is_checked():
        return read_columns(file.uri, columns)
    return _columns(file.uri, pa.BufferReader(file.read()), columns)


def _columns(uri: str, file: Any, columns: Iterable[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=list(columns))
    except pa.ArrowException as error:
        raise DamagedError(f"{uri} cannot be read ({' '.join(str(error).split())[:200]})") from None


def read_columns(uri: str, columns: Iterable[str]) -> pa.Table:
    """Columns of a Parquet file, as it is now.

    Raises:
        DamagedError: if it is none, or has no such columns.
    """
    fs, path = storage.filesystem(uri)

    def read() -> pa.Table:
        with fs.open(path, "rb") as file:
            return _columns(uri, file, columns)

    return storage.with_retries(read, uri)
