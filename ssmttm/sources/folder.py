"""A folder of audio. What is known of `song.flac` comes from, first come first:

- sidecars beside it: `song.json`, an object with the manifest's fields or with the fields common in caption sets
  (`description`, `keywords`, `genre`, `moods`, `instrument`, `bpm`, `key`, ...), and `song.txt` or `song.caption.txt`,
  one caption per line;
- its row in `metadata.csv` or `metadata.jsonl`;
- tags embedded in it. Files are opened for them only if title, artist, licence or genre are stated nowhere else.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.sources.descriptions import Values, is_unicode, make_track, read_sidecars
from ssmttm.sources.embedded_tags import read_all_embedded
from ssmttm.sources.manifest import Track
from ssmttm.sources.metadata_table import read_tables
from ssmttm.sources.rejects import Reject
from ssmttm.sources.splits import hold_out

# What libsndfile reads and people keep music in.
AUDIO_EXTENSIONS = frozenset(
    {"wav", "w64", "rf64", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc", "au", "snd", "caf"}
)
EMBEDDED_FIELDS = frozenset({"title", "artist", "licence", "genre"})


def _links_outside(folder: str, names: list[str]) -> set[str]:
    """Names of links that lead outside the folder. Linked folders are among them: the listing does not enter them."""
    if storage.is_remote(folder):
        return set()
    root = os.path.realpath(storage.local_path(folder))
    paths = {name: os.path.join(root, name) for name in names}
    links = [name for name in names if os.path.islink(paths[name])]
    return {name for name in links if not os.path.realpath(paths[name]).startswith(root.rstrip("/") + "/")}


def scan_folder(folder: str) -> tuple[list[Track], list[Reject]]:
    """The tracks of a folder and the entries refused: `bad-entry`, or `outside-root` for what leads out of it."""
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
    rows, refused = read_tables(folder, present, frozenset(audio))
    rejects += refused
    described: dict[str, tuple[Values, list[str]]] = {}
    for name in audio:
        if name in outside:
            continue
        try:
            described[name] = read_sidecars(folder, posixpath.splitext(name)[0], present)
        except (UserError, UnicodeDecodeError) as error:
            rejects.append(Reject(name, storage.join(folder, name), "bad-entry", str(error)))
    incomplete = [
        n for n, (sidecar, _) in described.items() if EMBEDDED_FIELDS - sidecar.keys() - rows.get(n, {}).keys()
    ]
    embedded = dict(
        zip(incomplete, read_all_embedded([storage.join(folder, name) for name in incomplete]), strict=True)
    )
    tracks: dict[str, Track] = {}
    stated_splits = set()
    for name, (sidecar, lines) in described.items():
        uri, row = storage.join(folder, name), rows.get(name, {})
        try:
            track = make_track(posixpath.splitext(name)[0], uri, sidecar, lines, row, embedded.get(name, {}))
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
