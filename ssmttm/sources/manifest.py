"""The manifest: one JSON object per line describing an audio file, its captions and where it came from."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ssmttm import storage
from ssmttm.errors import UserError

MANIFEST_NAME = "manifest.jsonl"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Track:
    """One audio file. `audio` is relative to the manifest's folder in the file and a full URI once read;
    `duration_s` is in seconds; `tags` holds whatever else is known (genre, tempo, ...), as JSON values."""

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


_FIELDS = tuple(entry.name for entry in fields(Track))
_REQUIRED = tuple(name for name in _FIELDS if name != "tags")
_TEXT_FIELDS = ("id", "audio", "split", "licence", "artist", "title", "source_url")


class OutsideRootError(UserError):
    """An audio path that leaves the manifest's folder."""


def _resolve(folder: str, audio: str, where: str) -> str:
    relative = posixpath.normpath(audio)
    if "://" in audio or audio.startswith(("/", "~")) or relative.startswith("..") or "\\" in audio or not audio:
        raise OutsideRootError(f"{where}: audio '{audio}' must be a path inside {folder}, relative to it")
    return storage.join(folder, relative)


def parse_line(line: str, folder: str, where: str) -> Track:
    """One line of a manifest that lies in `folder`.

    Raises:
        UserError: beginning with `where`, if it is malformed or its audio path leaves the folder.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a JSON object, one per line")
    missing = [name for name in _REQUIRED if name not in values]
    unknown = [name for name in values if name not in _FIELDS]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
        raise UserError(f"{where} {problem}; the fields are {', '.join(_FIELDS)}")
    for name in _TEXT_FIELDS:
        if not isinstance(values[name], str):
            raise UserError(f"{where}: {name} must be text, got {values[name]!r}")
    captions = values["captions"]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: captions must be a list of texts")
    if values["split"] not in SPLITS:
        raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, got {values['split']!r}")
    if not isinstance(values["duration_s"], int | float) or not values["duration_s"] >= 0:
        raise UserError(f"{where}: duration_s must be a number of seconds, got {values['duration_s']!r}")
    if not isinstance(values.get("tags", {}), dict):
        raise UserError(f"{where}: tags must be a JSON object")
    values["captions"] = tuple(captions)
    return Track(**{**values, "audio": _resolve(folder, values["audio"], where)})


def read_manifest(uri: str) -> list[Track]:
    """Read a manifest from its own URI or from the folder that holds it; audio paths come out as full URIs.

    Raises:
        UserError: if it is missing or empty, a line is malformed, an id occurs twice, or an audio path leaves the
            manifest's folder. The message names the file and line.
    """
    file_uri = uri if uri.endswith((".jsonl", ".json")) else storage.join(uri, MANIFEST_NAME)
    folder = posixpath.dirname(file_uri) or "."
    tracks: dict[str, Track] = {}
    for number, line in enumerate(storage.read_text(file_uri).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file_uri} line {number}"
        track = parse_line(line, folder, where)
        if track.id in tracks:
            raise UserError(f"{where}: id '{track.id}' occurs twice; ids must be unique")
        tracks[track.id] = track
    if not tracks:
        raise UserError(f"{file_uri} holds no tracks")
    return list(tracks.values())


def write_manifest(uri: str, tracks: Iterable[Track]) -> None:
    """Write a manifest to its own URI or into a folder; full audio URIs inside the folder become relative.

    Raises:
        UserError: if an audio path lies outside the manifest's folder.
    """
    file_uri = uri if uri.endswith((".jsonl", ".json")) else storage.join(uri, MANIFEST_NAME)
    folder = posixpath.dirname(file_uri) or "."
    lines = []
    for track in tracks:
        audio = track.audio.removeprefix(folder.rstrip("/") + "/")
        _resolve(folder, audio, f"track {track.id}")
        lines.append(json.dumps({**asdict(track), "audio": audio}, ensure_ascii=False) + "\n")
    storage.write_text(file_uri, "".join(lines))
