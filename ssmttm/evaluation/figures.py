"""All figures of one system: with published weights as far as they are at hand, and without any.

Those without weights have names of their own and are to be compared with nobody's published figures. N clips, M
reference clips, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add
from typing import Any

import numpy as np

from ssmttm.evaluation import adherence, controls, intervals, measures
from ssmttm.evaluation.frechet import Gaussian, LogMelSpace, Moments, frechet_distance, gaussian_distance
from ssmttm.evaluation.heard import Heard
from ssmttm.evaluation.intervals import Better, Figure, not_available
from ssmttm.evaluation.kernel import KernelDistance
from ssmttm.evaluation.novelty import THE_SAME, CodeRuns, Neighbours, copy_bound
from ssmttm.evaluation.published import Clap, cosines, divergence

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
class Yardstick:
    """What all systems are held against.

    reference: real clips. clap: reads prompts. neighbours: of the training clips. runs: of codes in training. probes:
    hear what tags ask for.
    """

    seed: int
    draws: int
    reference: Heard | None = None
    clap: Clap | None = None
    tagger_name: str = ""
    neighbours: Neighbours | None = None
    runs: CodeRuns | None = None
    given_name: str = ""
    given_reference: np.ndarray | None = None
    probes: adherence.Probes | None = None

    @cached_property
    def space(self) -> LogMelSpace | None:
        """Of log-mel distances, fitted to the reference."""
        return LogMelSpace.fit(reduce(add, self.reference.moments)) if self.reference else None

    @cached_property
    def placed(self) -> MomentsOfClips | None:
        """The reference's moments in that space."""
        return MomentsOfClips.of(self.reference, self.space) if self.reference and self.space else None


@dataclass(frozen=True)
class MomentsOfClips:
    """Moments of N clips, stacked, so that a bootstrap draws from them at little cost."""

    counts_N: np.ndarray
    totals_ND: np.ndarray
    outers_NDD: np.ndarray

    @staticmethod
    def of(heard: Heard, space: LogMelSpace) -> MomentsOfClips:
        placed = [space.project(moments) for moments in heard.moments]
        return MomentsOfClips(
            *(np.stack([getattr(one, name) for one in placed]) for name in ("count", "total", "outer"))
        )

    def gaussian(self, times_N: np.ndarray) -> Gaussian:
        """Of the set in which each clip occurs so many times."""
        total_D, outer_DD = times_N @ self.totals_ND, np.tensordot(times_N, self.outers_NDD, 1)
        return Moments(round(float(times_N @ self.counts_N)), total_D, outer_DD).gaussian()


class _Maker:
    """Puts to each figure what all of a system share."""

    def __init__(self, heard: Heard, yardstick: Yardstick):
        self.heard, self.yardstick = heard, yardstick

    def _common(self, better: Better, **words: Any) -> Figure:
        y = self.yardstick
        return Figure(None, better=better, seconds=self.heard.seconds, seed=y.seed, draws=y.draws, **words)

    def mean(self, values: np.ndarray, better: Better = "closer", **words: Any) -> Figure:
        known = values[np.isfinite(values)]
        if not len(known):
            return not_available("no clip has one", better)
        return self.of_clips(lambda chosen: float(known[chosen].mean()), len(known), better, **words)

    def of_clips(self, statistic: Callable[[np.ndarray], float], n: int, better: Better, **words: Any) -> Figure:
        value, low, high = intervals.of_clips(statistic, n, self.yardstick.draws, self.yardstick.seed)
        return replace(self._common(better, **words), value=value, low=low, high=high, n=n)

    def distance(
        self,
        between: Callable[[np.ndarray, np.ndarray], float],
        n: int,
        m: int,
        lowest: float = -np.inf,
        **words: Any,
    ) -> Figure:
        value, low, high = intervals.of_two_sets(between, n, m, self.yardstick.draws, self.yardstick.seed)
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


def _with_clap(make: _Maker, figures: dict[str, Figure]) -> None:
    heard, yardstick = make.heard, make.yardstick
    if yardstick.clap is None or heard.clap is None:
        figures["clap_score"] = not_available(NO_CLAP, "higher")
        figures["frechet_clap"] = figures["kad_clap"] = not_available(NO_CLAP, "lower")
        return
    name, prompts = yardstick.clap.name, [clip.prompt for clip in heard.clips]
    if all(prompts):
        texts = [str(prompt) for prompt in prompts]
        long = yardstick.clap.longer_than_trained(texts)
        note = f"{long} prompts are longer than CLAP was trained on; read whole" if long else ""
        score = cosines(heard.clap, yardstick.clap.read(texts))
        figures["clap_score"] = make.mean(score, "higher", embedding=name, note=note)
    else:
        figures["clap_score"] = not_available(NO_PROMPTS, "higher")
    if yardstick.reference is None or yardstick.reference.clap is None:
        figures["frechet_clap"] = figures["kad_clap"] = not_available(NO_REFERENCE, "lower")
        return
    figures["frechet_clap"], figures["kad_clap"] = make.of_embeddings(
        heard.clap, yardstick.reference.clap, embedding=name, reference=yardstick.reference.name
    )


def _with_tagger(make: _Maker) -> Figure:
    heard, reference = make.heard, make.yardstick.reference
    if heard.classes is None:
        return not_available(NO_TAGGER, "lower")
    if reference is None or reference.classes is None:
        return not_available(NO_REFERENCE, "lower")
    place = {clip.id: i for i, clip in enumerate(reference.clips)}
    if not all(clip.id in place for clip in heard.clips):
        return not_available(NO_PAIRS, "lower")
    pairs = zip(heard.clips, heard.classes, strict=True)
    values = np.array([divergence(reference.classes[place[clip.id]], classes_L) for clip, classes_L in pairs])
    note = "KL(real || made), softmax over classes; not comparable with KL of PaSST"
    figure = make.mean(values, "lower", embedding=make.yardstick.tagger_name, reference=reference.name, note=note)
    return replace(figure, n_reference=len(values))


def _frechet_logmel(make: _Maker) -> Figure:
    heard, reference = make.heard, make.yardstick.reference
    space, theirs = make.yardstick.space, make.yardstick.placed
    if reference is None or space is None or theirs is None:
        return not_available(NO_REFERENCE, "lower")
    mine = MomentsOfClips.of(heard, space)

    def frechet(times_N: np.ndarray, times_M: np.ndarray) -> float:
        return gaussian_distance(mine.gaussian(times_N), theirs.gaussian(times_M))

    words = {"embedding": LOG_MEL, "reference": reference.name, "note": NOT_OTHERS}
    figure = make.distance(frechet, len(mine.counts_N), len(theirs.counts_N), 0.0, **words)
    return replace(figure, n_reference=reference.count)


def _kad_logmel(make: _Maker) -> Figure:
    heard, reference = make.heard, make.yardstick.reference
    if reference is None:
        return not_available(NO_REFERENCE, "lower")
    centre, scale = reference.statistics.mean(axis=0), np.maximum(reference.statistics.std(axis=0), 1e-3)
    scaled = [(one.statistics - centre) / scale for one in (heard, reference)]
    return make.of_embeddings(scaled[0], scaled[1], embedding=LOG_MEL, reference=reference.name)[1]


def _novelty(make: _Maker, figures: dict[str, Figure]) -> None:
    heard, reference, neighbours = make.heard, make.yardstick.reference, make.yardstick.neighbours
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
    heard, reference, known = make.heard, make.yardstick.reference, make.yardstick.runs
    if known is None or not heard.codes:
        return not_available(NO_CODES)
    note = f"runs of {known.length} frames"
    if reference is not None and reference.codes:
        real = np.nanmean([known.share_known(codes_T) for codes_T in reference.codes])
        note += f"; real clips of the reference, coded alike: {real:.3g}"
    shares = np.array([known.share_known(codes_T) for codes_T in heard.codes])
    figure = make.mean(shares, embedding=known.name, reference="training codes", note=note)
    return replace(figure, n_reference=known.clips) if figure.value is not None else figure


def own_figures(heard: Heard, yardstick: Yardstick) -> dict[str, Figure]:
    """What a set has by itself, the reference too: to be read beside the reference's."""
    make = _Maker(heard, yardstick)
    figures: dict[str, Figure] = {}
    _novelty(make, figures)
    figures["known_runs"] = _known_runs(make)
    return figures | {name: make.mean(heard.measured[name]) for name in measures.NAMES}


def figures_of(heard: Heard, yardstick: Yardstick, given_ND: np.ndarray | None = None) -> dict[str, Figure]:
    """Every figure of `TITLES`; those that cannot be computed say why.

    Args:
        given_ND: the system's embeddings as computed elsewhere.
    """
    make = _Maker(heard, yardstick)
    figures: dict[str, Figure] = {}
    _with_clap(make, figures)
    figures["kl_ast"] = _with_tagger(make)
    if given_ND is None or yardstick.given_reference is None:
        reason = "no embeddings of this system and a reference (evaluate.embeddings)"
        figures["frechet_given"] = figures["kad_given"] = not_available(reason, "lower")
    else:
        figures["frechet_given"], figures["kad_given"] = make.of_embeddings(
            given_ND, yardstick.given_reference, embedding=yardstick.given_name, reference="reference"
        )
    figures["frechet_logmel"], figures["kad_logmel"] = _frechet_logmel(make), _kad_logmel(make)
    figures |= own_figures(heard, yardstick)
    figures["times_real_time"] = _speed(make)
    return {name: figures[name] for name in TITLES}


def _speed(make: _Maker) -> Figure:
    speeds = np.array([one.seconds / one.wall_s for one in make.heard.clips if one.seconds and one.wall_s])
    return make.mean(speeds, "higher") if len(speeds) else not_available(NO_TIMES, "higher")


def following(heard: Heard, yardstick: Yardstick, asked: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Shares of clips that are as their tags ask (`adherence.follows`), beside the distance to the reference, and where
    they are known the log-mel error of decoded clips and the speed: the figures of a bundle on held-out prompts."""
    make, probes = _Maker(heard, yardstick), yardstick.probes
    assert probes is not None
    figures: dict[str, Figure] = {}
    for name, hits in adherence.follows(probes.hear(heard.analyses), heard.analyses, asked).items():
        better: Better = "lower" if name == "key_rank" else "higher"
        share = partial(adherence.share, name, hits, asked)
        figures[name] = make.of_clips(share, len(hits), better, reference="tags of the prompts")
    figures["frechet_logmel"] = _frechet_logmel(make)
    if "logmel_l1" in heard.measured:
        figures["logmel_l1"] = make.mean(heard.measured["logmel_l1"], "lower", reference="the recordings")
    if any(one.wall_s for one in heard.clips):
        figures["times_real_time"] = _speed(make)
    return figures


def by_controls(clips: Sequence[controls.Measured], yardstick: Yardstick) -> dict[str, Figure]:
    """What was measured of clips beside the controls asked of them, as figures of the set; those of controls that no
    clip was asked by are left out."""
    found = {}
    for name in controls.TITLES:
        values = [clip[name] for clip in clips if name in clip and np.isfinite(clip[name]).any()]
        if not values:
            continue

        def statistic(chosen: np.ndarray, values: Sequence[float | np.ndarray] = values) -> float:
            return controls.over_clips([values[i] for i in chosen.tolist()])

        value, low, high = intervals.of_clips(statistic, len(values), yardstick.draws, yardstick.seed)
        if not np.isfinite(value):
            found[name] = not_available("too few different values to correlate", "higher")
            continue
        shared = {"better": "higher", "reference": "controls asked for", "n": len(values)}
        found[name] = Figure(value, low, high, **shared, seed=yardstick.seed, draws=yardstick.draws)
    return found
