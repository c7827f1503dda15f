"""Which tracks are let in, to a dataset or to what a codec learns from: licence, file, and the same audio under one
name alone; to a dataset, captions too.

The same audio is found by what is decoded, whatever the file's tags, name or lossless format: only tracks of equal
length can be the same, and of those only what agrees in one second from the middle is decoded whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from tqdm import tqdm

from ssmttm import licences, storage
from ssmttm.conditions.encoders import TextEncoder
from ssmttm.config import CorpusConfig
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import open_audio
from ssmttm.sources.manifest import Reject, Scan, Track
from ssmttm.sources.readers import scan_source
from ssmttm.tokens.decode import LENGTH_TOLERANCE_S, Decoding

READER_THREADS = 16


def licensed_tracks(corpus: CorpusConfig) -> Scan:
    """The tracks of `corpus.source` under a licence that is allowed, and all that is refused until then.

    Raises:
        UserError: as `scan_source` does.
    """
    tracks, rejects = scan_source(corpus.source, corpus)
    kept, refused = check_licences(tracks, corpus.allow_licences)
    return kept, rejects + refused


def check_licences(tracks: Iterable[Track], allowed: Sequence[str]) -> tuple[list[Track], list[Reject]]:
    """Keep tracks under an allowed licence, in whatever spelling; refuse the others."""
    kept, rejects = [], []
    for track in tracks:
        if not track.licence.strip():
            detail = "no licence stated; set corpus.default_licence if you know it"
            rejects.append(Reject(track.id, track.audio, "missing-licence", detail))
        elif not licences.is_allowed(track.licence, allowed):
            family = licences.normalise(track.licence)
            detail = f"'{track.licence}' is no licence that is known, and unknown terms are never let in"
            if family is not None:
                named = track.licence if family == track.licence else f"'{track.licence}', that is {family},"
                detail = f"{named} is not in corpus.allow_licences"
            rejects.append(Reject(track.id, track.audio, "licence-not-allowed", detail))
        else:
            kept.append(track)
    return kept, rejects


def drop_overlong_captions(tracks: Sequence[Track], encoder: TextEncoder) -> tuple[list[Track], list[Reject], int]:
    """Remove blank, repeated and over-long captions; refuse tracks left without one. Returns the number removed for
    their length."""
    cleaned = [
        replace(track, captions=tuple(dict.fromkeys(c.strip() for c in track.captions if c.strip())))
        for track in tracks
    ]
    overlong = overlong_captions(dict.fromkeys(c for track in cleaned for c in track.captions), encoder)
    kept, rejects = [], []
    for track in cleaned:
        captions = tuple(c for c in track.captions if c not in overlong)
        if captions:
            kept.append(replace(track, captions=captions))
        else:
            detail = f"all captions are over {encoder.max_tokens} tokens" if track.captions else "no caption"
            rejects.append(Reject(track.id, track.audio, "no-caption", detail))
    return kept, rejects, len(overlong)


def overlong_captions(captions: Iterable[str], encoder: TextEncoder) -> set[str]:
    """Captions with more tokens than the encoder takes."""
    overlong: set[str] = set()
    todo = [list(captions)]
    while todo:
        batch = todo.pop()
        try:
            if batch:
                encoder.tokenize(batch)
        except UserError:
            if len(batch) == 1:
                overlong.add(batch[0])
            else:
                todo += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return overlong


@dataclass(frozen=True)
class Measured:
    """A track whose duration is known, and the size of its file. claim: what header or table say of the duration, if
    that is not so."""

    track: Track
    file_bytes: int
    claim: str = ""


def look_at(track: Track, minimum_seconds: float) -> Measured | Reject:
    """Look at a track's file: its size, and the length of what it holds, whatever its header and the manifest say. On
    remote storage a stated length is believed until the file is fetched to be encoded.

    Raises:
        UserError: if the storage fails.
    """
    fs, path = storage.filesystem(track.audio)
    try:
        size = int(storage.with_retries(lambda: fs.size(path), track.audio) or 0)
        if track.duration_s and storage.is_remote(track.audio):
            return Measured(track, size)
        with open_audio(track.audio) as source:
            seconds, claim = source.seconds, source.claim
            if seconds < minimum_seconds:
                detail = claim or f"{seconds:.2f} s, the minimum is {minimum_seconds:g} s"
                return Reject(track.id, track.audio, "truncated" if source.is_cut else "too-short", detail)
    except UnusableAudioError as refused:
        return Reject(track.id, track.audio, refused.reason, refused.detail)
    except (FileNotFoundError, NotADirectoryError):
        return Reject(track.id, track.audio, "missing", "no such file")
    if track.duration_s and abs(track.duration_s - seconds) > LENGTH_TOLERANCE_S:
        claim = f"{track.duration_s:.2f} s are stated, {seconds:.2f} s are there"
    return Measured(replace(track, duration_s=seconds), size, f"{track.id}: {claim} and used" if claim else "")


def measure(tracks: Sequence[Track], corpus: CorpusConfig) -> tuple[list[Measured], list[Reject]]:
    """Look at every file; of the same audio under several names, the first is taken."""
    found: list[Measured] = []
    rejects: list[Reject] = []
    # Threads: files are opened, perhaps on an object store, and libsndfile lets others work.
    with ThreadPoolExecutor(READER_THREADS) as pool:
        measured = pool.map(lambda track: look_at(track, corpus.minimum_seconds), tracks)
        for one in tqdm(measured, desc="files", total=len(tracks), unit="file", leave=False):
            if isinstance(one, Measured):
                found.append(one)
            else:
                rejects.append(one)
        if corpus.duplicates == "reject":
            duplicates = find_duplicates([one.track for one in found], pool)
            rejects += duplicates
            again = {reject.id for reject in duplicates}
            found = [one for one in found if one.track.id not in again]
    return found, rejects


def decoding_of(corpus: CorpusConfig, sample_rate: int, vocals: str) -> Decoding:
    """How stretches of a corpus are decoded, and which are refused. vocals: see `Decoding`."""
    return Decoding(
        sample_rate, corpus.minimum_seconds, corpus.silence_dbfs, corpus.maximum_clipped, corpus.loudness, vocals
    )


def _digest(uri: str, begin_s: float | None = None) -> str | None:
    """SHA-256 of the decoded samples, of the whole or of the second from `begin_s` on; None if they cannot be had."""
    state = hashlib.sha256()
    with suppress(UnusableAudioError), open_audio(uri) as source:
        rate = source.sample_rate
        state.update(f"{rate} {source.channels}".encode())
        begin, count = (0, source.frames) if begin_s is None else (round(begin_s * rate), rate)
        for block_NC in source.read(begin, count):
            state.update(block_NC.tobytes())
        return state.hexdigest()
    return None


def _groups(tracks: Iterable[Track], keys: Iterable[Hashable]) -> list[list[Track]]:
    """Tracks with the same key, where there are several, in their order; those with the key None have none."""
    groups: dict[Hashable, list[Track]] = defaultdict(list)
    for track, key in zip(tracks, keys, strict=True):
        if key is not None:
            groups[key].append(track)
    return [group for group in groups.values() if len(group) > 1]


def _regroup(executor: Executor, groups: list[list[Track]], key: Callable[[Track], Hashable]) -> list[list[Track]]:
    flat = [track for group in groups for track in group]
    keys = iter(executor.map(key, flat))
    return [found for group in groups for found in _groups(group, [next(keys) for _ in group])]


def find_duplicates(tracks: Sequence[Track], executor: Executor) -> list[Reject]:
    """A reject for every track whose audio an earlier one has; their durations must be known. What cannot be decoded
    is left for later."""
    groups = _groups(tracks, [round(track.duration_s, 1) for track in tracks])
    groups = _regroup(executor, groups, lambda one: _digest(one.audio, max(0.0, one.duration_s / 2 - 0.5)))
    groups = _regroup(executor, groups, lambda one: _digest(one.audio))
    return [
        Reject(later.id, later.audio, "duplicate", f"the same audio as {group[0].id}")
        for group in groups
        for later in group[1:]
    ]
