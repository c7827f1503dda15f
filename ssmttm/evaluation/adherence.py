"""Does the audio follow the prompt? Genre, lead instrument and drums by probes trained on real clips, tempo and key
by music analysis, each beside its ceiling (real audio) and its floor (the same audio against another's prompt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssmttm.errors import UserError
from ssmttm.evaluation import music
from ssmttm.evaluation.measures import ClipAnalysis

PROBED = ("genre", "lead", "drums")
ATTRIBUTES = (*PROBED, "tempo", "key")
TITLES = {
    "genre": "genre as asked",
    "lead": "lead instrument as asked",
    "drums": "drums as asked (mean of both classes)",
    "tempo": "tempo as asked, or its half or double",
    "key": "key as asked, given its mode",
    "tempo_strict": "tempo as asked",
    "key_rank": "rank of the tonic asked for, 0 to 11",
}
TAGS = (*PROBED, "bpm", "key", "mode")
COMPONENTS = 160  # of the statistics: more do not help the probes of 800 clips
SPAN_SECONDS = 60.0  # what is measured of a long piece at a mark: the last minute before it
REGULARISATION = 0.05  # inverse strength (scikit-learn's C)


class Probes:
    """Logistic regressions on the principal components of standardised log-mel statistics, one per attribute."""

    def __init__(self, statistics: Sequence[np.ndarray], tags: Sequence[Mapping[str, Any]]):
        """Train on real clips: `statistics` vectors of shape [D] beside the clips' tags.

        Raises:
            UserError: if the clips know fewer than two values of a probed attribute.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        features = np.stack(statistics)
        components = min(COMPONENTS, *features.shape)
        self._models = {}
        for name in PROBED:
            labels = [str(tag[name]) for tag in tags]
            if len(set(labels)) < 2:
                raise UserError(f"a probe for '{name}' needs clips of at least two kinds; compose a larger corpus")
            weight = "balanced" if name == "drums" else None
            model = LogisticRegression(C=REGULARISATION, tol=1e-3, max_iter=500, class_weight=weight)
            steps = make_pipeline(StandardScaler(), PCA(components, svd_solver="full"), model)
            with threadpool_limits(1):  # matrices this small lose more to threads than they gain: 0.3 s against 15
                self._models[name] = steps.fit(features, labels)

    def hear(self, clips: Sequence[ClipAnalysis]) -> list[dict[str, str]]:
        """The probed attributes of each clip, as strings (drums: "True" or "False")."""
        features = np.stack([clip.statistics for clip in clips])
        predicted = {name: model.predict(features) for name, model in self._models.items()}
        return [{name: str(values[i]) for name, values in predicted.items()} for i in range(len(clips))]


def follows(
    heard: Sequence[Mapping[str, str]], clips: Sequence[ClipAnalysis], asked: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """What was heard and measured in clips beside the tags asked for, float64 [N] each: 1 where an attribute is as
    asked (key: its tonic ranked first), and `key_rank`, the tonic's rank (0 best, 5.5 by chance). `tempo_strict` does
    without half and double tempo."""
    pairs = list(zip(clips, asked, strict=True))
    ranks = np.array([music.key_rank(clip.chroma, tag["key"], tag["mode"]) for clip, tag in pairs])
    found = {name: [ear[name] == str(tag[name]) for ear, tag in zip(heard, asked, strict=True)] for name in PROBED}
    found["tempo"] = [music.tempo_matches(clip.bpm, tag["bpm"]) for clip, tag in pairs]
    found["tempo_strict"] = [abs(clip.bpm / tag["bpm"] - 1) <= music.TEMPO_TOLERANCE for clip, tag in pairs]
    values = {name: np.array(hits, dtype=np.float64) for name, hits in found.items()}
    return {**values, "key": (ranks == 0).astype(np.float64), "key_rank": ranks.astype(np.float64)}


def share(name: str, hits: np.ndarray, asked: Sequence[Mapping[str, Any]], chosen: np.ndarray | None = None) -> float:
    """Mean over the chosen clips (default: all); for drums that of both classes' means, so that always hearing drums
    is worth a half."""
    chosen = np.arange(len(hits)) if chosen is None else chosen
    if name != "drums":
        return float(hits[chosen].mean())
    with_drums = np.array([str(asked[i]["drums"]) == "True" for i in chosen.tolist()])
    classes = [hits[chosen][with_drums == kind] for kind in (True, False)]
    return float(np.mean([one.mean() for one in classes if len(one)]))


def derangement(count: int) -> list[int]:
    """A fixed permutation without fixed points, for scoring audio against another clip's prompt.

    Raises:
        ValueError: for fewer than two clips.
    """
    if count < 2:
        raise ValueError("shuffling prompts needs at least two clips")
    return [(i + 1) % count for i in range(count)]


def measured(heard: Mapping[str, str], clip: ClipAnalysis, mode: str) -> dict[str, Any]:
    """What one clip sounds like, in the words of the tags; `mode` is the mode asked for, as the key estimate needs."""
    tonic = int(np.argmax(music.key_scores(clip.chroma, mode)))
    return {
        "genre": heard["genre"],
        "lead": heard["lead"],
        "drums": heard["drums"] == "True",
        "bpm": round(clip.bpm),
        "key": music.TONICS[tonic],
        "mode": mode,
    }


def drift(
    probes: Probes,
    asked: Sequence[Mapping[str, Any]],
    pieces: Sequence[Sequence[ClipAnalysis]],
    minutes: Sequence[float],
    segment_seconds: float,
) -> list[dict[str, float]]:
    """Does a long piece stay what it was asked to be? Rows for the beginning of pieces (their first segment, `minute`
    0) and for the last minute before each mark.

    Args:
        asked: tags of each piece's prompt.
        pieces: their segments.
        minutes: the marks.
        segment_seconds: length of a segment.

    Returns:
        Per row the number of segments, the shares of them that are as asked (see `follows`), the share heard as the
        genre of the piece's beginning (`genre_kept`) and as music at all (`music`), and the means of level (`rms`),
        flatness and movement.
    """
    heard = [probes.hear(segments) for segments in pieces]
    rows = []
    for minute in (0.0, *minutes):
        end = segment_seconds if minute == 0 else 60 * minute
        last = int(end / segment_seconds + 1e-6)  # only whole segments were measured
        span = range(max(last - max(int(SPAN_SECONDS / segment_seconds), 1), 0), last)
        places = [(piece, segment) for piece in range(len(pieces)) for segment in span]
        clips = [pieces[piece][segment] for piece, segment in places]
        ears, tags = [heard[piece][segment] for piece, segment in places], [asked[piece] for piece, _ in places]
        hits = follows(ears, clips, tags)
        kept = [ear["genre"] == heard[piece][0]["genre"] for ear, (piece, _) in zip(ears, places, strict=True)]
        values = {name: share(name, hits[name], tags) for name in ATTRIBUTES}
        values |= {
            "genre_kept": float(np.mean(kept)),
            "music": float(np.mean([clip.kind == "music" for clip in clips])),
        }
        values |= {
            name: float(np.mean([getattr(clip, name) for clip in clips])) for name in ("rms", "flatness", "movement")
        }
        rounded = {name: round(value, 4) for name, value in values.items()}
        rows.append({"minute": minute, "segments": len(clips), **rounded})
    return rows
