"""Every source of tracks by its name in the configuration, and reading one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.opener import AUDIO_EXTENSIONS
from ssmttm.registry import Registry
from ssmttm.sources.captions import complete_captions
from ssmttm.sources.fma import FmaSource
from ssmttm.sources.folder import FolderSource, is_audio
from ssmttm.sources.jamendo import JamendoSource
from ssmttm.sources.manifest import MANIFEST_NAME, ManifestSource, Scan, Source, Track, relative_to_source, source_root

# By `corpus.format`. `auto` asks from the last to the first: any folder is one of audio, a manifest overrules tables.
SOURCES: Registry[type[Source]] = Registry(
    "corpus.format",
    {"folder": FolderSource, "fma": FmaSource, "mtg-jamendo": JamendoSource, "manifest": ManifestSource},
)


def read_source(uri: str, corpus: CorpusConfig) -> list[Track]:
    """The tracks of a source, usable or not: licences, files and lengths are checked when they are preprocessed.

    `corpus.format` names the layout; `auto` takes `uri` for a manifest if it is one (`*.jsonl`) or holds
    `manifest.jsonl`, else for a published data set whose tables it holds, else for a folder of audio. Tracks that state
    no licence get `corpus.default_licence`, or an empty one; captions are completed (see `complete_captions`).

    Raises:
        UserError: if the source does not exist, is not of the layout named, or holds no track.
    """
    return scan_source(uri, corpus)[0]


def scan_source(uri: str, corpus: CorpusConfig, past_manifest: bool = False) -> Scan:
    """`read_source`, with the entries refused (`bad-entry`, `outside-root`). With `past_manifest`, `auto` overlooks a
    manifest that a folder holds."""
    source = _source(uri, corpus.format, past_manifest and not uri.endswith(".jsonl"))
    if not source.recognises(uri) and not storage.exists(uri):
        raise UserError(f"corpus.source={uri} does not exist; give a folder of audio or one with a {MANIFEST_NAME}")
    tracks, rejects = source.read(uri)
    if not tracks and not rejects:
        raise UserError(
            f"corpus.source={uri} holds no tracks; audio files end in {', '.join(sorted(AUDIO_EXTENSIONS))}"
        )
    default = corpus.default_licence or ""
    tracks = [t if t.licence.strip() else replace(t, licence=default) for t in tracks]
    return complete_captions(tracks, corpus), rejects


def unlisted(uri: str, corpus: CorpusConfig, tracks: Iterable[Track]) -> list[str]:
    """Audio files in a manifest's folder that it does not list, relative to it; none of a source of another kind."""
    if not (corpus.format in ("auto", "manifest") and ManifestSource().recognises(uri)):
        return []
    root = source_root(uri)
    listed = {relative_to_source(track.audio, root) for track in tracks}
    found = [name for name in storage.list_files(root) if is_audio(name) and name not in listed]
    return [name.encode(errors="replace").decode() for name in found]


def _source(uri: str, name: str, past_manifest: bool) -> Source:
    if name == "auto":
        known = [kind() for kind in reversed(SOURCES.values()) if not (past_manifest and kind is ManifestSource)]
        return next((source for source in known if source.recognises(uri)), known[-1])
    return SOURCES.find(name)()
