"""The same audio under two names: found by what is decoded, whatever the file's tags, name or lossless format.

Only tracks of equal length can be the same, and of those only what agrees in one second from the middle is decoded
whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from ssmttm.sources.decode import RefusedError, open_audio
from ssmttm.sources.manifest import Track
from ssmttm.sources.rejects import Reject


def _digest(uri: str, begin_s: float | None = None) -> str | None:
    """SHA-256 of the decoded samples, of the whole or of the second from `begin_s` on; None if they cannot be had."""
    state = hashlib.sha256()
    with suppress(RefusedError), open_audio(uri) as source:
        rate = source.file.samplerate
        state.update(f"{rate} {source.file.channels}".encode())
        begin, count = (0, source.file.frames) if begin_s is None else (round(begin_s * rate), rate)
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
