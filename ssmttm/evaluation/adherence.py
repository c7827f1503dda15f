"""Does the audio follow the prompt? Genre, lead instrument and drums by probes trained on real clips, tempo and key
by music analysis, each beside its ceiling (real audio) and its floor (the same audio against another's prompt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmttm.errors import UserError
from ssmttm.evaluation import music
from ssmttm.evaluation.clips import ClipAnalysis

PROBED = ("genre", "lead", "drums")
ATTRIBUTES = (*PROBED, "tempo", "key")
TAGS = (*PROBED, "bpm", "key", "mode")
COMPONENTS = 160  # of the statistics: more do not help the probes of 800 clips
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


@dataclass(frozen=True)
class Scores:
    """Share of clips in which an attribute is as asked; for drums the mean of both classes' shares, for key the share
    with the tonic ranked first. `key_rank` is the mean rank of the tonic (0 best, 5.5 by chance) and
    `tempo_strict` does without half and double tempo."""

    genre: float
    lead: float
    drums: float
    tempo: float
    key: float
    tempo_strict: float
    key_rank: float


def _balanced(hits: Sequence[bool], classes: Sequence[str]) -> float:
    shares = [np.mean([hit for hit, kind in zip(hits, classes, strict=True) if kind == one]) for one in set(classes)]
    return float(np.mean(shares))


def score(
    heard: Sequence[Mapping[str, str]], clips: Sequence[ClipAnalysis], asked: Sequence[Mapping[str, Any]]
) -> Scores:
    """Compare what was heard and measured in clips with the tags asked for, clip by clip."""
    hits = {name: [ear[name] == str(tag[name]) for ear, tag in zip(heard, asked, strict=True)] for name in PROBED}
    pairs = list(zip(clips, asked, strict=True))
    ranks = [music.key_rank(clip.chroma, tag["key"], tag["mode"]) for clip, tag in pairs]
    return Scores(
        genre=float(np.mean(hits["genre"])),
        lead=float(np.mean(hits["lead"])),
        drums=_balanced(hits["drums"], [str(tag["drums"]) for tag in asked]),
        tempo=float(np.mean([music.tempo_matches(clip.bpm, tag["bpm"]) for clip, tag in pairs])),
        key=float(np.mean([rank == 0 for rank in ranks])),
        tempo_strict=float(np.mean([abs(clip.bpm / tag["bpm"] - 1) <= music.TEMPO_TOLERANCE for clip, tag in pairs])),
        key_rank=float(np.mean(ranks)),
    )


def derangement(count: int) -> list[int]:
    """A fixed permutation without fixed points, for scoring audio against another clip's prompt.

    Raises:
        ValueError: for fewer than two clips.
    """
    if count < 2:
        raise ValueError("shuffling prompts needs at least two clips")
    return [(i + 1) % count for i in range(count)]


def table(
    probes: Probes,
    asked: Sequence[Mapping[str, Any]],
    real: Sequence[ClipAnalysis],
    codec: Sequence[ClipAnalysis],
    completed: Sequence[ClipAnalysis],
    generated: Sequence[ClipAnalysis],
) -> dict[str, dict[str, float]]:
    """Adherence per attribute and set: `real`, `codec` and `completed` are ceilings, the last the pipeline's own (true
    codes of codebook 0, completed by stage 2 with the prompt), `shuffled` (the generated audio against another clip's
    prompt) is the floor."""
    others = [asked[i] for i in derangement(len(asked))]
    scores = {
        name: score(probes.hear(clips), clips, tags)
        for name, clips, tags in (
            ("real", real, asked),
            ("codec", codec, asked),
            ("completed", completed, asked),
            ("generated", generated, asked),
            ("shuffled", generated, others),
        )
    }
    rows = (*ATTRIBUTES, "tempo_strict", "key_rank")
    return {row: {name: round(getattr(values, row), 4) for name, values in scores.items()} for row in rows}


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
