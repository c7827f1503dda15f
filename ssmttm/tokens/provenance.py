"""From a row of a token dataset back to the recording, the person and the licence it came from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ssmttm import licences, storage
from ssmttm.errors import UserError
from ssmttm.sources.manifest import source_root
from ssmttm.spreadsheet import from_csv
from ssmttm.tokens.schema import ATTRIBUTION_COLUMNS, ATTRIBUTION_NAME, COMMIT_NAME, read_columns, shard_names

COLUMNS = ("id", "split", "start_s", "duration_s", *ATTRIBUTION_COLUMNS)


@dataclass(frozen=True)
class Trace:
    """The chain of one row. start_s, duration_s: the segment, in seconds of the source file. audio: the source file,
    relative to the corpus; `source_uri` is where it was when the dataset was made, and `at_hand` whether it is there
    now. licence: as stated; family: None for unknown terms. missing: links that the dataset does not hold; one's own
    work needs neither artist, title nor URL."""

    row_id: str
    shard: str
    split: str
    start_s: float
    duration_s: float
    source_id: str
    audio: str
    source_uri: str
    at_hand: bool
    artist: str
    title: str
    licence: str
    family: str | None
    source_url: str
    missing: tuple[str, ...]


def _row(shards: list[tuple[str, str]], row_id: str | None, seed: int, dataset: dict[str, Any]) -> tuple[str, dict]:
    """(shard name, row) of the row named, or of one drawn among all."""
    place = random.Random(seed).randrange(dataset["rows"])
    for name, uri in shards:
        table = read_columns(uri, COLUMNS)
        if row_id is not None:
            table = table.filter(pc.equal(table.column("id"), row_id))
            place = 0
        if place < len(table):
            return name, table.slice(place, 1).to_pylist()[0]
        place -= len(table)
    raise UserError(f"no row '{row_id}' in this dataset of {dataset['rows']} rows; leave the id out for a random one")


def _attributed(uri: str, row: dict[str, Any]) -> bool:
    """Whether the attribution table names the row's track as the row does."""
    table = storage.join(uri, ATTRIBUTION_NAME)
    if not storage.exists(table):
        return False
    expected = {name: row[name] for name in ATTRIBUTION_COLUMNS}
    lines = from_csv(storage.read_text(table))
    return any({name: line.get(name) for name in ATTRIBUTION_COLUMNS} == expected for line in lines)


def _at_hand(uri: str) -> bool:
    try:
        return storage.exists(uri)
    except Exception:  # storage that this machine cannot reach; each kind fails in its own way
        return False


def trace(dataset_uri: str, row_id: str | None = None, seed: int = 0) -> Trace:
    """Follow a row (one drawn by `seed` if there is no id) back to its origin.

    Raises:
        UserError: if there is no finished dataset, or no such row in it.
    """
    dataset = storage.read_commit(dataset_uri, COMMIT_NAME, verify=False)
    shards = [(name, storage.join(dataset_uri, name)) for name in shard_names(dataset)]
    shard, row = _row(shards, row_id, seed, dataset)
    family = licences.normalise(row["licence"])
    source_uri = storage.join(source_root(dataset["config"]["corpus"]["source"]), row["audio"])
    is_own = family == "own-work"  # of whoever made the data set, who need not look for it, nor be told its name
    links = {
        "source file": row["audio"],
        "artist": is_own or row["artist"].strip(),
        "title": is_own or row["title"].strip(),
        "licence": row["licence"].strip(),
        "licence family": family,
        "URL": is_own or row["source_url"].strip(),
        f"line in {ATTRIBUTION_NAME}": _attributed(dataset_uri, row),
        f"shard as {COMMIT_NAME} has it": storage.digest(storage.join(dataset_uri, shard))
        == dataset["files"][shard]["sha256"],
    }
    return Trace(
        row_id=row["id"],
        shard=shard,
        source_uri=source_uri,
        at_hand=bool(row["audio"]) and _at_hand(source_uri),
        family=family,
        missing=tuple(name for name, value in links.items() if not value),
        **{name: row[name] for name in ("split", "start_s", "duration_s", *ATTRIBUTION_COLUMNS)},
    )


def describe(chain: Trace) -> str:
    """The chain for people, a link per line, and whether it is complete."""
    own = "not stated: own work" if chain.family == "own-work" else ""
    end_s = chain.start_s + chain.duration_s
    lines = {
        "row": f"{chain.row_id} ({chain.split})",
        "shard": chain.shard,
        "segment": f"{chain.start_s:.2f} s to {end_s:.2f} s ({chain.duration_s:.2f} s) of track {chain.source_id}",
        "source file": f"{chain.audio} ({'at' if chain.at_hand else 'not at hand: was'} {chain.source_uri})",
        "title": chain.title or own,
        "artist": chain.artist or own,
        "licence": f"{chain.licence} (family: {chain.family or 'unknown'})",
        "URL": chain.source_url or own,
    }
    verdict = f"incomplete, missing: {', '.join(chain.missing)}" if chain.missing else "complete"
    return "\n".join(f"{name:<12} {value}" for name, value in [*lines.items(), ("chain", verdict)])
