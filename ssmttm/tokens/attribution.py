"""ATTRIBUTION.csv: whom the recordings are from that a data set, a codec or a model was made of.

A data set's table names its tracks. Tables of what was trained say besides, in `used_by`, which parts (codec, vocoder,
stage1, stage2) each recording was used by, to learn from or to be measured on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ssmttm.spreadsheet import from_csv, to_csv
from ssmttm.tokens.schema import ATTRIBUTION_COLUMNS

SECONDS, USED_BY = "seconds", "used_by"
PARTS = ("codec", "vocoder", "stage1", "stage2")  # in the order in which they are named

Recording = tuple[str, ...]  # its `ATTRIBUTION_COLUMNS`


def attribution_csv(seconds_by_track: Mapping[Recording, float]) -> str:
    """One line per track: who made it, under which licence, where it came from, seconds used."""
    rows = ([*track, f"{seconds:.3f}"] for track, seconds in seconds_by_track.items())
    return to_csv([*ATTRIBUTION_COLUMNS, SECONDS], rows)


def merged_attribution(tables: Iterable[tuple[str, Collection[str]]]) -> str:
    """All recordings of several tables, each once, with the most seconds that any of them states.

    Args:
        tables: each with the parts that are asked about. Of a table that says who used what, only their recordings are
            taken; all of one that does not, as theirs.
    """
    seconds: dict[Recording, str] = {}
    parts: dict[Recording, set[str]] = {}
    for text, asked in tables:
        for row in from_csv(text):
            stated = row.get(USED_BY, "").split()
            users = set(stated) & set(asked) if stated else set(asked)
            if not users:
                continue
            recording = tuple(row.get(name, "") for name in ATTRIBUTION_COLUMNS)
            seconds[recording] = max(seconds.get(recording, ""), row.get(SECONDS, ""), key=_number)
            parts.setdefault(recording, set()).update(users)
    rows = ([*one, most, " ".join(name for name in PARTS if name in parts[one])] for one, most in seconds.items())
    return to_csv([*ATTRIBUTION_COLUMNS, SECONDS, USED_BY], rows)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
