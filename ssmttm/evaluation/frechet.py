"""Fréchet distance between Gaussians fitted to log-mel frames (Heusel et al., arXiv 1706.08500, on other features).

The distance needs only means and covariances, so sets of clips are summed up as moments, in parallel, and the
projection is applied to the moments. Figures depend on the number of clips: compare only equal n, and give the
distance between two sets of real clips beside them. N samples, D dimensions, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmttm.evaluation.embeddings import DISTANCE_FRAMES, averaged, with_changes

PCA_DIMENSIONS = 48


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D], float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Moments:
    """Number of samples, their sum [D] and the sum of their outer products [D, D], float64. Adds up over sets."""

    count: int
    total: np.ndarray
    outer: np.ndarray

    @staticmethod
    def of(samples_ND: np.ndarray) -> Moments:
        samples = np.asarray(samples_ND, dtype=np.float64)
        return Moments(len(samples), samples.sum(axis=0), samples.T @ samples)

    @staticmethod
    def of_clip(log_mel_TM: np.ndarray) -> Moments:
        """Moments of a clip's log-mel frames, averaged over 40 ms, beside their change over 80 ms: D = 2 M."""
        return Moments.of(with_changes(averaged(log_mel_TM, DISTANCE_FRAMES)))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def gaussian(self) -> Gaussian:
        """The Gaussian with this mean and (biased) covariance.

        Raises:
            ValueError: for fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two samples, got {self.count}")
        mean = self.total / self.count
        covariance = self.outer / self.count - np.outer(mean, mean)
        return Gaussian(mean, (covariance + covariance.T) / 2)


def _root(matrix_DD: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive semi-definite matrix; rounding below zero counts as zero."""
    values, vectors = np.linalg.eigh(matrix_DD)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet (2-Wasserstein) distance |mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    Written with the symmetric product (Dowson & Landau 1982), whose eigenvalues are real and not negative: no
    complex square root of a non-symmetric matrix, and singular covariances (fewer samples than dimensions) need
    no shrinkage.
    """
    root_a = _root(a.covariance)
    product = root_a @ b.covariance @ root_a
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_distance(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets of samples [N, D], which may differ in N."""
    if max(len(a_ND), len(b_ND)) < a_ND.shape[1]:
        return _distance_of_few(np.asarray(a_ND, dtype=np.float64), np.asarray(b_ND, dtype=np.float64))
    return gaussian_distance(Moments.of(a_ND).gaussian(), Moments.of(b_ND).gaussian())


def _distance_of_few(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """The same from the samples themselves, where they are fewer than dimensions: with A = X'X and B = Y'Y the overlap
    tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of XY', a matrix [N, M] in place of [D, D]."""
    if min(len(a_ND), len(b_MD)) < 2:
        raise ValueError("a covariance needs at least two samples")
    x_ND, y_MD = ((one - one.mean(axis=0)) / np.sqrt(len(one)) for one in (a_ND, b_MD))
    overlap = np.linalg.svd(x_ND @ y_MD.T, compute_uv=False).sum()
    apart = np.sum((a_ND.mean(axis=0) - b_MD.mean(axis=0)) ** 2)
    return max(float(apart + np.square(x_ND).sum() + np.square(y_MD).sum() - 2 * overlap), 0.0)


@dataclass(frozen=True)
class LogMelSpace:
    """Where log-mel distances are taken: principal components of real frames and the components' change, each
    scaled to unit deviation on the real clips the space was fitted to. `matrix` is [2 M, 2 K], `offset` [2 K]."""

    matrix: np.ndarray
    offset: np.ndarray

    @staticmethod
    def fit(real: Moments, dimensions: int = PCA_DIMENSIONS) -> LogMelSpace:
        """Fit to the moments of real training clips (`Moments.of_clip`, summed)."""
        gaussian = real.gaussian()
        bands = len(gaussian.mean) // 2
        values, vectors = np.linalg.eigh(gaussian.covariance[:bands, :bands])
        basis = vectors[:, ::-1][:, :dimensions]
        level_scale = np.sqrt(np.maximum(values[::-1][:dimensions], 1e-10))
        change = basis.T @ gaussian.covariance[bands:, bands:] @ basis
        change_scale = np.sqrt(np.maximum(np.diag(change), 1e-10))
        matrix = np.zeros((2 * bands, 2 * basis.shape[1]))
        matrix[:bands, : basis.shape[1]] = basis / level_scale
        matrix[bands:, basis.shape[1] :] = basis / change_scale
        return LogMelSpace(matrix, gaussian.mean @ matrix)

    def project(self, moments: Moments) -> Moments:
        """Moments of the same samples in this space; those of a sum are the sum of those of its parts."""
        count, matrix, offset = moments.count, self.matrix, self.offset
        across = np.outer(offset, moments.total @ matrix)
        outer = matrix.T @ moments.outer @ matrix - across - across.T + count * np.outer(offset, offset)
        return Moments(count, moments.total @ matrix - count * offset, outer)

    def distance(self, a: Moments, b: Moments) -> float:
        """Log-mel-statistics Fréchet distance between two sets of clips."""
        return gaussian_distance(self.project(a).gaussian(), self.project(b).gaussian())
