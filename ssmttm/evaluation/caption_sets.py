"""Captions written by people, for evaluation: MusicCaps and the Song Describer Dataset, in their published CSV files.

Their audio is not ours to fetch: a caption names it, by YouTube address and seconds or by MTG-Jamendo path.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass

from ssmttm.errors import UserError
from ssmttm.sources.tables import csv_rows

MUSICCAPS = (
    "ytid",
    "start_s",
    "end_s",
    "audioset_positive_labels",
    "aspect_list",
    "caption",
    "author_id",
    "is_balanced_subset",
    "is_audioset_eval",
)
SONG_DESCRIBER = (
    "caption_id",
    "track_id",
    "caption",
    "is_valid_subset",
    "familiarity",
    "artist_id",
    "album_id",
    "path",
    "duration",
)


@dataclass(frozen=True)
class Caption:
    """A caption and the audio it describes.

    id: `ytid` or `caption_id`. audio: YouTube address, or path inside MTG-Jamendo. start_s, end_s: the described
    stretch, in seconds. in_subset: member of the subset that results are reported on (MusicCaps: the genre-balanced
    one; Song Describer: the validated one). aspects: MusicCaps' list of phrases.
    """

    id: str
    caption: str
    audio: str
    start_s: float
    end_s: float
    in_subset: bool
    aspects: tuple[str, ...] = ()


def _seconds(values: dict[str, str], name: str) -> float:
    try:
        seconds = float(values[name])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{name} '{values[name]}' is not a number of seconds")
    return seconds


def _flag(values: dict[str, str], name: str) -> bool:
    if values[name].lower() not in ("true", "false", ""):
        raise UserError(f"{name} '{values[name]}' is neither True nor False")
    return values[name].lower() == "true"


def _aspects(text: str) -> tuple[str, ...]:
    """A Python list of texts."""
    try:
        aspects = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        aspects = None
    if not isinstance(aspects, list) or not all(isinstance(aspect, str) for aspect in aspects):
        raise UserError(f"aspect_list {text[:60]!r} is not a list of texts")
    return tuple(aspects)


def _musiccaps(values: dict[str, str]) -> Caption:
    start, end = _seconds(values, "start_s"), _seconds(values, "end_s")
    address = f"https://www.youtube.com/watch?v={values['ytid']}"
    subset = _flag(values, "is_balanced_subset")
    return Caption(values["ytid"], values["caption"], address, start, end, subset, _aspects(values["aspect_list"]))


def _song_describer(values: dict[str, str]) -> Caption:
    end, subset = _seconds(values, "duration"), _flag(values, "is_valid_subset")
    return Caption(values["caption_id"], values["caption"], values["path"], 0.0, end, subset)


READERS: dict[tuple[str, ...], Callable[[dict[str, str]], Caption]] = {
    MUSICCAPS: _musiccaps,
    SONG_DESCRIBER: _song_describer,
}


def read_captions(uri: str) -> list[Caption]:
    """The captions of a MusicCaps or Song Describer CSV file, told apart by their headers, in the file's order.

    Raises:
        UserError: if the header is neither's (naming both), or a row is malformed (naming the line).
    """
    rows = csv_rows(uri)
    _, header = next(rows, (1, []))
    reader = READERS.get(tuple(header))
    if reader is None:
        expected = "; or ".join(", ".join(columns) for columns in READERS)
        raise UserError(f"{uri} has the columns {', '.join(header)}; expected {expected}")
    captions: dict[str, Caption] = {}
    for line, cells in rows:
        try:
            if len(cells) != len(header):
                raise UserError(f"{len(cells)} cells, the header has {len(header)}")
            caption = reader({name: cell.strip() for name, cell in zip(header, cells, strict=True)})
            if not caption.id or not caption.caption:
                raise UserError("no id or no caption")
            if caption.id in captions:
                raise UserError(f"id '{caption.id}' occurs twice")
        except UserError as error:
            raise UserError(f"{uri} line {line}: {error}") from None
        captions[caption.id] = caption
    return list(captions.values())
