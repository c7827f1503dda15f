"""Where tracks come from: a manifest, a folder of audio, or a data set in the layout it is published in."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from dataclasses import asdict, replace

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources import fma, jamendo
from ssmttm.sources.descriptions import is_unicode
from ssmttm.sources.folder import AUDIO_EXTENSIONS, scan_folder
from ssmttm.sources.manifest import MANIFEST_NAME, OutsideRootError, Track, parse_line
from ssmttm.sources.rejects import Reason, Reject
from ssmttm.sources.tag_captions import complete_captions

Scan = tuple[list[Track], list[Reject]]

# Published layouts: what a folder lacks of each (nothing: it is one), and its reader.
LAYOUTS: dict[str, tuple[Callable[[str], list[str]], Callable[[str], Scan]]] = {
    "mtg-jamendo": (jamendo.missing_from, jamendo.scan_jamendo),
    "fma": (fma.missing_from, fma.scan_fma),
}


def source_root(uri: str) -> str:
    """The folder that audio paths of a source are relative to."""
    return posixpath.dirname(uri) if uri.endswith(".jsonl") else uri.rstrip("/")


def relative_to_source(audio: str, source: str) -> str:
    """An audio URI without the source's folder, so that stored datasets name no local folder."""
    return audio.removeprefix(source_root(source) + "/")


def read_source(uri: str, corpus: CorpusConfig) -> list[Track]:
    """The tracks of a source, usable or not: licences, files and lengths are checked when they are preprocessed.

    `corpus.format` names the layout; `auto` takes `uri` for a manifest if it is one (`*.jsonl`) or holds
    `manifest.jsonl`, else for a published data set whose tables it holds, else for a folder of audio. Tracks that state
    no licence get `corpus.default_licence`, or an empty one; captions are completed (see `complete_captions`).

    Raises:
        UserError: if the source does not exist, is not of the layout named, or holds no track.
    """
    return scan_source(uri, corpus)[0]


def scan_source(uri: str, corpus: CorpusConfig) -> Scan:
    """`read_source`, with the entries refused (`bad-entry`, `outside-root`)."""
    tracks, rejects = _scan(uri, corpus.format)
    if not tracks and not rejects:
        raise UserError(
            f"corpus.source={uri} holds no tracks; audio files end in {', '.join(sorted(AUDIO_EXTENSIONS))}"
        )
    default = corpus.default_licence or ""
    tracks = [t if t.licence.strip() else replace(t, licence=default) for t in tracks]
    return complete_captions(tracks, corpus), rejects


def _scan(uri: str, layout: str) -> Scan:
    folder = uri.rstrip("/")
    manifest = uri if uri.endswith(".jsonl") else storage.join(uri, MANIFEST_NAME)
    if layout in ("auto", "manifest") and storage.exists(manifest):
        return _scan_manifest(manifest)
    if not storage.exists(uri):
        raise UserError(f"corpus.source={uri} does not exist; give a folder of audio or one with a {MANIFEST_NAME}")
    if layout == "manifest":
        raise UserError(
            f"corpus.format=manifest, but {manifest} does not exist; corpus.format=folder reads plain audio"
        )
    for name, (missing_from, scan) in LAYOUTS.items():
        if layout not in ("auto", name):
            continue
        missing = missing_from(folder)
        if not missing:
            return scan(folder)
        if layout == name:
            raise UserError(f"corpus.format={name}, but {uri} lacks {' and '.join(missing)}")
    return scan_folder(folder)


def _scan_manifest(uri: str) -> Scan:
    """Unlike `manifest.read_manifest`, bad lines do not end the reading."""
    tracks: dict[str, Track] = {}
    rejects = []
    for number, line in enumerate(storage.read_text(uri).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            track = parse_line(line, source_root(uri), where)
            if track.id in tracks:
                raise UserError(f"{where}: id '{track.id}' occurs twice; ids must be unique")
            if not is_unicode(json.dumps(asdict(track), ensure_ascii=False)):
                raise UserError(f"{where} holds halves of surrogate pairs, which are no characters")
            tracks[track.id] = track
        except UserError as error:
            reason: Reason = "outside-root" if isinstance(error, OutsideRootError) else "bad-entry"
            rejects.append(Reject(where, "", reason, str(error)))
    return list(tracks.values()), rejects
