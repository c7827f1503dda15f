"""`metadata.csv` or `metadata.jsonl` of a folder of audio: one row per file, named in `file_name` relative to the table
(the convention of Hugging Face's audiofolder), other columns as in sidecars."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Collection, Iterator
from typing import Any

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources.descriptions import with_our_names
from ssmttm.sources.rejects import Reject
from ssmttm.sources.tables import csv_rows, read_table_text

TABLE_NAMES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMN = "file_name"
NUMBER_COLUMNS = ("bpm", "duration_s")

Row = dict[str, Any] | UserError


def _number(cell: str) -> float | str:
    try:
        value = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(value):
        return cell
    return int(value) if value.is_integer() else value


def _from_csv(uri: str) -> Iterator[tuple[int, Row]]:
    rows = csv_rows(uri)
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    if FILE_COLUMN not in header:
        raise UserError(f"{uri} has no column {FILE_COLUMN}; add it, with paths relative to the table")
    for number, cells in rows:
        if len(cells) != len(header):
            yield number, UserError(f"{len(cells)} cells, the header has {len(header)}")
            continue
        values: dict[str, Any] = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        values |= {name: _number(values[name]) for name in NUMBER_COLUMNS if name in values}
        yield number, values


def _from_jsonl(uri: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_table_text(uri).split("\n"), start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except ValueError as error:
                values = UserError(f"not valid JSON: {error}")
            yield number, values if isinstance(values, dict | UserError) else UserError("must be a JSON object")


def _target(folder: str, name: Any) -> str | None:
    """The path inside the source that a row names from `folder`; None if it leads outside."""
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{FILE_COLUMN} must name a file, got {name!r}")
    path = posixpath.normpath(posixpath.join(folder, name))
    outside = path == ".." or path.startswith(("../", "/")) or name.startswith("~/") or "://" in name or "\\" in name
    return None if outside else path


def _described(values: dict[str, Any]) -> dict[str, Any]:
    """Tags that are words, not an object with named fields, become keywords."""
    tags = values.pop("tags", None)
    if isinstance(tags, str | list):
        values["keywords"] = [word.strip() for word in tags.split(",")] if isinstance(tags, str) else tags
    elif tags is not None:
        values["tags"] = tags
    return with_our_names(values)


def read_tables(
    folder: str, names: Collection[str], audio: Collection[str]
) -> tuple[dict[str, dict[str, Any]], list[Reject]]:
    """What the tables among the folder's `names` state of its `audio` files, by name, and the rows that name none."""
    stated: dict[str, dict[str, Any]] = {}
    rejects: list[Reject] = []
    for table in sorted(name for name in names if posixpath.basename(name) in TABLE_NAMES):
        uri = storage.join(folder, table)
        try:
            for number, values in (_from_csv if table.endswith(".csv") else _from_jsonl)(uri):
                where = f"{table} line {number}"
                try:
                    if isinstance(values, UserError):
                        raise values
                    name = values.pop(FILE_COLUMN, None)
                    target = _target(posixpath.dirname(table), name)
                    if target is None:
                        rejects.append(Reject(where, "", "outside-root", f"{name!r} leads outside the folder"))
                    elif target not in audio:
                        raise UserError(f"{name!r} is no audio file of the folder")
                    elif target in stated:
                        raise UserError(f"{name!r} has a row already")
                    else:
                        stated[target] = _described(values)
                except UserError as error:
                    rejects.append(Reject(where, "", "bad-entry", str(error)))
        except UserError as error:
            rejects.append(Reject(table, uri, "bad-entry", str(error)))
    return stated, rejects
