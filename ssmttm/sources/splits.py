"""Training or validation: names of published splits, and a held-out share where nothing is stated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from ssmttm.sources.manifest import Track

VALIDATION_SHARE = 0.05

# What data sets call their parts. Ours has two: what a published split tests on is never trained on.
SPLIT_NAMES: dict[str, Literal["train", "val"]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "test": "val",
}


def hold_out(
    tracks: list[Track], stated: Collection[str] = (), group: Callable[[Track], str] = lambda track: track.id
) -> list[Track]:
    """Hold out `VALIDATION_SHARE` of the groups of tracks whose ids are not among `stated`, but at least one of
    several. The choice hangs on a hash of the group's name, so that files added later move no other track."""

    def rank(name: str) -> float:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64

    free = sorted({group(track) for track in tracks if track.id not in stated}, key=rank)
    held_out = {name for name in free if rank(name) < VALIDATION_SHARE}
    if not held_out and len(free) > 1 and all(track.split != "val" for track in tracks):
        held_out = {free[0]}
    return [
        replace(track, split="val") if track.id not in stated and group(track) in held_out else track
        for track in tracks
    ]
