"""What is held out of training: a share of the artists and albums, each whole, so that nothing of what is validated on
was learned by way of another song of theirs. Where all music is one artist's, albums are held out; where all is one
album, or none is stated, tracks.

The choice hangs on a hash of the group's name, so that files added later move no other group.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssmttm.errors import UserError
from ssmttm.sources.fields import same_name, texts
from ssmttm.sources.manifest import Track

VALIDATION_SHARE = 0.05
# What stands where no artist or album is known, or where several are meant.
_NO_NAME = re.compile(r"(unknown|various|divers\w*|untitled|n/?a|none|nan|va|v\.a\.)( (artists?|albums?|titles?))?")
_SEVERAL = re.compile(r"\s*;\s*|\s+/\s+|\s+(?:feat|ft|featuring)\b\.?\s*")

Key = tuple[str, str]  # artist, record or track, and its name: artists come first in order
Keys = Callable[[Track], Iterable[Key]]


def _names(kind: str, value: object) -> list[Key]:
    found = [name for text in texts(value) for name in _SEVERAL.split(same_name(text))]
    return [(kind, name) for name in found if name and not _NO_NAME.fullmatch(name)]


def _albums(track: Track) -> list[Key]:
    return _names("record", track.tags.get("album"))


def _artists_and_albums(track: Track) -> list[Key]:
    return [*_names("artist", track.artist), *_albums(track)]


def _itself(track: Track) -> list[Key]:
    return []


LEVELS: tuple[Keys, ...] = (_artists_and_albums, _albums, _itself)


def _rank(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def groups_of(tracks: Sequence[Track], keys: Keys = _artists_and_albums) -> dict[str, list[Track]]:
    """Tracks that share a key, by way of others' too, under the first of their keys' names; a track without a key is
    alone, under its id."""
    keys_of = [list(keys(track)) or [("track", track.id)] for track in tracks]
    places = {key: place for place, key in enumerate(dict.fromkeys(key for some in keys_of for key in some))}
    links = np.array([(places[some[0]], places[key]) for some in keys_of for key in some]).reshape(-1, 2).T
    graph = coo_array((np.ones(links.shape[1]), (links[0], links[1])), shape=(len(places), len(places)))
    labels = connected_components(graph, directed=False)[1]
    names: dict[int, Key] = {}
    for key, place in places.items():
        names[labels[place]] = min(key, names.get(labels[place], key))
    groups: dict[str, list[Track]] = defaultdict(list)
    for track, some in zip(tracks, keys_of, strict=True):
        groups[names[labels[places[some[0]]]][1]].append(track)
    return dict(groups)


def _smallest_first(groups: Iterable[list[Track]], total: int) -> list[list[Track]]:
    """The groups of at most half of all tracks."""
    fitting = [group for group in groups if 2 * len(group) <= total]
    return sorted(fitting, key=lambda group: (len(group), min(_rank(track.id) for track in group)))


def _choose(tracks: Sequence[Track], stated: Collection[str], keys: Keys) -> set[str]:
    """Ids of tracks to hold out: the groups below the share, at most half of all tracks; if there are none and none is
    held out already, the smallest group. A group is not torn apart by what is stated of a part of it."""
    chosen: set[str] = set()
    free = []
    for name, group in sorted(groups_of(tracks, keys).items(), key=lambda item: _rank(item[0])):
        splits = {track.split for track in group if track.id in stated}
        ids = {track.id for track in group if track.id not in stated}
        if not splits:
            free.append(group)
        if (splits == {"val"} or (not splits and _rank(name) < VALIDATION_SHARE)) and (
            2 * (len(chosen) + len(ids)) <= len(tracks)
        ):
            chosen |= ids
    if not chosen and all(track.split != "val" for track in tracks):
        chosen = {track.id for group in _smallest_first(free, len(tracks))[:1] for track in group}
    return chosen


def hold_out(tracks: list[Track], stated: Collection[str] = (), keys: Keys | None = None) -> list[Track]:
    """Hold out about `VALIDATION_SHARE` of the artists and albums (or of what shares another of `keys`), but at least
    something where there are several tracks.

    Args:
        tracks: of one source, in training as far as nothing else is stated.
        stated: ids of those whose split is stated, and stays.
        keys: what else makes tracks belong together.
    """
    for level in (keys,) if keys else LEVELS:
        chosen = _choose(tracks, stated, level)
        if chosen or any(track.split == "val" for track in tracks):
            return [replace(track, split="val") if track.id in chosen else track for track in tracks]
    return tracks


def _candidates(tracks: Sequence[Track]) -> Iterator[list[Track]]:
    for level in LEVELS:
        yield from _smallest_first(groups_of(tracks, level).values(), len(tracks))


def with_held_out(tracks: Sequence[Track], can_be_used: Callable[[Track], bool]) -> tuple[list[Track], str]:
    """The tracks, of which something held out can be used: where nothing is, the smallest artist or album that can be
    used is held out too. Also a line that says so; empty if nothing was changed.

    Args:
        tracks: all that were let in.
        can_be_used: looks into a track's audio; asked of as few as will do.

    Raises:
        UserError: if there is not one to learn from beside one to hold out. A source may be held out as a whole.
    """
    known: dict[str, bool] = {}

    def usable(some: Iterable[Track]) -> bool:
        for track in some:
            if track.id not in known:
                known[track.id] = can_be_used(track)
            if known[track.id]:
                return True
        return False

    held, learned = ([track for track in tracks if track.split == split] for split in ("val", "train"))
    if not learned or not tracks:
        return list(tracks), ""
    if usable(held) and usable(learned):
        return list(tracks), ""
    for group in _candidates(learned):
        ids = {track.id for track in group}
        if not usable(held) and usable(group) and usable(track for track in learned if track.id not in ids):
            moved = [replace(track, split="val") if track.id in ids else track for track in tracks]
            why = f"none of the {len(held)} tracks to be held out can be used" if held else "nothing was held out"
            return moved, f"{why}: {len(group)} of {len(tracks)} tracks are held out, {group[0].id} among them"
    number = sum(usable([track]) for track in tracks)
    raise UserError(
        f"{number} of {len(tracks)} tracks can be used, but one must be learned from and another be held out; "
        "add music, or cut a long recording into several files"
    )
