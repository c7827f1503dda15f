"""Why a file was refused: every rejected track or segment becomes one line of `rejects.jsonl`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ssmttm import storage

REJECTS_NAME = "rejects.jsonl"

Reason = Literal[
    "missing-licence",
    "licence-not-allowed",
    "bad-entry",
    "outside-root",
    "no-caption",
    "missing",
    "unreadable",
    "empty",
    "not-audio",
    "truncated",
    "too-short",
    "not-finite",
    "silent",
    "clipped",
    "duplicate",
]


@dataclass(frozen=True)
class Reject:
    """A refused track or segment.

    id: track id, or segment id where the rest of the track was kept. audio: its URI. reason: a short fixed code.
    detail: one line for people. segments, seconds: what it takes away of what was planned; nothing where it was refused
    before.
    """

    id: str
    audio: str
    reason: Reason
    detail: str
    segments: int = 0
    seconds: float = 0.0


def merged(rejects: Iterable[Reject]) -> list[Reject]:
    """One reject for each id and reason, in order of first appearance: a file whose segments lie in several shards is
    refused in each."""
    found: dict[tuple[str, str], Reject] = {}
    for reject in rejects:
        key = (reject.id, reject.reason)
        before = found.get(key)
        if before is not None:
            reject = replace(
                before, segments=before.segments + reject.segments, seconds=before.seconds + reject.seconds
            )
        found[key] = reject
    return list(found.values())


def to_jsonl(rejects: Iterable[Reject]) -> str:
    return "".join(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects)


def read_rejects(folder: str) -> list[Reject]:
    """The rejects of a dataset folder."""
    text = storage.read_text(storage.join(folder, REJECTS_NAME))
    return [Reject(**json.loads(line)) for line in text.splitlines()]


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Number of rejects per reason, most frequent first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())
