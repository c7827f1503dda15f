"""Tracks and rejects, which every source is read as, and the files that list them: one JSON object per line.

`manifest.jsonl` describes audio files, their captions and where they came from; if they lie in another folder than it
does, its first line names that. `rejects.jsonl` says what was refused, and why.
"""

from __future__ import annotations

import itertools
import json
import posixpath
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from ssmttm import storage
from ssmttm.conditions.registry import check_score
from ssmttm.containers import AudioReason
from ssmttm.errors import UserError
from ssmttm.sources.fields import read_fields
from ssmttm.sources.tables import parse_json, read_table_text

MANIFEST_NAME = "manifest.jsonl"
FOLDER_FIELD = "folder"  # of the first line of a manifest that lies elsewhere than the audio
REJECTS_NAME = "rejects.jsonl"

Reason = Literal[
    "missing-licence",
    "licence-not-allowed",
    "bad-entry",
    "outside-root",
    "no-caption",
    AudioReason,
    "too-short",
    "not-finite",
    "silent",
    "clipped",
    "duplicate",
]


@dataclass(frozen=True)
class Track:
    """One audio file. `audio` is relative to the manifest's folder in the file and a full URI once read;
    `duration_s` is in seconds; `tags` holds whatever else is known (genre, tempo, ...), as JSON values. `score` holds
    what is known of its course (beats, chords, ...) by the names of controls and in the form of requests, in seconds
    from its beginning (`conditions/timeline.py`)."""

    id: str
    audio: str
    captions: tuple[str, ...]
    split: Literal["train", "val"]
    licence: str
    artist: str
    title: str
    source_url: str
    duration_s: float
    tags: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)


_FIELDS = tuple(entry.name for entry in fields(Track))
_REQUIRED = tuple(name for name in _FIELDS if name not in ("tags", "score"))


@dataclass(frozen=True)
class Reject:
    """A refused track or segment.

    id: track id, or segment id where the rest of the track was kept. audio: its URI. reason: a short fixed code.
    detail: one line for people. segments, seconds: what it takes away of what was planned; nothing where it was refused
    before.
    """

    id: str
    audio: str
    reason: Reason
    detail: str
    segments: int = 0
    seconds: float = 0.0


Scan = tuple[list[Track], list[Reject]]


class Source(ABC):
    """One layout that tracks can be read from, such as a published data set's."""

    @abstractmethod
    def recognises(self, uri: str) -> bool:
        """Whether `uri`, a folder or file that may not exist, is of this layout."""

    @abstractmethod
    def read(self, uri: str) -> Scan:
        """The tracks, usable or not, and the entries that make no sense (`bad-entry`) or lead out of the source's
        folder (`outside-root`).

        Raises:
            UserError: if it is not of this layout, naming what is missing.
        """


def source_root(uri: str) -> str:
    """The folder that audio paths of a source are relative to: the one that a manifest names in its first line, else
    the one that holds it."""
    if not uri.endswith(".jsonl"):
        return uri.rstrip("/")
    try:
        named = _named_folder(read_table_text(uri).partition("\n")[0])
    except Exception:  # of a finished dataset: the manifest may be gone, on storage out of reach, or never have been
        named = None
    return named or posixpath.dirname(uri)


def _named_folder(line: str) -> str | None:
    """The folder that a manifest's first line names: `{"folder": URI}`; None if it is a track's."""
    try:
        values = parse_json(line)
    except UserError:
        return None
    if not isinstance(values, dict) or set(values) != {FOLDER_FIELD} or not isinstance(values[FOLDER_FIELD], str):
        return None
    return values[FOLDER_FIELD].rstrip("/") or "/"


def relative_to_source(audio: str, root: str) -> str:
    """An audio URI without the source's folder (`source_root`), so that stored datasets name no local folder."""
    return audio.removeprefix(root.rstrip("/") + "/")


def is_unicode(*texts: str) -> bool:
    """Whether texts can be stored: JSON may hold, and file names may decode to, halves of surrogate pairs."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def free_id(wanted: Sequence[str], taken: Container[str]) -> str:
    """The first of the ids wanted that is not taken, else the last of them with a number."""
    numbered = (f"{wanted[-1]} ({number})" for number in itertools.count(2))
    return next(name for name in itertools.chain(wanted, numbered) if name not in taken)


class OutsideRootError(UserError):
    """An audio path that leaves the manifest's folder."""


def _resolve(folder: str, audio: str, where: str) -> str:
    relative = posixpath.normpath(audio)
    if "://" in audio or audio.startswith("/") or relative == ".." or relative.startswith("../") or not audio:
        raise OutsideRootError(f"{where}: audio '{audio}' must be a path inside {folder}, relative to it")
    return storage.join(folder, relative)


def _parse_line(line: str, folder: str, where: str) -> Track:
    """One line of a manifest that lies in `folder`. Values in another shape than we write them are read as in sidecars.

    Raises:
        UserError: beginning with `where`, if it is malformed or its audio path leaves the folder.
    """
    try:
        values = parse_json(line)
    except UserError as error:
        raise UserError(f"{where} is {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a JSON object, one per line")
    missing = [name for name in _REQUIRED if name not in values]
    unknown = [name for name in values if name not in _FIELDS]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
        raise UserError(f"{where} {problem}; the fields are {', '.join(_FIELDS)}")
    audio = values.pop("audio")
    if not isinstance(audio, str) or not is_unicode(audio):
        raise UserError(f"{where}: audio must be text, got {audio!r}")
    try:
        score = check_score(values.pop("score", {}))
        stated = read_fields(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Track(
        id=stated.get("id") or audio,
        audio=_resolve(folder, audio, where),
        captions=tuple(stated.get("captions", ())),
        split=stated.get("split", "train"),
        licence=stated.get("licence", ""),
        artist=stated.get("artist", ""),
        title=stated.get("title", ""),
        source_url=stated.get("source_url", ""),
        duration_s=stated.get("duration_s", 0.0),
        tags=stated.get("tags", {}),
        score=score,
    )


def _manifest_uri(uri: str) -> str:
    """The manifest that `uri` names, or that the folder `uri` may hold."""
    return uri if uri.endswith(".jsonl") else storage.join(uri, MANIFEST_NAME)


class ManifestSource(Source):
    """A manifest, by its own URI or by the folder that holds it; audio paths come out as full URIs."""

    def recognises(self, uri: str) -> bool:
        return storage.exists(_manifest_uri(uri))

    def read(self, uri: str) -> Scan:
        manifest = _manifest_uri(uri)
        if not storage.exists(manifest):
            raise UserError(
                f"corpus.format=manifest, but {manifest} does not exist; corpus.format=folder reads plain audio"
            )
        lines = read_table_text(manifest).split("\n")
        root, first = posixpath.dirname(manifest), 1
        if named := _named_folder(lines[0]):
            if manifest != uri and named != root:  # it came with its folder: perhaps from somebody else
                raise UserError(f"{manifest} is about audio in {named}; give {manifest} itself as corpus.source")
            root, first = named, 2
        tracks: dict[str, Track] = {}
        rejects = []
        for number, line in enumerate(lines[first - 1 :], start=first):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                track = _parse_line(line, root, where)
                if track.id in tracks:
                    raise UserError(f"{where}: id '{track.id}' occurs twice; ids must be unique")
                tracks[track.id] = track
            except UserError as error:
                reason: Reason = "outside-root" if isinstance(error, OutsideRootError) else "bad-entry"
                rejects.append(Reject(where, "", reason, str(error)))
        return list(tracks.values()), rejects


def write_manifest(uri: str, tracks: Iterable[Track], root: str | None = None, before: str = "") -> None:
    """Write a manifest to its own URI or into a folder; full audio URIs inside `root` become relative to it.

    Args:
        uri: of the manifest, or of the folder for one.
        tracks: what to list.
        root: the folder that holds the audio, named in the first line; default: the manifest's own.
        before: lines of an earlier manifest, which stay above the tracks as they are.

    Raises:
        UserError: if an audio path lies outside the folder.
    """
    manifest = _manifest_uri(uri)
    folder = posixpath.dirname(manifest) if root is None else root
    lines = [before if before.endswith("\n") or not before else before + "\n"]
    if folder != posixpath.dirname(manifest) and not before:
        lines.append(json.dumps({FOLDER_FIELD: folder}, ensure_ascii=False) + "\n")
    for track in tracks:
        audio = relative_to_source(track.audio, folder)
        _resolve(folder, audio, f"track {track.id}")
        values = {**asdict(track), "audio": audio}
        if not track.score:
            del values["score"]  # as it was before there were any
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    storage.write_text(manifest, "".join(lines))


def merged(rejects: Iterable[Reject]) -> list[Reject]:
    """One reject for each id and reason, in order of first appearance: a file whose segments lie in several shards is
    refused in each."""
    found: dict[tuple[str, str], Reject] = {}
    for reject in rejects:
        key = (reject.id, reject.reason)
        before = found.get(key)
        if before is not None:
            reject = replace(
                before, segments=before.segments + reject.segments, seconds=before.seconds + reject.seconds
            )
        found[key] = reject
    return list(found.values())


def to_jsonl(rejects: Iterable[Reject]) -> str:
    return "".join(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects)


def read_rejects(folder: str) -> list[Reject]:
    """The rejects of a dataset folder."""
    text = storage.read_text(storage.join(folder, REJECTS_NAME))
    return [Reject(**json.loads(line)) for line in text.splitlines()]


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Number of rejects per reason, most frequent first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())
