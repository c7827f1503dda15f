"""Parquet files written in one piece under a fixed name, carrying the fingerprint of the plan they fulfil.

The file's own metadata is its commit: a part exists whole or not at all, and a rerun tells from the fingerprint
whether it is the part it would write.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssmttm import storage

METADATA_KEY = b"ssmttm"


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
    columns: Sequence[Sequence[Any]],
    schema: pa.Schema,
    fingerprint: str,
    content: dict[str, Any] | None = None,
    row_group_size: int | None = None,
) -> None:
    """Write columns (in the schema's order) with `fingerprint` and `content` in the file's metadata.

    Binary columns are stored plain and everything uncompressed: codes and fp16 values hardly compress, and reading
    is what training waits for.
    """
    metadata = json.dumps({"fingerprint": fingerprint, **(content or {})}, sort_keys=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
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


def read_columns(uri: str, columns: Sequence[str]) -> pa.Table:
    fs, path = storage.filesystem(uri)

    def read() -> pa.Table:
        with fs.open(path, "rb") as file:
            return pq.read_table(file, columns=list(columns))

    return storage.with_retries(read, uri)
