"""Kernel audio distance (KAD, arXiv 2502.15602): the unbiased squared maximum mean discrepancy of two sets of
embeddings (Gretton et al., A Kernel Two-Sample Test, 2012, lemma 6), with a Gaussian kernel whose bandwidth is the
median distance between clips of the reference, times 100.

It assumes no Gaussian, needs no covariance, and its mean does not depend on the number of clips; equal distributions
score zero on average, so single figures may be negative. N clips, M of the reference, D dimensions.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import cdist, pdist

from ssmttm.errors import UserError

SCALE = 100.0  # as its authors print it


def median_distance(reference_MD: np.ndarray) -> float:
    """Median Euclidean distance between two clips of the reference.

    Raises:
        UserError: if there are fewer than two clips, or most are the same.
    """
    if len(reference_MD) < 2:
        raise UserError("a kernel distance needs at least two reference clips; give more audio")
    median = float(np.median(pdist(np.asarray(reference_MD, dtype=np.float64))))
    if median == 0:
        raise UserError("most reference clips have the same embedding; give other audio")
    return median


class KernelDistance:
    """The distance of two sets, with its kernel values kept for a bootstrap.

    Args:
        clips_ND, reference_MD: embeddings.
        bandwidth: sigma of exp(-|x - y|^2 / (2 sigma^2)); default: see `median_distance`.

    Raises:
        UserError: if a set has fewer than two clips.
    """

    def __init__(self, clips_ND: np.ndarray, reference_MD: np.ndarray, bandwidth: float | None = None):
        if min(len(clips_ND), len(reference_MD)) < 2:
            raise UserError("a kernel distance needs at least two clips in each set; give more audio")
        self.bandwidth = median_distance(reference_MD) if bandwidth is None else bandwidth
        first, second = (np.asarray(one, dtype=np.float64) for one in (clips_ND, reference_MD))
        self._within_NN, self._reference_MM = self._kernel(first, first), self._kernel(second, second)
        self._across_NM = self._kernel(first, second)
        for square in (self._within_NN, self._reference_MM):
            np.fill_diagonal(square, 0)

    def _kernel(self, a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(a_ND, b_MD, "sqeuclidean") / (2 * self.bandwidth**2))

    def value(self, times_N: np.ndarray | None = None, times_M: np.ndarray | None = None) -> float:
        """The distance, each clip taken so many times (default: once); NaN if that leaves one clip alone, as a clip is
        never paired with itself."""
        mine = np.ones(len(self._within_NN)) if times_N is None else np.asarray(times_N, dtype=np.float64)
        theirs = np.ones(len(self._reference_MM)) if times_M is None else np.asarray(times_M, dtype=np.float64)

        def mean_pair(square: np.ndarray, times: np.ndarray) -> float:
            pairs = times.sum() ** 2 - np.square(times).sum()
            return float(times @ square @ times / pairs) if pairs else math.nan

        across = float(mine @ self._across_NM @ theirs / (mine.sum() * theirs.sum()))
        return SCALE * (mean_pair(self._within_NN, mine) + mean_pair(self._reference_MM, theirs) - 2 * across)
