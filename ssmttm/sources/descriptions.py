"""What is said about one audio file, under its many names, made into a `Track`.

Sources, first come first: a sidecar (`song.json`, `song.txt`, `song.caption.txt`), a row of a metadata table, tags
embedded in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Track
from ssmttm.sources.splits import SPLIT_NAMES

Values = Mapping[str, Any]

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


def with_our_names(values: Values) -> dict[str, Any]:
    """Values without empty ones, aliases replaced by the name that we use."""
    ours = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, aliases in ALIASES.items():
        stated = [ours.pop(alias) for alias in aliases if alias in ours]
        if stated:
            ours[name] = stated[0]
    return ours


def read_sidecars(folder: str, stem: str, present: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
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
    return with_our_names(values), [line for text in texts for line in text.splitlines()]


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


def is_unicode(*texts: str) -> bool:
    """Whether texts can be stored: JSON may hold, and file names may decode to, halves of surrogate pairs."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def make_track(stem: str, uri: str, sidecar: Values, lines: Sequence[str], row: Values, embedded: Values) -> Track:
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
