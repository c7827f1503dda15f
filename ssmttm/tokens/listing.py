"""What lies in a corpus or a token dataset, read for looking at: entries, rejects, and what is wrong."""

from __future__ import annotations

import json
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import pyarrow as pa
import soundfile
from tqdm import tqdm

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import MANIFEST_NAME, Track, write_manifest
from ssmttm.sources.readers import scan_source, source_root
from ssmttm.sources.rejects import REJECTS_NAME, Reject, read_rejects
from ssmttm.tokens.parts import read_columns
from ssmttm.tokens.plan import READER_THREADS, SHARD_FOLDER
from ssmttm.tokens.text_table import TEXT_FOLDER
from ssmttm.tokens.tokenize import COMMIT_NAME

T = TypeVar("T")
# Rejects of a scan that are faults of the corpus itself, not decisions about good files.
FAULTS = ("bad-entry", "missing")
ROW_COLUMNS = (
    *("id", "source_id", "split", "start_s", "duration_s", "frames", "text_keys"),
    *("licence", "artist", "title", "source_url", "audio", "tags"),
)


@dataclass(frozen=True)
class Entry:
    """A track of a corpus, or a row of a dataset: then `track` has the row's id, captions and length, and `audio` is
    the whole source file, in which the row begins at `start_s` seconds. shard: the row's file, relative to the
    dataset."""

    track: Track
    source_id: str
    start_s: float = 0.0
    shard: str = ""


@dataclass(frozen=True)
class Listing:
    """kind: what was found at `uri`. dataset: the content of `dataset.json`. present: URIs of the source files that
    are there. problems: one line each."""

    uri: str
    kind: Literal["corpus", "dataset"]
    entries: list[Entry]
    rejects: list[Reject]
    present: frozenset[str]
    problems: list[str]
    dataset: dict[str, Any] = field(default_factory=dict)


def bar(items: Iterable[T], name: str, unit: str, progress: bool, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar if `progress` and if someone is looking (stderr is a terminal)."""
    return tqdm(items, desc=name, unit=unit, total=total, leave=False, disable=None if progress else True)


def is_dataset(uri: str) -> bool:
    return storage.exists(storage.join(uri, COMMIT_NAME))


def shard_names(dataset: dict[str, Any]) -> list[str]:
    """Shard files of a dataset, relative to it, in order."""
    return sorted(name for name in dataset["files"] if name.startswith(f"{SHARD_FOLDER}/"))


def read_listing(uri: str, corpus: CorpusConfig, progress: bool = True) -> Listing:
    """List a corpus (anything `scan_source` reads) or a finished token dataset, with the files that lack or differ.

    Raises:
        UserError: if there is neither.
    """
    return _list_dataset(uri, progress) if is_dataset(uri) else _list_corpus(uri, corpus, progress)


def _present(root: str) -> frozenset[str]:
    return frozenset(storage.join(root, name) for name in storage.list_files(root))


def _at_hand(root: str) -> frozenset[str]:
    """`_present`, of a folder that a dataset remembers: it may lie on storage that this machine cannot reach."""
    try:
        return _present(root)
    except Exception as error:  # each kind of storage fails in its own way
        print(f"{root} cannot be listed ({error}); going on without its audio", file=sys.stderr)
        return frozenset()


def _header_seconds(uri: str) -> float:
    """Length by the file's header.

    Raises:
        UserError: if it cannot be read.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file, soundfile.SoundFile(file) as sound:
            return float(sound.frames / sound.samplerate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(str(error)) from None


def with_durations(
    tracks: Sequence[Track], present: frozenset[str], progress: bool = True
) -> tuple[list[Track], list[str]]:
    """Fill in the lengths that are not stated, from the headers of files in `present`; also one line for each that
    cannot be read."""
    unknown = [track for track in tracks if track.duration_s <= 0 and track.audio in present]

    def measured(track: Track) -> float | str:
        try:
            return _header_seconds(track.audio)
        except UserError as error:
            return f"cannot be read: {track.audio} ({error})"

    with ThreadPoolExecutor(READER_THREADS) as pool:
        found = list(bar(pool.map(measured, unknown), "lengths", "file", progress, len(unknown)))
    seconds = {track.id: value for track, value in zip(unknown, found, strict=True) if isinstance(value, float)}
    filled = [replace(track, duration_s=seconds.get(track.id, track.duration_s)) for track in tracks]
    return filled, [value for value in found if isinstance(value, str)]


def _list_corpus(uri: str, corpus: CorpusConfig, progress: bool) -> Listing:
    tracks, rejects = scan_source(uri, corpus)
    present = _present(source_root(uri))
    problems = [f"{r.reason}: {r.detail}" + (f" ({r.audio})" if r.audio else "") for r in rejects if r.reason in FAULTS]
    problems += [f"missing file: {track.audio}" for track in tracks if track.audio not in present]
    tracks, unreadable = with_durations(tracks, present, progress)
    entries = [Entry(track, track.id) for track in tracks]
    return Listing(uri, "corpus", entries, rejects, present, problems + unreadable)


def _damage(uri: str, files: dict[str, dict[str, Any]], progress: bool) -> dict[str, str]:
    """Files of a dataset that are missing or differ from the commit file, with a line about each."""
    damage = {}
    fs, path = storage.filesystem(uri)
    for name, expected in bar(files.items(), "files", "file", progress):
        file = storage.join(path, name)
        if not fs.exists(file):
            damage[name] = f"missing file: {name}"
        elif fs.size(file) != expected["bytes"] or storage.digest(storage.join(uri, name)) != expected["sha256"]:
            damage[name] = f"damaged file: {name} differs from its digest in {COMMIT_NAME}"
    return damage


def _captions(uri: str, names: Iterable[str]) -> dict[str, str]:
    tables = [read_columns(storage.join(uri, name), ["key", "caption"]) for name in names]
    return {row["key"]: row["caption"] for table in tables for row in table.to_pylist()}


def row_entries(table: pa.Table, shard: str, source: str, captions: dict[str, str]) -> list[Entry]:
    """The rows of a shard, read with `ROW_COLUMNS`. source: the corpus they were made from. captions: by key."""
    return [
        Entry(
            Track(
                id=row["id"],
                audio=storage.join(source_root(source), row["audio"]),
                captions=tuple(captions[key] for key in row["text_keys"] if key in captions),
                split=row["split"],
                duration_s=row["duration_s"],
                tags=json.loads(row["tags"]),
                **{name: row[name] for name in ("licence", "artist", "title", "source_url")},
            ),
            row["source_id"],
            row["start_s"],
            shard,
        )
        for row in table.to_pylist()
    ]


def _list_dataset(uri: str, progress: bool) -> Listing:
    dataset = storage.read_commit(uri, COMMIT_NAME, verify=False)
    damage = _damage(uri, dataset["files"], progress)
    whole = [name for name in dataset["files"] if name not in damage]
    source = dataset["config"]["corpus"]["source"]
    captions = _captions(uri, [name for name in whole if name.startswith(f"{TEXT_FOLDER}/")])
    entries = []
    for name in shard_names(dataset):
        if name not in damage:
            entries += row_entries(read_columns(storage.join(uri, name), ROW_COLUMNS), name, source, captions)
    repeated = [name for name, count in Counter(entry.track.id for entry in entries).items() if count > 1]
    return Listing(
        uri,
        "dataset",
        entries,
        read_rejects(uri) if REJECTS_NAME in whole else [],
        _at_hand(source_root(source)),
        [*damage.values(), *(f"id '{name}' occurs more than once" for name in repeated)],
        dataset,
    )


def write_scan(source: str, out: str | None, corpus: CorpusConfig, progress: bool = True) -> tuple[Listing, str]:
    """Write the manifest of what a source holds; returns the listing and the manifest's URI.

    Args:
        source: anything `scan_source` reads.
        out: the manifest, `*.jsonl` in the source's folder; default: `manifest.jsonl` there.
        corpus: layout and default licence.
        progress: show progress bars.

    Raises:
        UserError: if there is no source, or `out` lies elsewhere or exists: people may have edited it.
    """
    source = storage.absolute(source)
    root = source_root(source)
    manifest = storage.join(root, MANIFEST_NAME) if out is None else storage.absolute(out)
    if not manifest.endswith(".jsonl") or posixpath.dirname(manifest) != root:
        raise UserError(f"--out {out} must be a .jsonl file in {root}: a manifest's paths are relative to its folder")
    if storage.exists(manifest):
        raise UserError(f"{manifest} exists and may have been edited; give another --out, or delete it")
    listing = _list_corpus(source, corpus, progress)
    write_manifest(manifest, [entry.track for entry in listing.entries])
    return listing, manifest
