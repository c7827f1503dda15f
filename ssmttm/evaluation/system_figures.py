"""All figures of one system: with published weights as far as they are at hand, and without any.

Those without weights have names of their own and are to be compared with nobody's published figures. N clips, M
reference clips, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ssmttm.evaluation import intervals, measures
from ssmttm.evaluation.clap import Clap, cosines
from ssmttm.evaluation.frechet import LogMelSpace, Moments, frechet_distance
from ssmttm.evaluation.heard import Heard
from ssmttm.evaluation.intervals import Better, Figure, not_available
from ssmttm.evaluation.kernel import KernelDistance
from ssmttm.evaluation.novelty import THE_SAME, CodeRuns, Neighbours, copy_bound
from ssmttm.evaluation.tagger import divergence

LOG_MEL = "log-mel statistics (80 bands, 24 kHz)"
NOT_OTHERS = "not comparable with FD of OpenL3, VGGish or PaSST"
NO_CLAP, NO_TAGGER = "no CLAP weights (evaluate.clap)", "no tagger weights (evaluate.tagger)"
NO_REFERENCE = "no reference clips (evaluate.reference)"
NO_TRAINING = "no training clips (evaluate.training)"
NO_CODES = "no training codes (evaluate.training_codes)"
NO_PROMPTS = "clips without a known prompt"
NO_PAIRS = "the reference holds no real clip under each prompt's id"
NO_TIMES = "clips that were not made here"

TITLES = {
    "clap_score": "CLAP score",
    "frechet_clap": "Fréchet distance, CLAP",
    "kad_clap": "KAD, CLAP (Gaussian kernel, median bandwidth, x100)",
    "kl_ast": "KL divergence, AST",
    "frechet_given": "Fréchet distance, given embeddings",
    "kad_given": "KAD, given embeddings",
    "frechet_logmel": "Fréchet distance, log-mel frames",
    "kad_logmel": "KAD, log-mel statistics of clips",
    "nearest_training": "distance to the nearest training clip",
    "suspected_copies": "share nearer to training than 99 % of real held-out clips",
    "known_runs": "share of runs of coarse codes that occur in training",
    **measures.NAMES,
    "times_real_time": "times real time, one clip at a time",
}
WITH_WEIGHTS = ("clap_score", "frechet_clap", "kad_clap", "kl_ast", "frechet_given", "kad_given")


@dataclass(frozen=True)
class Setting:
    """What all systems are held against.

    reference: real clips. clap: reads prompts. neighbours: of the training clips. space: of log-mel distances. runs: of
    codes in training.
    """

    seed: int
    draws: int
    reference: Heard | None = None
    clap: Clap | None = None
    tagger_name: str = ""
    neighbours: Neighbours | None = None
    space: LogMelSpace | None = None
    runs: CodeRuns | None = None
    given_name: str = ""
    given_reference: np.ndarray | None = None


def log_mel_space(reference: Heard) -> LogMelSpace:
    return LogMelSpace.fit(reduce(add, reference.moments))


class _Maker:
    """Puts to each figure what all of a system share."""

    def __init__(self, heard: Heard, setting: Setting):
        self.heard, self.setting = heard, setting

    def _common(self, better: Better, **words: Any) -> Figure:
        seconds = round(float(self.heard.seconds.mean()), 3)
        s = self.setting
        return Figure(None, better=better, seconds=seconds, seed=s.seed, draws=s.draws, **words)

    def mean(self, values: np.ndarray, better: Better = "closer", **words: Any) -> Figure:
        known = values[np.isfinite(values)]
        if not len(known):
            return not_available("no clip has one", better)
        value, low, high = intervals.of_values(known, self.setting.draws, self.setting.seed)
        return replace(self._common(better, **words), value=value, low=low, high=high, n=len(known))

    def distance(
        self,
        between: Callable[[np.ndarray, np.ndarray], float],
        n: int,
        m: int,
        lowest: float = -np.inf,
        **words: Any,
    ) -> Figure:
        value, low, high = intervals.of_two_sets(between, n, m, self.setting.draws, self.setting.seed)
        low = None if low is None else max(low, lowest)
        return replace(self._common("lower", **words), value=value, low=low, high=high, n=n, n_reference=m)

    def of_embeddings(self, clips_ND: np.ndarray, reference_MD: np.ndarray, **words: Any) -> tuple[Figure, Figure]:
        """Fréchet and kernel distance of two sets of embeddings."""
        kernel = KernelDistance(clips_ND, reference_MD)

        def frechet(times_N: np.ndarray, times_M: np.ndarray) -> float:
            return frechet_distance(_repeated(clips_ND, times_N), _repeated(reference_MD, times_M))

        sizes = (len(clips_ND), len(reference_MD))
        note = f"Gaussian kernel, sigma {kernel.bandwidth:.4g} (median distance of reference clips), x100, unbiased"
        return (
            self.distance(frechet, *sizes, 0.0, note=NOT_OTHERS, **words),
            self.distance(kernel.value, *sizes, note=note, **words),
        )


def _repeated(rows_ND: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    return np.repeat(rows_ND, np.asarray(times_N, dtype=np.int64), axis=0)


def _summed(moments: list[Moments], times: np.ndarray) -> Moments:
    chosen = [Moments(round(k * m.count), k * m.total, k * m.outer) for m, k in zip(moments, times, strict=True) if k]
    return reduce(add, chosen)


def _with_clap(make: _Maker, figures: dict[str, Figure]) -> None:
    heard, setting = make.heard, make.setting
    if setting.clap is None or heard.clap is None:
        figures["clap_score"] = not_available(NO_CLAP, "higher")
        figures["frechet_clap"] = figures["kad_clap"] = not_available(NO_CLAP, "lower")
        return
    name, prompts = setting.clap.name, [clip.prompt for clip in heard.clips]
    if all(prompts):
        texts = [str(prompt) for prompt in prompts]
        long = setting.clap.longer_than_trained(texts)
        note = f"{long} prompts are longer than CLAP was trained on; read whole" if long else ""
        score = cosines(heard.clap, setting.clap.read(texts))
        figures["clap_score"] = make.mean(score, "higher", embedding=name, note=note)
    else:
        figures["clap_score"] = not_available(NO_PROMPTS, "higher")
    if setting.reference is None or setting.reference.clap is None:
        figures["frechet_clap"] = figures["kad_clap"] = not_available(NO_REFERENCE, "lower")
        return
    figures["frechet_clap"], figures["kad_clap"] = make.of_embeddings(
        heard.clap, setting.reference.clap, embedding=name, reference=setting.reference.name
    )


def _with_tagger(make: _Maker) -> Figure:
    heard, reference = make.heard, make.setting.reference
    if heard.tags is None:
        return not_available(NO_TAGGER, "lower")
    if reference is None or reference.tags is None:
        return not_available(NO_REFERENCE, "lower")
    place = {clip.id: i for i, clip in enumerate(reference.clips)}
    if not all(clip.id in place for clip in heard.clips):
        return not_available(NO_PAIRS, "lower")
    pairs = zip(heard.clips, heard.tags, strict=True)
    values = np.array([divergence(reference.tags[place[clip.id]], tags_L) for clip, tags_L in pairs])
    note = "KL(real || made), softmax over classes; not comparable with KL of PaSST"
    figure = make.mean(values, "lower", embedding=make.setting.tagger_name, reference=reference.name, note=note)
    return replace(figure, n_reference=len(values))


def _with_log_mels(make: _Maker, figures: dict[str, Figure]) -> None:
    heard, reference, space = make.heard, make.setting.reference, make.setting.space
    if reference is None or space is None:
        figures["frechet_logmel"] = figures["kad_logmel"] = not_available(NO_REFERENCE, "lower")
        return
    mine, theirs = list(heard.moments), list(reference.moments)

    def frechet(times_N: np.ndarray, times_M: np.ndarray) -> float:
        return space.distance(_summed(mine, times_N), _summed(theirs, times_M))

    words = {"embedding": LOG_MEL, "reference": reference.name}
    figures["frechet_logmel"] = make.distance(frechet, len(mine), len(theirs), 0.0, note=NOT_OTHERS, **words)
    centre, scale = reference.statistics.mean(axis=0), np.maximum(reference.statistics.std(axis=0), 1e-3)
    scaled = [(one.statistics - centre) / scale for one in (heard, reference)]
    figures["kad_logmel"] = make.of_embeddings(scaled[0], scaled[1], **words)[1]


def _novelty(make: _Maker, figures: dict[str, Figure]) -> None:
    heard, reference, neighbours = make.heard, make.setting.reference, make.setting.neighbours
    if neighbours is None:
        figures["nearest_training"] = not_available(NO_TRAINING)
        figures["suspected_copies"] = not_available(NO_TRAINING, "lower")
        return
    distances, _ = neighbours.nearest(heard.statistics)
    words = {"embedding": LOG_MEL, "reference": "training clips", "n_reference": neighbours.count}
    figures["nearest_training"] = make.mean(distances, **words)
    if reference is None:
        figures["suspected_copies"] = not_available(NO_REFERENCE, "lower")
        return
    real, _ = neighbours.nearest(reference.statistics)
    if (real < THE_SAME).any():
        reason = f"{(real < THE_SAME).sum()} reference clips are training clips; the bound needs held-out ones"
        figures["suspected_copies"] = not_available(reason, "lower")
        return
    bound = copy_bound(real)
    note = f"nearer than {bound:.3g}; real clips of the reference: 1 %"
    figures["suspected_copies"] = make.mean((distances < bound).astype(float), "lower", note=note, **words)


def _known_runs(make: _Maker) -> Figure:
    heard, reference, known = make.heard, make.setting.reference, make.setting.runs
    if known is None or not heard.codes:
        return not_available(NO_CODES)
    note = f"runs of {known.length} frames"
    if reference is not None and reference.codes:
        real = np.nanmean([known.share_known(codes_T) for codes_T in reference.codes])
        note += f"; real clips of the reference, coded alike: {real:.3g}"
    shares = np.array([known.share_known(codes_T) for codes_T in heard.codes])
    figure = make.mean(shares, embedding=known.name, reference="training codes", note=note)
    return replace(figure, n_reference=known.clips) if figure.value is not None else figure


def own_figures(heard: Heard, setting: Setting) -> dict[str, Figure]:
    """What a set has by itself, the reference too: to be read beside the reference's."""
    make = _Maker(heard, setting)
    figures: dict[str, Figure] = {}
    _novelty(make, figures)
    figures["known_runs"] = _known_runs(make)
    for name, values in heard.measured.items():
        figures[name] = make.mean(values)
    return figures


def figures_of(heard: Heard, setting: Setting, given_ND: np.ndarray | None = None) -> dict[str, Figure]:
    """Every figure of `TITLES`; those that cannot be computed say why.

    Args:
        given_ND: the system's embeddings as computed elsewhere.
    """
    make = _Maker(heard, setting)
    figures: dict[str, Figure] = {}
    _with_clap(make, figures)
    figures["kl_ast"] = _with_tagger(make)
    if given_ND is None or setting.given_reference is None:
        reason = "no embeddings of this system and a reference (evaluate.embeddings)"
        figures["frechet_given"] = figures["kad_given"] = not_available(reason, "lower")
    else:
        figures["frechet_given"], figures["kad_given"] = make.of_embeddings(
            given_ND, setting.given_reference, embedding=setting.given_name, reference="reference"
        )
    _with_log_mels(make, figures)
    figures |= own_figures(heard, setting)
    speeds = np.array([one.seconds / one.wall_s for one in heard.clips if one.seconds and one.wall_s])
    figures["times_real_time"] = make.mean(speeds, "higher") if len(speeds) else not_available(NO_TIMES, "higher")
    return {name: figures[name] for name in TITLES}
