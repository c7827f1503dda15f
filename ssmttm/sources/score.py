"""What people state about a track's course beside it, as a `score`: beats, chords and a key, or the whole of it.

Sidecars and tables may have `score`, an object as a manifest has it; `beats`, the times of beats in seconds, with
`downbeats`, the times of those that begin bars, or `meter`, if a bar begins with the first of them; `chords`, one
symbol or a timeline; and `key`. Which tempo a track has does not tell where its beats are: `bpm` is no part of it.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ssmttm.conditions.beat import METRES, SLOWEST
from ssmttm.conditions.harmony import read_key
from ssmttm.conditions.registry import check_score
from ssmttm.conditions.timeline import MAXIMUM_ENTRIES, MAXIMUM_SECONDS, number, shown
from ssmttm.errors import UserError
from ssmttm.sources.fields import ALIASES, field_name, is_nothing
from ssmttm.sources.tables import parse_json

SAME_S = 0.05  # a downbeat is the beat that is nearer than this
_SIGNATURE = re.compile(r"([2-7])(?:/4)?")


def read_score(values: Mapping[str, Any]) -> dict[str, Any]:
    """The score that an object or a table's row states; what `score` names itself counts before the other fields.

    Raises:
        UserError: naming the field, if one of them makes no sense. A key that is none is left a tag.
    """
    stated = {
        field_name(name): _value(value)
        for name, value in values.items()
        if isinstance(name, str) and not is_nothing(value)
    }
    score: dict[str, Any] = {}
    if "beats" in stated:
        score["beat"] = _beats(stated["beats"], stated.get("downbeats"), stated.get("meter"))
    if "chords" in stated:
        score["chord"] = stated["chords"]
        _check("chords", {"chord": score["chord"]})
    key = next((stated[name] for name in ALIASES["key"] if name in stated), None)
    if isinstance(key, str) and (scale := _scale(key, stated.get("mode"))):
        score["scale"] = scale
    whole = stated.get("score")  # a number is what others think of the track
    return {**score, **check_score(whole)} if isinstance(whole, dict) else score


def _value(value: Any) -> Any:
    """A cell of a table holds lists and objects as text."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return parse_json(value)
        except UserError:
            pass  # refused as the text that it is
    return value


def _check(field: str, score: dict[str, Any]) -> None:
    """`check_score` of what is stated under another name."""
    (name,) = score
    try:
        check_score(score)
    except UserError as error:
        raise UserError(str(error).replace(f"score.{name}", field)) from None


def _times(value: Any, field: str) -> list[float]:
    if not isinstance(value, list) or len(value) > MAXIMUM_ENTRIES:
        raise UserError(f"{field} is {shown(value)}; give a list of seconds, at most {MAXIMUM_ENTRIES}")
    times = [number(time, 0, MAXIMUM_SECONDS, f"{field}[{place}]") for place, time in enumerate(value)]
    if any(later <= time for time, later in pairwise(times)):
        raise UserError(f"{field} are not in the order of time, each later than the one before it; sort them")
    return times


def _beats(beats: Any, downbeats: Any, meter: Any) -> list[Any]:
    """Beats as a timeline of grids, each from one beat to the next. After the last, and where the next one is further
    than the slowest tempo has it, nothing is known."""
    times = _times(beats, "beats")
    if len(times) < 2:
        raise UserError(f"beats is {shown(beats)}; give the seconds of two beats or more")
    places = None if downbeats is None else _places(_times(downbeats, "downbeats"), times)
    bars = _bars(len(times), places, _metre(meter))
    timeline: list[Any] = []
    for time, later, (metre, beat) in zip(times, times[1:], bars, strict=False):
        bpm = 60 / (later - time)
        timeline.append([time, {"bpm": bpm, "meter": metre, "beat": beat} if bpm >= SLOWEST else None])
    timeline.append([times[-1], None])
    _check("beats", {"beat": timeline})
    return timeline


def _metre(value: Any) -> Any:
    if isinstance(value, str) and (told := _SIGNATURE.fullmatch(value.strip())):
        value = int(told[1])
    if value is not None and value not in METRES:
        raise UserError(f'meter is {shown(value)}; give 2 to 7 or "6/8"')
    return value


def _places(downbeats: Sequence[float], times: Sequence[float]) -> list[int]:
    """Which of the beats the downbeats are."""
    found = []
    for one in downbeats:
        after = bisect.bisect_left(times, one)
        place = min((after - 1, after), key=lambda near: abs(times[near] - one) if 0 <= near < len(times) else math.inf)
        if abs(times[place] - one) >= SAME_S:
            raise UserError(f"downbeats name {one:g} s, where no beat is; every downbeat must be one of beats")
        found.append(place)
    return found


def _bars(count: int, downbeats: Sequence[int] | None, metre: Any) -> list[tuple[Any, int]]:
    """Metre and number in its bar of each beat; metre None where a bar is not known."""
    if downbeats is None:
        return [(metre, place % (2 if metre == "6/8" else metre or 1) + 1) for place in range(count)]
    lengths = [later - place for place, later in pairwise(downbeats)]
    bars: list[tuple[Any, int]] = []
    for place in range(count):
        bar = bisect.bisect_right(downbeats, place) - 1  # -1 before the first downbeat
        # A bar that is not whole is like its neighbour.
        length = lengths[min(max(bar, 0), len(lengths) - 1)] if lengths else 0
        number = place - downbeats[bar] + 1 if bar >= 0 else length + 1 - (downbeats[0] - place)
        named = metre if metre == "6/8" and length == 2 else length
        bars.append((named, number) if named in METRES and 1 <= number <= length else (None, 1))
    return bars


def _scale(key: str, mode: Any) -> str | None:
    """A key that can be read, with its mode from another field if it names none; anything else stays a tag."""
    for told in (key, f"{key} {mode}"):
        try:
            read_key(told)
        except ValueError:
            continue
        return told
    return None
