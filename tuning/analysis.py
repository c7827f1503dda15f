"""What a finished study says: curves of its trials, power laws over size, and comparisons with intervals from seeds.

Intervals are Student's t at 95 % over seeds, of differences between trials of equal seed (which saw the same music in
the same order) where two families are compared. One seed has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmttm import storage
from ssmttm.training.writer import read_rows as read_run
from tuning.table import DONE, Row, nats, read_rows

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over `count` seeds and its interval; None where one seed tells of no scatter."""

    value: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        from scipy import stats

        array = np.asarray(values, np.float64)
        mean, count = float(array.mean()), len(array)
        if count < 2:
            return cls(mean, None, None, count)
        half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
        return cls(mean, mean - half, mean + half, count)

    @classmethod
    def of_ratios(cls, values: Sequence[float]) -> Mean:
        """The same in logarithms: the geometric mean, and an interval that says of a ratio what it says of its
        inverse."""
        logs = cls.of(np.log(values))
        low, high = (None if bound is None else math.exp(bound) for bound in (logs.low, logs.high))
        return cls(math.exp(logs.value), low, high, logs.count)

    def text(self, form: str = ".3f") -> str:
        seeds = "1 seed" if self.count == 1 else f"{self.count} seeds"
        if self.low is None or self.high is None:
            return f"{self.value:{form}} ({seeds})"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}] ({seeds})"


@dataclass(frozen=True)
class Trial:
    """A finished trial and its validation curve: codes learned from, FLOPs, and nats per code [points] each."""

    row: Row
    tokens: np.ndarray
    flops: np.ndarray
    nats: np.ndarray


def read_trials(folder: str) -> list[Trial]:
    """The finished trials of a study's folder, each with its curve."""
    trials = []
    for row in read_rows(storage.join(folder, "study.csv")):
        if row.status != DONE:
            continue
        run = storage.join(folder, "trials", row.name)
        validation = read_run(storage.join(run, "validation.jsonl"))
        learned = {point["step"]: point["tokens"] for point in read_run(storage.join(run, "metrics.jsonl"))}
        totals = np.cumsum([learned[step] for step in sorted(learned)])
        at_step = dict(zip(sorted(learned), totals, strict=True))
        steps = [point["step"] for point in validation]
        tokens = np.array([at_step[step] for step in steps], np.float64)
        losses = np.array([nats(point) for point in validation])
        trials.append(Trial(row, tokens, tokens * (row.flops / row.tokens), losses))
    return trials


def families(trials: Sequence[Trial]) -> list[str]:
    """Backbones with their variants, in order of first appearance."""
    return list(dict.fromkeys(trial.row.group for trial in trials))


def sizes(trials: Sequence[Trial]) -> list[int]:
    return sorted({trial.row.size for trial in trials})


def of(trials: Sequence[Trial], family: str, size: int) -> list[Trial]:
    """The trials of one family and size, by seed."""
    chosen = [trial for trial in trials if trial.row.group == family and trial.row.size == size]
    return sorted(chosen, key=lambda trial: trial.row.seed)


def gap(trials: Sequence[Trial], family: str, rival: str, size: int) -> Mean | None:
    """Final loss of a family less a rival's, trial by trial of equal seed; below 0: the family is better. None where
    they share no seed."""
    mine = {trial.row.seed: trial.row.val_nats for trial in of(trials, family, size)}
    theirs = {trial.row.seed: trial.row.val_nats for trial in of(trials, rival, size)}
    common = sorted(mine.keys() & theirs.keys())
    return Mean.of([mine[seed] - theirs[seed] for seed in common]) if common else None


def reached(xs: np.ndarray, nats: np.ndarray, target: float) -> float:
    """Where a curve first comes down to `target`, in a straight line between its points; infinity if it never does."""
    below = np.flatnonzero(nats <= target)
    if not len(below):
        return math.inf
    first = int(below[0])
    if first == 0:
        return float(xs[0])
    before, after = nats[first - 1], nats[first]
    share = (before - target) / (before - after)
    return float(xs[first - 1] + share * (xs[first] - xs[first - 1]))


@dataclass(frozen=True)
class Effort:
    """What a family takes to come down to its rival's final loss, as a share of all that the rival took; `share` is
    None if `missed` of `count` seeds never came there: a mean over the others would flatter."""

    share: Mean | None
    missed: int
    count: int

    def text(self) -> str:
        if self.share is None:
            return f"never in {self.missed} of {self.count} seeds"
        return self.share.text(".2f")


def effort(trials: Sequence[Trial], family: str, rival: str, size: int, axis: str) -> Effort | None:
    """Tokens (or FLOPs, by `axis`) that a family needs for the loss at which the rival of equal seed ends. The rate is
    still high where a curve is crossed early, so the share is rather too large. None where they share no seed."""
    theirs = {trial.row.seed: trial for trial in of(trials, rival, size)}
    shares = []
    for trial in of(trials, family, size):
        if (other := theirs.get(trial.row.seed)) is not None:
            needed = reached(getattr(trial, axis), trial.nats, other.row.val_nats)
            shares.append(needed / float(getattr(other, axis)[-1]))
    missed = sum(math.isinf(share) for share in shares)
    if not shares:
        return None
    return Effort(None if missed else Mean.of_ratios(shares), missed, len(shares))


def exponent(trials: Sequence[Trial], family: str) -> Mean | None:
    """b of the power law nats = a N^-b over parameters N, fitted seed by seed in logarithms (Kaplan et al. 2020, arXiv
    2001.08361, equation 1.1). None for fewer than three sizes."""
    by_seed: dict[int, list[Row]] = {}
    for trial in trials:
        if trial.row.group == family:
            by_seed.setdefault(trial.row.seed, []).append(trial.row)
    exponents = []
    for rows in by_seed.values():
        if len({row.size for row in rows}) >= 3:
            slope = np.polyfit([math.log(row.params) for row in rows], [math.log(row.val_nats) for row in rows], 1)[0]
            exponents.append(-float(slope))
    return Mean.of(exponents) if exponents else None


def shrinking(trials: Sequence[Trial], family: str) -> tuple[float, Mean] | None:
    """What the smallest size costs beside the largest: the ratio of their parameters, and the rise of the final loss,
    seed by seed. None for a single size."""
    there = [size for size in sizes(trials) if of(trials, family, size)]
    if len(there) < 2:
        return None
    small, large = of(trials, family, there[0]), of(trials, family, there[-1])
    last = {trial.row.seed: trial.row for trial in large}
    rises = [trial.row.val_nats - last[trial.row.seed].val_nats for trial in small if trial.row.seed in last]
    return (large[0].row.params / small[0].row.params, Mean.of(rises)) if rises else None
