"""A folder of audio. What is known of `song.flac` comes from, first come first:

- sidecars beside it: `song.json`, an object with the manifest's fields or with those of other caption sets
  (`fields.py`), and `song.txt`, `song.caption.txt` or `song_prompt.txt`, one caption per line; each may also be called
  after the whole name, as `song.flac.txt`;
  an object may state the track's course too (`score.py`): `beats`, `chords`, `key` or a whole `score`;
- its row in `metadata.csv`, `metadata.tsv` or `metadata.jsonl`: one per file, named in `file_name` relative to the
  table (the convention of Hugging Face's audiofolder), other columns as in sidecars;
- tags embedded in it: title, artist, album, genre and licence, as libsndfile and FFmpeg find them (ID3, Vorbis
  comments, INFO, iTunes), which gives no tempo. Files are opened for them only if one of these is stated nowhere else;
- the folder it lies in, if that is called as a part of a data set: `train`, `validation`, `test`, ...

Letter case and Unicode form make no difference to whose a sidecar or row is, where only one file could be meant.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssmttm import licences, opener, storage
from ssmttm.errors import UserError
from ssmttm.opener import AUDIO_EXTENSIONS, UNREAD_EXTENSIONS
from ssmttm.sources.fields import ATTRIBUTE_FIELDS, SPLIT_NAMES, captions, field_name, read_fields, same_name
from ssmttm.sources.manifest import Reject, Scan, Source, Track, free_id, is_unicode
from ssmttm.sources.score import read_score
from ssmttm.sources.splits import hold_out
from ssmttm.sources.tables import csv_rows, parse_json, read_table_text

# What lies beside music, and is none. What is called anything else is looked into.
COMPANION_EXTENSIONS = frozenset(
    {"txt", "json", "jsonl", "csv", "tsv", "md", "yaml", "yml", "xml", "html", "htm", "pdf", "doc", "docx", "rtf"}
    | {"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "svg", "ico", "psd"}
    | {"lrc", "cue", "log", "nfo", "sfv", "md5", "m3u", "m3u8", "pls", "url", "ini", "db", "zip", "gz", "tar", "7z"}
    | {"py", "sh", "parquet", "npy", "npz", "pt", "safetensors", "tmp"}
)
EMBEDDED_FIELDS = ("title", "artist", "licence")
READER_THREADS = 16
SEPARATORS = {"metadata.csv": (",", ";", "\t", "|"), "metadata.tsv": ("\t",)}  # that a table may have, likeliest first
TABLE_NAMES = (*SEPARATORS, "metadata.jsonl")
# What peers call the column that names the file.
FILE_COLUMNS = ("file_name", "filename", "file", "path", "audio", "audio_path", "audio_file", "audio_filepath")
ATTRIBUTE_FORMATS = {"bpm": "{} bpm", "key": "key of {}", "lead": "{} lead"}
SIDECAR_TEXTS = (".txt", ".caption.txt", "_prompt.txt")
SIDECAR_OBJECT = ".json"


Values = Mapping[str, Any]
# The number of a table's row, what it states, and what is wrong with it, if anything is.
Row = tuple[int, Values, str]


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
    present = [name for name in listed if name not in outside]
    audio = [name for name in present if is_audio(name)]
    rejects += _unread(folder, present)
    rows, refused = _read_tables(folder, present, audio)
    rejects += refused
    sidecars = _Sidecars(present, audio)
    described: dict[str, _Said] = {}
    for name in audio:
        try:
            said = sidecars.read(folder, name)
            row = rows.get(name, {})
            if isinstance(row, UserError):
                raise row
            said.row = read_fields(row)
            said.state_score(name, storage.join(folder, name), row)
            described[name] = said
            rejects += said.rejects
        except UserError as error:
            rejects.append(Reject(name, storage.join(folder, name), "bad-entry", str(error)))
    incomplete = [name for name, said in described.items() if said.lacks_embedded()]
    embedded = _read_all_embedded([storage.join(folder, name) for name in incomplete])
    for name, tags in zip(incomplete, embedded, strict=True):
        described[name].embedded = read_fields(tags)
    tracks: dict[str, Track] = {}
    stated_splits = set()
    for name, said in described.items():
        track = _make_track(name, storage.join(folder, name), said)
        track = replace(track, id=free_id([track.id, name], tracks))  # as of a name with two extensions
        tracks[track.id] = track
        if said.split or _split_of_folder(name):
            stated_splits.add(track.id)
    return hold_out(list(tracks.values()), stated_splits), rejects


def is_audio(name: str) -> bool:
    """Whether a file is called as audio is."""
    return _extension(name) in AUDIO_EXTENSIONS


def _extension(name: str) -> str:
    """The extension of a file's name in small letters, also of one that is nothing else, as `.wav`."""
    return posixpath.basename(name).rpartition(".")[2].lower() if "." in posixpath.basename(name) else ""


def _stem(name: str) -> str:
    return name[: -len(_extension(name)) - 1]


def _split_of_folder(name: str) -> Literal["train", "val"] | None:
    """What the outermost folder in a path that is called as a part of a data set stands for."""
    folders = map(same_name, posixpath.dirname(name).split("/"))
    return next((SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES), None)


def _unread(folder: str, names: Iterable[str]) -> list[Reject]:
    """A line for each file that looks like sound and is not read."""
    rejects = []
    for name in sorted(names):
        extension = _extension(name)
        uri = storage.join(folder, name)
        if extension in UNREAD_EXTENSIONS:
            detail = f"files that end in .{extension} are not read; make FLAC or WAV of it"
            rejects.append(Reject(name, uri, "not-audio", detail))
        elif extension not in AUDIO_EXTENSIONS | COMPANION_EXTENSIONS and opener.looks_like_sound(uri):
            detail = "it begins like sound, but is not called so; give its name an ending such as .wav"
            rejects.append(Reject(name, uri, "not-audio", detail))
    return rejects


def _links_outside(folder: str, names: list[str]) -> set[str]:
    """Names of links that lead outside the folder. Linked folders are among them: the listing does not enter them."""
    if storage.is_remote(folder):
        return set()
    root = os.path.realpath(storage.local_path(folder))
    paths = {name: os.path.join(root, name) for name in names}
    links = [name for name in names if os.path.islink(paths[name])]
    return {name for name in links if not os.path.realpath(paths[name]).startswith(root.rstrip("/") + "/")}


@dataclass
class _Said:
    """What is said of one file, under our names. lines: captions of its text sidecars. rejects: sidecars that could not
    be read, which cost the track nothing else."""

    sidecar: Values
    lines: list[str]
    rejects: list[Reject]
    row: Values = field(default_factory=dict)
    embedded: Values = field(default_factory=dict)
    score: Values = field(default_factory=dict)

    def state_score(self, name: str, uri: str, values: Values) -> None:
        """Take what values state of the track's course, as far as nothing did before; what makes no sense becomes a
        reject, which costs the track nothing else."""
        try:
            self.score = {**read_score(values), **self.score}
        except UserError as error:
            self.rejects.append(Reject(name, uri, "bad-entry", f"{error}; {name} goes on without it"))

    def lacks_embedded(self) -> bool:
        """Whether something is stated nowhere that may stand in the file itself."""
        stated = (self.sidecar, self.row)
        return not all(any(name in values for values in stated) for name in EMBEDDED_FIELDS) or not any(
            "genre" in values.get("tags", {}) for values in stated
        )

    @property
    def split(self) -> Literal["train", "val"] | None:
        return self.sidecar.get("split") or self.row.get("split")


class _Sidecars:
    """Which of a folder's files describe which of its audio."""

    def __init__(self, present: Iterable[str], audio: Iterable[str]):
        self._named: dict[str, list[str]] = defaultdict(list)
        for name in present:
            if _extension(name) in ("txt", "json"):
                self._named[same_name(name)].append(name)
        self._owners = {owner for name in audio for owner in (name, _stem(name))}

    def of(self, name: str, end: str) -> list[str]:
        """The files called as audio `name` with `end`: exactly, or else but for letter case and Unicode form, if they
        are no other audio's."""
        found = []
        for base in (_stem(name), name):
            alike = self._named.get(same_name(base) + end, [])
            # `a_prompt.txt` belongs to a_prompt.wav, where that is there.
            alike = [one for one in alike if end == SIDECAR_TEXTS[0] or one[: -len(".txt")] not in self._owners]
            exact = [one for one in alike if one[: -len(end)] == base]
            found += exact or [one for one in alike if one[: -len(end)] not in self._owners]
        return list(dict.fromkeys(found))

    def read(self, folder: str, name: str) -> _Said:
        """What is stated beside an audio file.

        Raises:
            UserError: if an object is malformed: its licence or split would be lost.
        """
        values: dict[str, Any] = {}
        objects = [_read_object(storage.join(folder, one)) for one in self.of(name, SIDECAR_OBJECT)]
        for stated in objects:
            values = {**read_fields(stated), **values}
        lines, rejects = [], []
        for one in (one for end in SIDECAR_TEXTS for one in self.of(name, end)):
            try:
                lines += read_table_text(storage.join(folder, one)).splitlines()
            except UserError as error:
                detail = f"{error}; {name} goes on without it"
                rejects.append(Reject(one, storage.join(folder, name), "bad-entry", detail))
        said = _Said(values, captions(lines), rejects)
        for stated in objects:
            said.state_score(name, storage.join(folder, name), stated)
        return said


def _read_object(uri: str) -> Values:
    """A JSON object, or the only one of a list; an empty file states nothing."""
    text = read_table_text(uri)
    try:
        values = parse_json(text) if text.strip() else {}
    except UserError as error:
        raise UserError(f"{uri} is {error}") from None
    if isinstance(values, list) and len(values) == 1:
        (values,) = values
    if not isinstance(values, dict | None):
        raise UserError(f"{uri} must be a JSON object")
    return values or {}


def _joined(tags: Values) -> str:
    texts = {name: tags[name] for name in ATTRIBUTE_FIELDS if name in tags}
    return ", ".join(
        ATTRIBUTE_FORMATS.get(name, "{}").format(", ".join(value) if isinstance(value, list) else value)
        for name, value in texts.items()
    )


def _make_track(name: str, uri: str, said: _Said) -> Track:
    stated = {**said.embedded, **said.row, **said.sidecar}
    tags = {**said.embedded.get("tags", {}), **said.row.get("tags", {}), **said.sidecar.get("tags", {})}
    own = [*said.sidecar.get("captions", []), *said.lines] or said.row.get("captions", [])
    joined = _joined(said.sidecar.get("tags", {}))
    return Track(
        id=stated.get("id") or _stem(name) or name,
        audio=uri,
        captions=tuple(dict.fromkeys([*own, joined] if joined else own)),
        split=said.split or _split_of_folder(name) or "train",
        licence=stated.get("licence", ""),
        artist=stated.get("artist", ""),
        title=stated.get("title", ""),
        source_url=stated.get("source_url", ""),
        duration_s=stated.get("duration_s", 0.0),
        tags=tags,
        score=dict(said.score),
    )


def _csv_header(uri: str) -> tuple[str, list[str], int]:
    """Separator and field names of a table that names files, and the number of lines before its rows.

    Raises:
        UserError: if no column does.
    """
    separators = SEPARATORS[same_name(posixpath.basename(uri))]
    first = read_table_text(uri).split("\n", 1)[0].strip()
    told = re.fullmatch(r"\"?sep=(.)\"?", first, re.IGNORECASE)  # a line for spreadsheets
    for separator in (told[1],) if told else separators:
        rows = csv_rows(uri, separator)
        line, header = next(rows, (1, []))
        if told:
            line, header = next(rows, (2, []))
        names = [field_name(name) for name in header]
        if set(names) & set(FILE_COLUMNS):
            return separator, names, line
    raise UserError(f"{uri} has no column {FILE_COLUMNS[0]}; add it, with paths relative to the table")


def _from_csv(uri: str) -> Iterator[Row]:
    separator, header, first = _csv_header(uri)
    for number, cells in csv_rows(uri, separator):
        if number <= first:
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()  # spreadsheets end lines with empty cells, or leave these out
        values: dict[str, Any] = {}
        for name, cell in zip(header, cells, strict=False):
            if cell.strip():
                values.setdefault(name, cell)
        long = f"{len(cells)} cells, the header has {len(header)}; put quotes around texts with '{separator}' in them"
        yield number, values, long if len(cells) > len(header) else ""


def _from_jsonl(uri: str) -> Iterator[Row]:
    for number, line in enumerate(read_table_text(uri).split("\n"), start=1):
        if line.strip():
            try:
                values = parse_json(line)
                yield (number, values, "") if isinstance(values, dict) else (number, {}, "must be a JSON object")
            except UserError as error:
                yield number, {}, str(error)


def _files_by_name(audio: Iterable[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = defaultdict(list)
    for name in audio:
        named[same_name(name)].append(name)
    return named


def _file_named(values: Values) -> str:
    """The file that a row names, in whichever column.

    Raises:
        UserError: if it names none.
    """
    stated = {field_name(name): value for name, value in values.items()}
    named = next((stated[column] for column in FILE_COLUMNS if stated.get(column)), None)
    if isinstance(named, dict):  # as audio columns are exported
        named = named.get("path")
    if not isinstance(named, str) or not named.strip():
        raise UserError(f"{FILE_COLUMNS[0]} must name a file, got {named!r}")
    return named


def _target(root: str, folder: str, name: str, audio: Mapping[str, Sequence[str]]) -> str | None:
    """The audio file that `name` means in a table in `folder`: exactly, or else but for letter case and Unicode form,
    if that is one; with slashes of either kind. None if it leads outside the source.

    Raises:
        UserError: if there is no such file.
    """
    outside = True
    for spelt in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
        path = spelt.removeprefix(f"{root}/") if spelt.startswith(f"{root}/") else posixpath.join(folder, spelt)
        path = posixpath.normpath(path)
        alike = audio.get(same_name(path), [])
        if path in alike or len(alike) == 1:
            return path if path in alike else alike[0]
        leaves = path == ".." or path.startswith(("../", "/")) or "://" in spelt
        outside = outside and leaves
    if outside:
        return None
    raise UserError(f"{name!r} is no audio file of the folder")


def _read_tables(
    folder: str, names: Iterable[str], audio: Iterable[str]
) -> tuple[dict[str, Values | UserError], list[Reject]]:
    """What the tables among the folder's `names` state of its `audio` files, by name, or what is wrong with it; and the
    rows that name none."""
    stated: dict[str, Values | UserError] = {}
    rejects: list[Reject] = []
    files = _files_by_name(audio)
    for table in sorted(name for name in names if same_name(posixpath.basename(name)) in TABLE_NAMES):
        uri = storage.join(folder, table)
        try:
            for number, values, fault in (_from_jsonl if same_name(table).endswith(".jsonl") else _from_csv)(uri):
                where = f"{table} line {number}"
                try:
                    if fault and not values:
                        raise UserError(fault)
                    name = _file_named(values)
                    target = _target(folder, posixpath.dirname(table), name, files)
                    if target is None:
                        rejects.append(Reject(where, "", "outside-root", f"{name!r} leads outside the folder"))
                    elif target in stated:
                        raise UserError(f"{name!r} has a row already")
                    else:
                        stated[target] = UserError(f"{where}: {fault}") if fault else values
                except UserError as error:
                    rejects.append(Reject(where, "", "bad-entry", str(error)))
        except UserError as error:
            rejects.append(Reject(table, uri, "bad-entry", str(error)))
    return stated, rejects


def read_embedded(uri: str) -> dict[str, str]:
    """The tags of one file; none if it cannot be opened, which is told when it is preprocessed.

    A licence counts only if it is one that we know: the field mostly holds a copyright notice.
    """
    found = opener.read_tags(uri)
    tags = {name: found.get(name, "").strip() for name in ("title", "artist", "album", "genre")}
    stated, notice = (found.get(name, "").strip() for name in ("license", "copyright"))
    tags["licence"] = stated if licences.normalise(stated) else notice if licences.of_notice(notice) else ""
    return {name: value for name, value in tags.items() if value}


def _read_all_embedded(uris: Sequence[str]) -> list[dict[str, str]]:
    """`read_embedded` of many files. Threads: each has to be opened, perhaps on an object store."""
    with ThreadPoolExecutor(READER_THREADS) as pool:
        return list(pool.map(read_embedded, uris))
