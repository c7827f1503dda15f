"""Where tracks come from: a manifest, or a folder of audio with sidecar files beside it.

Sidecars of `song.flac`: `song.json`, an object with the manifest's fields or with the fields common in caption sets
(`description`, `keywords`, `genre`, `moods`, `instrument`, `bpm`, `key`, ...), and `song.txt`, one caption per line.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import replace
from typing import Any

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.corpus.manifest import MANIFEST_NAME, SPLITS, Track, parse_line
from ssmttm.corpus.rejects import Reject
from ssmttm.errors import UserError

AUDIO_EXTENSIONS = frozenset({"wav", "flac", "ogg", "opus", "mp3", "aif", "aiff"})
VALIDATION_SHARE = 0.05

# Sidecar fields that describe the music: kept as tags, and joined into one caption in this order.
ATTRIBUTE_FIELDS = ("genre", "moods", "mood", "instrument", "instruments", "lead", "keywords", "bpm", "key", "mode")
ATTRIBUTE_FORMATS = {"bpm": "{} bpm", "key": "key of {}", "lead": "{} lead"}
TEXT_ALIASES = {
    "licence": ("licence", "license"),
    "artist": ("artist", "author"),
    "title": ("title", "name"),
    "source_url": ("source_url", "url"),
}


def source_root(uri: str) -> str:
    """The folder that audio paths of a source are relative to."""
    return posixpath.dirname(uri) if uri.endswith(".jsonl") else uri.rstrip("/")


def relative_to_source(audio: str, source: str) -> str:
    """An audio URI without the source's folder, so that stored datasets name no local folder."""
    return audio.removeprefix(source_root(source) + "/")


def read_source(uri: str, corpus: CorpusConfig) -> list[Track]:
    """The tracks of a source, usable or not: licences, files and lengths are checked when they are preprocessed.

    A manifest is read if `uri` is one (`*.jsonl`) or holds `manifest.jsonl`; any other folder is searched for audio.
    Tracks that state no licence get `corpus.default_licence`, or an empty one.

    Raises:
        UserError: if the source does not exist or holds no track.
    """
    return scan_source(uri, corpus)[0]


def scan_source(uri: str, corpus: CorpusConfig) -> tuple[list[Track], list[Reject]]:
    """`read_source`, with the entries that could not be understood (reason `bad-entry`)."""
    manifest = uri if uri.endswith(".jsonl") else storage.join(uri, MANIFEST_NAME)
    if storage.exists(manifest):
        tracks, rejects = _scan_manifest(manifest)
    elif storage.exists(uri):
        tracks, rejects = _scan_folder(uri.rstrip("/"))
    else:
        raise UserError(f"corpus.source={uri} does not exist; give a folder of audio or one with a {MANIFEST_NAME}")
    if not tracks and not rejects:
        raise UserError(
            f"corpus.source={uri} holds no tracks; audio files end in {', '.join(sorted(AUDIO_EXTENSIONS))}"
        )
    default = corpus.default_licence or ""
    return [t if t.licence.strip() else replace(t, licence=default) for t in tracks], rejects


def _scan_manifest(uri: str) -> tuple[list[Track], list[Reject]]:
    """Unlike `manifest.read_manifest`, bad lines do not end the reading."""
    tracks: dict[str, Track] = {}
    rejects = []
    for number, line in enumerate(storage.read_text(uri).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            track = parse_line(line, source_root(uri), where)
            if track.id in tracks:
                raise UserError(f"{where}: id '{track.id}' occurs twice; ids must be unique")
            tracks[track.id] = track
        except UserError as error:
            rejects.append(Reject(where, "", "bad-entry", str(error)))
    return list(tracks.values()), rejects


def _scan_folder(folder: str) -> tuple[list[Track], list[Reject]]:
    names = storage.list_files(folder)
    present = set(names)
    tracks: dict[str, Track] = {}
    rejects = []
    stated_splits = set()
    for name in names:
        stem, extension = posixpath.splitext(name)
        if extension[1:].lower() not in AUDIO_EXTENSIONS:
            continue
        uri = storage.join(folder, name)
        try:
            sidecar = _read_sidecar(storage.join(folder, stem + ".json")) if stem + ".json" in present else {}
            lines = storage.read_text(storage.join(folder, stem + ".txt")) if stem + ".txt" in present else ""
            track = _from_sidecar(stem, uri, sidecar, lines.splitlines())
            if track.id in tracks:  # the same name with two extensions
                track = replace(track, id=name)
            if track.id in tracks:
                raise UserError(f"id '{track.id}' occurs twice; ids must be unique")
        except (UserError, UnicodeDecodeError) as error:
            rejects.append(Reject(name, uri, "bad-entry", str(error)))
            continue
        tracks[track.id] = track
        if "split" in sidecar:
            stated_splits.add(track.id)
    return _split([(track, track.id in stated_splits) for track in tracks.values()]), rejects


def _read_sidecar(uri: str) -> dict[str, Any]:
    values = storage.read_json(uri)
    if not isinstance(values, dict):
        raise UserError(f"{uri} must be a JSON object")
    return values


def _text(values: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = values.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise UserError(f"{name} must be text, got {value!r}")
            return value
    return ""


def _words(value: Any) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, list) else str(value)


def _captions(values: dict[str, Any], tags: dict[str, Any], lines: list[str]) -> tuple[str, ...]:
    stated = values.get("captions", values.get("caption", []))
    stated = [stated] if isinstance(stated, str) else stated
    if not isinstance(stated, list) or not all(isinstance(caption, str) for caption in stated):
        raise UserError("captions must be a list of texts")
    attributes = [ATTRIBUTE_FORMATS.get(n, "{}").format(_words(tags[n])) for n in ATTRIBUTE_FIELDS if tags.get(n)]
    captions = [*stated, _text(values, ("description",)), *lines, ", ".join(attributes)]
    return tuple(dict.fromkeys(caption.strip() for caption in captions if caption.strip()))


def _from_sidecar(stem: str, uri: str, values: dict[str, Any], lines: list[str]) -> Track:
    split = values.get("split", "train")
    duration = values.get("duration_s", 0.0)
    tags = values.get("tags", {})
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not isinstance(duration, int | float) or not duration >= 0:
        raise UserError(f"duration_s must be a number of seconds, got {duration!r}")
    if not isinstance(tags, dict):
        raise UserError("tags must be a JSON object")
    tags = {**{name: values[name] for name in ATTRIBUTE_FIELDS if values.get(name)}, **tags}
    return Track(
        id=_text(values, ("id",)) or stem,
        audio=uri,
        captions=_captions(values, tags, lines),
        split=split,
        duration_s=float(duration),
        tags=tags,
        **{field: _text(values, names) for field, names in TEXT_ALIASES.items()},
    )


def _split(tracks: list[tuple[Track, bool]]) -> list[Track]:
    """Hold out `VALIDATION_SHARE` of the tracks that state no split, but at least one of several. The choice hangs on
    a hash of the id, so that files added later move no other track."""

    def rank(track: Track) -> float:
        return int.from_bytes(hashlib.sha256(track.id.encode()).digest()[:8]) / 2**64

    free = sorted((track for track, stated in tracks if not stated), key=rank)
    held_out = {track.id for track in free if rank(track) < VALIDATION_SHARE}
    if not held_out and len(free) > 1 and all(track.split != "val" for track, _ in tracks):
        held_out = {free[0].id}
    return [replace(track, split="val") if track.id in held_out else track for track, _ in tracks]
