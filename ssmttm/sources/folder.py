"""A folder of audio. What is known of `song.flac` comes from, first come first:

- sidecars beside it: `song.json`, an object with the manifest's fields or with the fields common in caption sets
  (`description`, `keywords`, `genre`, `moods`, `instrument`, `bpm`, `key`, ...), and `song.txt` or `song.caption.txt`,
  one caption per line;
- its row in `metadata.csv` or `metadata.jsonl`: one per file, named in `file_name` relative to the table (the
  convention of Hugging Face's audiofolder), other columns as in sidecars;
- tags embedded in it: title, artist, genre and licence, as libsndfile finds them (ID3, Vorbis comments, INFO), which
  gives no tempo. Files are opened for them only if one of these is stated nowhere else.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import soundfile

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources import licences
from ssmttm.sources.manifest import SPLIT_NAMES, Reject, Scan, Source, Track, hold_out, is_unicode
from ssmttm.sources.tables import csv_rows, read_table_text

# What libsndfile reads and people keep music in.
AUDIO_EXTENSIONS = frozenset(
    {"wav", "w64", "rf64", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc", "au", "snd", "caf"}
)
EMBEDDED_FIELDS = frozenset({"title", "artist", "licence", "genre"})
READER_THREADS = 16
TABLE_NAMES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMN = "file_name"
NUMBER_COLUMNS = ("bpm", "duration_s")
# Fields that describe the music: kept as tags, and those of a sidecar joined into one caption in this order.
ATTRIBUTE_FIELDS = ("genre", "moods", "mood", "instrument", "instruments", "lead", "keywords", "bpm", "key", "mode")
ATTRIBUTE_FORMATS = {"bpm": "{} bpm", "key": "key of {}", "lead": "{} lead"}
ALIASES = {
    "captions": ("captions", "caption", "text"),
    "licence": ("licence", "license"),
    "artist": ("artist", "author"),
    "title": ("title", "name"),
    "source_url": ("source_url", "url"),
}
SIDECAR_TEXTS = (".txt", ".caption.txt")

Values = Mapping[str, Any]
Row = dict[str, Any] | UserError


class FolderSource(Source):
    """Any folder of audio files, with what is said about them beside and inside them."""

    def recognises(self, uri: str) -> bool:
        return storage.exists(uri)

    def read(self, uri: str) -> Scan:
        return _scan(uri.rstrip("/"))


def _scan(folder: str) -> Scan:
    found = storage.list_files(folder)
    listed = [name for name in found if is_unicode(name)]
    outside = _links_outside(folder, listed)
    rejects = [
        Reject(name.encode(errors="replace").decode(), "", "bad-entry", "the file's name is not UTF-8; rename it")
        for name in found
        if not is_unicode(name)
    ]
    rejects += [
        Reject(name, storage.join(folder, name), "outside-root", "a link that leads outside the folder")
        for name in sorted(outside)
    ]
    present = frozenset(listed) - outside
    audio = [name for name in listed if posixpath.splitext(name)[1][1:].lower() in AUDIO_EXTENSIONS]
    rows, refused = _read_tables(folder, present, frozenset(audio))
    rejects += refused
    described: dict[str, tuple[Values, list[str]]] = {}
    for name in audio:
        if name in outside:
            continue
        try:
            described[name] = _read_sidecars(folder, posixpath.splitext(name)[0], present)
        except (UserError, UnicodeDecodeError) as error:
            rejects.append(Reject(name, storage.join(folder, name), "bad-entry", str(error)))
    incomplete = [
        n for n, (sidecar, _) in described.items() if EMBEDDED_FIELDS - sidecar.keys() - rows.get(n, {}).keys()
    ]
    embedded = dict(
        zip(incomplete, _read_all_embedded([storage.join(folder, name) for name in incomplete]), strict=True)
    )
    tracks: dict[str, Track] = {}
    stated_splits = set()
    for name, (sidecar, lines) in described.items():
        uri, row = storage.join(folder, name), rows.get(name, {})
        try:
            track = _make_track(posixpath.splitext(name)[0], uri, sidecar, lines, row, embedded.get(name, {}))
            if track.id in tracks:  # the same name with two extensions
                track = replace(track, id=name)
            if track.id in tracks:
                raise UserError(f"id '{track.id}' occurs twice; ids must be unique")
        except UserError as error:
            rejects.append(Reject(name, uri, "bad-entry", str(error)))
            continue
        tracks[track.id] = track
        if "split" in sidecar or "split" in row:
            stated_splits.add(track.id)
    return hold_out(list(tracks.values()), stated_splits), rejects


def _links_outside(folder: str, names: list[str]) -> set[str]:
    """Names of links that lead outside the folder. Linked folders are among them: the listing does not enter them."""
    if storage.is_remote(folder):
        return set()
    root = os.path.realpath(storage.local_path(folder))
    paths = {name: os.path.join(root, name) for name in names}
    links = [name for name in names if os.path.islink(paths[name])]
    return {name for name in links if not os.path.realpath(paths[name]).startswith(root.rstrip("/") + "/")}


def _with_our_names(values: Values) -> dict[str, Any]:
    """Values without empty ones, aliases replaced by the name that we use."""
    ours = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, aliases in ALIASES.items():
        stated = [ours.pop(alias) for alias in aliases if alias in ours]
        if stated:
            ours[name] = stated[0]
    return ours


def _read_sidecars(folder: str, stem: str, present: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """Fields and caption lines stated beside an audio file. present: the names of the folder's files.

    Raises:
        UserError: if a sidecar is malformed.
    """
    values: dict[str, Any] = {}
    if stem + ".json" in present:
        uri = storage.join(folder, stem + ".json")
        values = storage.read_json(uri)
        if not isinstance(values, dict):
            raise UserError(f"{uri} must be a JSON object")
    texts = [storage.read_text(storage.join(folder, stem + end)) for end in SIDECAR_TEXTS if stem + end in present]
    return _with_our_names(values), [line for text in texts for line in text.splitlines()]


def _text(values: Values, name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{name} must be text, got {value!r}")
    return value


def _words(value: Any) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, list) else str(value)


def _captions(values: Values) -> list[str]:
    stated = values.get("captions", [])
    stated = [stated] if isinstance(stated, str) else stated
    if not isinstance(stated, list) or not all(isinstance(caption, str) for caption in stated):
        raise UserError("captions must be a list of texts")
    return [*stated, _text(values, "description")]


def _tags(values: Values) -> dict[str, Any]:
    tags = values.get("tags", {})
    if not isinstance(tags, dict):
        raise UserError("tags must be a JSON object")
    return {**{name: values[name] for name in ATTRIBUTE_FIELDS if values.get(name)}, **tags}


def _joined(tags: Values) -> str:
    return ", ".join(ATTRIBUTE_FORMATS.get(n, "{}").format(_words(tags[n])) for n in ATTRIBUTE_FIELDS if tags.get(n))


def _make_track(stem: str, uri: str, sidecar: Values, lines: Sequence[str], row: Values, embedded: Values) -> Track:
    """The track of one audio file. All values bear our names; lines: captions of the text sidecars.

    Raises:
        UserError: if a value is malformed.
    """
    stated = {**embedded, **row, **sidecar}
    split = stated.get("split", "train")
    duration = stated.get("duration_s", 0.0)
    if not isinstance(split, str) or split not in SPLIT_NAMES:
        raise UserError(f"split must be one of {', '.join(SPLIT_NAMES)}, got {split!r}")
    if not isinstance(duration, int | float) or not 0 <= duration < math.inf:
        raise UserError(f"duration_s must be a number of seconds, got {duration!r}")
    own = [caption.strip() for caption in (*_captions(sidecar), *lines) if caption.strip()]
    captions = [*(own or _captions(row)), _joined(_tags(sidecar))]
    track = Track(
        id=_text(stated, "id") or stem,
        audio=uri,
        captions=tuple(dict.fromkeys(caption.strip() for caption in captions if caption.strip())),
        split=SPLIT_NAMES[split],
        licence=_text(stated, "licence"),
        artist=_text(stated, "artist"),
        title=_text(stated, "title"),
        source_url=_text(stated, "source_url"),
        duration_s=float(duration),
        tags=_tags(stated),
    )
    if not is_unicode(json.dumps(asdict(track), ensure_ascii=False)):
        raise UserError("its description holds halves of surrogate pairs, which are no characters")
    return track


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
    return _with_our_names(values)


def _read_tables(
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


def read_embedded(uri: str) -> dict[str, str]:
    """The tags of one file; none if it cannot be opened, which is told when it is preprocessed.

    A licence counts only if it is one that we know: the field mostly holds a copyright notice.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as stream, soundfile.SoundFile(stream) as file:
            found = file.copy_metadata()
    except (soundfile.LibsndfileError, FileNotFoundError, PermissionError, IsADirectoryError):
        return {}
    tags = {name: found.get(name, "").strip() for name in ("title", "artist", "genre")}
    notices = [found.get(name, "").strip() for name in ("license", "copyright")]
    tags["licence"] = next((notice for notice in notices if licences.normalise(notice)), "")
    return {name: value for name, value in tags.items() if value}


def _read_all_embedded(uris: Sequence[str]) -> list[dict[str, str]]:
    """`read_embedded` of many files. Threads: each has to be opened, perhaps on an object store."""
    with ThreadPoolExecutor(READER_THREADS) as pool:
        return list(pool.map(read_embedded, uris))
