"""MTG-Jamendo, as its repository (github.com/MTG/mtg-jamendo-dataset) and its downloader lay it out.

Read from the source folder or its `data`: `raw_30s_cleantags.tsv`, `audio_licenses.txt`, and, if there,
`raw.meta.tsv` (artists and titles) and `splits/split-0`. Audio lies in two-digit folders at any depth, `48/948.mp3`, or
in low quality `48/948.low.mp3`; the better one is taken if both are there.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources.fields import SPLIT_NAMES
from ssmttm.sources.manifest import Reject, Scan, Source, Track
from ssmttm.sources.splits import hold_out
from ssmttm.sources.tables import read_table_text, tsv_rows

TABLE = "raw_30s_cleantags.tsv"
LICENCES = "audio_licenses.txt"
NAMES = "raw.meta.tsv"
COLUMNS = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
TAGS_FROM = COLUMNS.index("TAGS")  # one cell for each tag from this one on
SPLIT_FOLDERS = ("data/splits/split-0", "splits/split-0", "split-0")
SPLIT_PARTS = ("train", "validation", "test")
CATEGORIES = {"genre": "genre", "instrument": "instrument", "mood/theme": "mood"}
TRACK_PAGE = "https://www.jamendo.com/track/{}"

_PATH = re.compile(r"\d\d/\d+\.mp3")
_AUDIO = re.compile(r"(?:.*/)?(\d\d/\d+)(\.low)?\.mp3")
_TRACK_ID = re.compile(r"track_0*(\d+)")
_CREDIT = re.compile(r"(?P<title>.*) by (?P<artist>.*) from Jamendo: ")
_ADDRESS = re.compile(r"https?://\S+")


class Credit(NamedTuple):
    """What `audio_licenses.txt` says of a track. licence: the licence's address."""

    licence: str
    artist: str
    title: str


def _find(folder: str, name: str) -> str | None:
    places = (storage.join(folder, name), storage.join(folder, "data", name))
    return next((uri for uri in places if storage.exists(uri)), None)


def parse_credits(text: str) -> dict[str, Credit]:
    """`audio_licenses.txt` by audio path. Blocks of three lines follow one another, with a line between them:

    48/948.mp3
    TITLE by ARTIST from Jamendo: http://www.jamendo.com/track/948
    Available under a Creative Commons ... license: http://creativecommons.org/licenses/...
    """
    lines = [line.strip() for line in text.split("\n")]
    starts = [number for number, line in enumerate(lines) if _PATH.fullmatch(line)]
    found = {}
    for start, end in pairwise([*starts, len(lines)]):
        block = [*lines[start + 1 : min(start + 3, end)], "", ""]
        credit, address = _CREDIT.match(block[0]), _ADDRESS.search(block[1])
        found[lines[start]] = Credit(
            address[0] if address else block[1],
            credit["artist"].strip() if credit else "",
            credit["title"].strip() if credit else "",
        )
    return found


def _read_names(folder: str) -> dict[str, tuple[str, str]]:
    """Artist and title by track id; empty without the file. Two published rows have an empty cell too many between
    title and artist."""
    uri = _find(folder, NAMES)
    rows = list(tsv_rows(uri)) if uri else []
    if not rows:
        return {}
    header = rows[0][1]
    if not {"TRACK_ID", "TRACK_NAME", "ARTIST_NAME"} <= set(header):
        raise UserError(f"{uri} must have the columns TRACK_ID, TRACK_NAME and ARTIST_NAME, got {', '.join(header)}")
    artist, title = header.index("ARTIST_NAME"), header.index("TRACK_NAME")
    names = {}
    for _, cells in rows[1:]:
        if len(cells) == len(header) + 1 and not cells[artist].strip():
            del cells[artist]
        if len(cells) == len(header):
            names[cells[header.index("TRACK_ID")]] = (cells[artist].strip(), cells[title].strip())
    return names


def _read_splits(folder: str) -> dict[str, Literal["train", "val"]]:
    """The first published split by track id; empty if the folder has none."""
    splits: dict[str, Literal["train", "val"]] = {}
    for place in (storage.join(folder, name) for name in SPLIT_FOLDERS):
        for part in SPLIT_PARTS:
            for uri in (storage.join(place, f"{part}.tsv"), storage.join(place, f"autotagging-{part}.tsv")):
                if storage.exists(uri):
                    splits |= {
                        cells[0]: SPLIT_NAMES[part] for _, cells in tsv_rows(uri) if _TRACK_ID.fullmatch(cells[0])
                    }
        if splits:
            break
    return splits


def _tags(cells: list[str]) -> dict[str, Any]:
    tags: dict[str, list[str]] = {}
    for cell in filter(None, (cell.strip() for cell in cells)):
        category, separator, tag = cell.partition("---")
        if not separator or not tag or category not in CATEGORIES:
            raise UserError(f"tag '{cell}' is not category---tag with a category of {', '.join(CATEGORIES)}")
        tags.setdefault(CATEGORIES[category], []).append(tag)
    return dict(tags)


def _track(
    cells: list[str],
    folder: str,
    audio: dict[str, str],
    credits: dict[str, Credit],
    names: dict[str, tuple[str, str]],
) -> Track:
    if len(cells) < TAGS_FROM:
        raise UserError(f"{len(cells)} cells, at least {TAGS_FROM} are needed")
    name, _, _, path, duration = cells[:TAGS_FROM]
    number = _TRACK_ID.fullmatch(name)
    if not number:
        raise UserError(f"TRACK_ID '{name}' is not track_NUMBER")
    if not _PATH.fullmatch(path):
        raise UserError(f"PATH '{path}' is not NN/NUMBER.mp3")
    try:
        seconds = float(duration)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"DURATION '{duration}' is not a number of seconds")
    credit = credits.get(path, Credit("", "", ""))
    artist, title = names.get(name, (credit.artist, credit.title))
    return Track(
        id=name,
        audio=storage.join(folder, audio.get(path, path)),
        captions=(),
        split="train",
        licence=credit.licence,
        artist=artist,
        title=title,
        source_url=TRACK_PAGE.format(number[1]),
        duration_s=seconds,
        tags=_tags(cells[TAGS_FROM:]),
    )


class JamendoSource(Source):
    """The tracks of the data set, whether or not their audio is there. Without a published split a share of the
    artists is held out; a track that the split leaves out goes with its artist, or into training."""

    def recognises(self, uri: str) -> bool:
        return _find(uri, TABLE) is not None

    def read(self, uri: str) -> Scan:
        return _scan(uri.rstrip("/"))


def _scan(folder: str) -> Scan:
    table, credits_uri = _find(folder, TABLE), _find(folder, LICENCES)
    if table is None:
        raise UserError(f"corpus.format=mtg-jamendo, but {folder} lacks {TABLE} (in it or in its data folder)")
    if credits_uri is None:
        raise UserError(f"{folder} lacks {LICENCES}, which lies beside the data folder of the MTG-Jamendo repository")
    rows = list(tsv_rows(table))
    if not rows or rows[0][1] != COLUMNS:
        raise UserError(f"{table} must have the columns {', '.join(COLUMNS)}, separated by TABs")
    credits, names, splits = parse_credits(read_table_text(credits_uri)), _read_names(folder), _read_splits(folder)
    matches = [match for match in map(_AUDIO.fullmatch, storage.list_files(folder)) if match]
    audio = {f"{match[1]}.mp3": match[0] for match in sorted(matches, key=lambda match: match[2] is None)}
    tracks: dict[str, Track] = {}
    artists: dict[str, str] = {}
    rejects: list[Reject] = []
    for line, cells in rows[1:]:
        try:
            track = _track(cells, folder, audio, credits, names)
            if track.id in tracks:
                raise UserError(f"{track.id} occurs twice")
            tracks[track.id], artists[track.id] = track, cells[COLUMNS.index("ARTIST_ID")]
        except UserError as error:
            rejects.append(Reject(f"line {line}", "", "bad-entry", f"{TABLE}: {error}"))
    if not splits:
        return hold_out(list(tracks.values()), keys=lambda track: [("artist", artists[track.id])]), rejects
    of_artist = {artists[name]: split for name, split in splits.items() if name in artists}
    return [
        replace(track, split=splits.get(name) or of_artist.get(artists[name], "train"))
        for name, track in tracks.items()
    ], rejects
