"""What is true of a composed piece, second by second, in the forms in which music is asked for: beat, chord, scale,
drums, bass and melody. Swing and the players' deviations aside, times are those of the sound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ssmttm.composer.arrange import Arrangement, Role
from ssmttm.composer.harmony import KEYS

Timeline = list[list[Any]]  # [seconds, value], each held until the next

SHORTEST_NOTE_S = 0.03
EXACT_S = 0.002  # times nearer than this are one


def write_score(piece: Arrangement) -> dict[str, Any]:
    """The score of a whole piece: one value where it holds throughout, else a timeline."""
    form, bar_s = piece.form, piece.bar_s
    bars = form.by_bar()
    beat_s = 60 / piece.bpm
    split_s = form.meter.split / form.meter.beat_steps * beat_s
    chords = (
        (bar * bar_s + half * split_s, form.chords[2 * bar + half].symbol if section.chords else "N")
        for bar, section in enumerate(bars)
        for half in (0, 1)
    )
    scales = ((section.first * bar_s, f"{KEYS[section.tonic]} {section.mode}") for section in form.sections)
    return {
        "beat": {"bpm": piece.bpm, "meter": form.meter.value},
        "chord": _timeline(chords),
        "scale": _timeline(scales),
        "drums": _timeline(_sounding(piece, "drums")),
        "bass": _timeline(_sounding(piece, "bass")),
        "melody": [[round(start, 3), round(duration, 3), pitch] for start, duration, pitch in piece.line],
    }


def _sounding(piece: Arrangement, role: Role) -> Iterable[tuple[float, bool]]:
    """Whether a part plays, by section."""
    starts = sorted(note.start for part in piece.parts if part.role == role for note in part.notes)
    for section in piece.form.sections:
        first, end = section.first * piece.bar_s, section.end * piece.bar_s
        early = 0.05  # a player may be a little before the bar
        yield first, any(first - early <= start < end - early for start in starts)


def _timeline(entries: Iterable[tuple[float, Any]]) -> Any:
    """Entries without those that change nothing; the value alone where there is one."""
    merged: Timeline = []
    for seconds, value in entries:
        if not merged or merged[-1][1] != value:
            merged.append([round(seconds, 3), value])
    return merged[0][1] if len(merged) == 1 else merged


def cut(score: dict[str, Any], start: float, seconds: float, bar_s: float) -> dict[str, Any]:
    """The score of an excerpt, its times from the excerpt's beginning: the beat from its first one on, bars from the
    first bar line on."""
    beat = score["beat"]
    to_bar, to_beat = -start % bar_s, -start % (60 / beat["bpm"])
    if to_bar >= EXACT_S:
        beat = [[round(to_beat, 3), {"bpm": beat["bpm"]}], [round(to_bar, 3), beat]]
        beat = beat[to_bar - to_beat < EXACT_S :]
    held = {name: _cut_timeline(score[name], start, seconds) for name in ("chord", "scale", "drums", "bass")}
    melody = []
    for begins, duration, pitch in score["melody"]:
        first, last = max(begins - start, 0.0), min(begins + duration - start, seconds)
        if last - first >= SHORTEST_NOTE_S:
            melody.append([round(first, 3), round(last - first, 3), pitch])
    return {"beat": beat, **held, "melody": melody}


def _cut_timeline(timeline: Any, start: float, seconds: float) -> Any:
    if not isinstance(timeline, list):
        return timeline
    ends = [entry[0] for entry in timeline[1:]] + [float("inf")]
    return _timeline(
        (max(at - start, 0.0), value)
        for (at, value), end in zip(timeline, ends, strict=True)
        if at < start + seconds and end > start
    )
