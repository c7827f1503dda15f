"""FMA, as github.com/mdeff/fma publishes it: `fma_metadata/tracks.csv`, and audio in `fma_small`, `fma_medium`,
`fma_large` (clips of 30 s) or `fma_full` (whole tracks) as `000/000002.mp3`.

If there, `fma_metadata/genres.csv` names the genres and `fma_metadata/raw_tracks.csv` the tracks' pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources.fields import SPLIT_NAMES
from ssmttm.sources.manifest import Reject, Scan, Source, Track
from ssmttm.sources.tables import csv_rows

METADATA = "fma_metadata"
TRACKS = f"{METADATA}/tracks.csv"
# Audio folders, largest first, and the values of ('set', 'subset') whose tracks they hold.
FOLDERS: dict[str, frozenset[str]] = {
    "fma_full": frozenset({"small", "medium", "large"}),
    "fma_large": frozenset({"small", "medium", "large"}),
    "fma_medium": frozenset({"small", "medium"}),
    "fma_small": frozenset({"small"}),
}
WHOLE_TRACKS = "fma_full"
CLIP_SECONDS = 30.0
HEADER_ROWS = 3  # two levels of column names, then the name of the index
# Our names of the columns that are read, each with its two levels.
COLUMNS = {
    "split": ("set", "split"),
    "subset": ("set", "subset"),
    "artist": ("artist", "name"),
    "title": ("track", "title"),
    "licence": ("track", "license"),
    "duration": ("track", "duration"),
    "genre_top": ("track", "genre_top"),
    "genres": ("track", "genres"),
}


def _missing_from(folder: str) -> list[str]:
    """What a folder lacks to be this data set."""
    missing = [] if storage.exists(storage.join(folder, TRACKS)) else [TRACKS]
    return missing if _audio_folder(folder) else [*missing, f"an audio folder ({', '.join(FOLDERS)})"]


def _audio_folder(folder: str) -> str | None:
    return next((name for name in FOLDERS if storage.exists(storage.join(folder, name))), None)


def _columns(first: list[str], second: list[str], uri: str) -> dict[str, int]:
    levels = list(zip(first, second, strict=False))
    missing = [str(column) for column in COLUMNS.values() if column not in levels]
    if missing:
        raise UserError(f"{uri} lacks the columns {', '.join(missing)} in its first two rows")
    return {name: levels.index(column) for name, column in COLUMNS.items()}


def _read_flat(folder: str, name: str, key: str, value: str) -> dict[str, str]:
    """One column by another of a table with a plain header; empty without the table."""
    uri = storage.join(folder, METADATA, name)
    rows = csv_rows(uri) if storage.exists(uri) else iter(())
    _, header = next(rows, (1, []))
    if header and not {key, value} <= set(header):
        raise UserError(f"{uri} must have the columns {key} and {value}")
    return {cells[header.index(key)]: cells[header.index(value)] for _, cells in rows if len(cells) == len(header)}


def _genre_names(values: dict[str, str], names: dict[str, str]) -> list[str]:
    """The top genre, then those of `genres`, a list of numbers such as `[21, 76]`."""
    try:
        numbers = json.loads(values["genres"] or "[]")
    except ValueError:
        numbers = None
    if not isinstance(numbers, list):
        raise UserError(f"('track', 'genres') '{values['genres']}' is not a list of numbers")
    found = [names[str(number)] for number in numbers if str(number) in names]
    return list(dict.fromkeys(filter(None, [values["genre_top"], *found])))


def _rows(folder: str) -> Iterator[tuple[int, str, dict[str, str] | None]]:
    """Line, track number and values by our names; None for a row that does not fit the header."""
    uri = storage.join(folder, TRACKS)
    rows = csv_rows(uri)
    header = [cells for _, cells in (next(rows, (0, [])) for _ in range(HEADER_ROWS))]
    if header[2][:1] != ["track_id"]:
        raise UserError(f"{uri} must have a header of three rows, the third beginning with track_id")
    columns = _columns(header[0], header[1], uri)
    for line, cells in rows:
        fits = len(cells) == len(header[0])
        yield line, cells[0], {name: cells[at].strip() for name, at in columns.items()} if fits else None


class FmaSource(Source):
    """The tracks that belong into the largest audio folder there is."""

    def recognises(self, uri: str) -> bool:
        return not _missing_from(uri)

    def read(self, uri: str) -> Scan:
        return _scan(uri.rstrip("/"))


def _scan(folder: str) -> Scan:
    if missing := _missing_from(folder):
        raise UserError(f"corpus.format=fma, but {folder} lacks {' and '.join(missing)}")
    audio = _audio_folder(folder)
    assert audio is not None
    genres = _read_flat(folder, "genres.csv", "genre_id", "title")
    pages = _read_flat(folder, "raw_tracks.csv", "track_id", "track_url")
    tracks: dict[str, Track] = {}
    rejects: list[Reject] = []
    for line, number, values in _rows(folder):
        try:
            if values is None:
                raise UserError("another number of cells than the header has")
            if values["subset"] not in FOLDERS[WHOLE_TRACKS] or values["split"] not in SPLIT_NAMES:
                raise UserError(f"unknown subset or split: '{values['subset']}', '{values['split']}'")
            if not (number.isascii() and number.isdigit()):
                raise UserError(f"track_id '{number}' is not a number")
            if values["subset"] in FOLDERS[audio]:
                track = _track(int(number), values, storage.join(folder, audio), genres, pages.get(number, ""))
                if track.id in tracks:
                    raise UserError(f"track_id '{number}' occurs twice")
                tracks[track.id] = track
        except UserError as error:
            rejects.append(Reject(f"line {line}", "", "bad-entry", f"{TRACKS}: {error}"))
    return list(tracks.values()), rejects


def _track(number: int, values: dict[str, str], audio: str, genres: dict[str, str], page: str) -> Track:
    name = f"{number:06d}"
    try:
        seconds = float(values["duration"] or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"('track', 'duration') '{values['duration']}' is not a number of seconds")
    named = _genre_names(values, genres)
    return Track(
        id=f"fma_{name}",
        audio=storage.join(audio, name[:3], f"{name}.mp3"),
        captions=(),
        split=SPLIT_NAMES[values["split"]],
        licence=values["licence"],
        artist=values["artist"],
        title=values["title"],
        source_url=page,
        duration_s=seconds if audio.endswith(WHOLE_TRACKS) else min(seconds, CLIP_SECONDS),
        tags={"genre": named} if named else {},
    )
