"""Does a long piece stay what it was asked to be? Prompt following and statistics of the sound, by the minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssmttm.evaluation import adherence
from ssmttm.evaluation.worker import MadeLong

SPAN_SECONDS = 60.0  # what is measured of a piece at a mark: the last minute before it


def drift_table(
    probes: adherence.Probes,
    asked: Sequence[Mapping[str, Any]],
    made: Sequence[MadeLong],
    minutes: Sequence[float],
    segment_seconds: float,
) -> list[dict[str, float]]:
    """Rows for the beginning of long pieces (their first segment, `minute` 0) and for the last minute before each mark.

    Args:
        asked: tags of each piece's prompt.
        made: the pieces.
        minutes: the marks.
        segment_seconds: length of the segments that were measured.

    Returns:
        Per row the number of segments, the shares of them that are as asked (see `adherence.Scores`), the share heard
        as the genre of the piece's beginning (`genre_kept`) and as music at all (`music`), and the means of level
        (`rms`), flatness and movement.
    """
    heard = [probes.hear(piece.segments) for piece in made]
    rows = []
    for minute in (0.0, *minutes):
        end = segment_seconds if minute == 0 else 60 * minute
        last = int(end / segment_seconds + 1e-6)  # only whole segments were measured
        span = range(max(last - max(int(SPAN_SECONDS / segment_seconds), 1), 0), last)
        places = [(piece, segment) for piece in range(len(made)) for segment in span]
        clips = [made[piece].segments[segment] for piece, segment in places]
        ears = [heard[piece][segment] for piece, segment in places]
        scores = adherence.score(ears, clips, [asked[piece] for piece, _ in places])
        kept = [ear["genre"] == heard[piece][0]["genre"] for ear, (piece, _) in zip(ears, places, strict=True)]
        values = {
            **{name: getattr(scores, name) for name in adherence.ATTRIBUTES},
            "genre_kept": float(np.mean(kept)),
            "music": float(np.mean([clip.kind == "music" for clip in clips])),
            **{
                name: float(np.mean([getattr(clip, name) for clip in clips]))
                for name in ("rms", "flatness", "movement")
            },
        }
        rows.append(
            {"minute": minute, "segments": len(clips), **{name: round(value, 4) for name, value in values.items()}}
        )
    return rows
