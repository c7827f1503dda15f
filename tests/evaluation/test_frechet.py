from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from ssmttm.evaluation.embeddings import log_mel
from ssmttm.evaluation.frechet import (
    Gaussian,
    LogMelSpace,
    Moments,
    frechet_distance,
    gaussian_distance,
)

RATE = 24_000


def clip_moments(clips: list[np.ndarray]) -> Moments:
    return reduce(add, (Moments.of_clip(log_mel(clip, RATE)) for clip in clips))


def noises(clips: int, colour: float, seed: int) -> list[np.ndarray]:
    """Noise whose loudness wanders; `colour` in [0, 1) makes it darker."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(clips):
        samples = random.normal(size=RATE) * np.repeat(random.uniform(0.02, 0.3, 10), RATE // 10)
        result.append(scipy.signal.lfilter([1 - colour], [1, -colour], samples).astype(np.float32))
    return result


def test_one_dimension_has_a_closed_form() -> None:
    a, b = Gaussian(np.array([1.0]), np.array([[4.0]])), Gaussian(np.array([3.0]), np.array([[9.0]]))
    assert gaussian_distance(a, b) == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_commuting_covariances_have_a_closed_form() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    first, second = np.array([1.0, 4.0, 9.0, 0.0]), np.array([4.0, 1.0, 0.25, 2.0])
    a = Gaussian(np.zeros(4), rotation @ np.diag(first) @ rotation.T)
    b = Gaussian(np.ones(4), rotation @ np.diag(second) @ rotation.T)
    assert gaussian_distance(a, b) == pytest.approx(4 + np.sum((np.sqrt(first) - np.sqrt(second)) ** 2))


def test_general_covariances_agree_with_the_matrix_square_root() -> None:
    random = np.random.default_rng(1)
    factors = random.normal(size=(2, 6, 6))
    a, b = (Gaussian(random.normal(size=6), factor @ factor.T) for factor in factors)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert gaussian_distance(a, b) == pytest.approx(expected)
    assert gaussian_distance(b, a) == pytest.approx(expected)


def test_few_samples_of_many_dimensions_agree_with_their_covariances() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(9, 40)), random.normal(0.5, 2, size=(13, 40))
    expected = gaussian_distance(Moments.of(a).gaussian(), Moments.of(b).gaussian())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_samples_approach_the_distance_of_their_gaussians() -> None:
    random = np.random.default_rng(2)
    a = random.normal(size=(40_000, 3))
    b = random.normal(size=(40_000, 3)) * [1.0, 2.0, 0.5] + [0.0, 1.0, 0.0]
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0.25, abs=0.05)


def test_fewer_samples_than_dimensions_stay_sound() -> None:
    samples = np.random.default_rng(3).normal(size=(5, 20))
    assert frechet_distance(samples, samples) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(samples, samples + 2) == pytest.approx(80)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        Moments.of(np.zeros((1, 3))).gaussian()


def test_moments_of_parts_add_up() -> None:
    samples = np.random.default_rng(4).normal(size=(50, 3))
    whole, parts = Moments.of(samples).gaussian(), (Moments.of(samples[:20]) + Moments.of(samples[20:])).gaussian()
    assert parts.mean == pytest.approx(samples.mean(axis=0))
    assert parts.covariance == pytest.approx(whole.covariance)
    assert parts.covariance == pytest.approx(np.cov(samples.T, bias=True))


def test_space_has_unit_deviation_on_what_it_was_fitted_to() -> None:
    moments = clip_moments(noises(8, 0.5, 0))
    projected = LogMelSpace.fit(moments, dimensions=10).project(moments).gaussian()
    assert projected.mean == pytest.approx(np.zeros(20), abs=1e-8)
    assert np.diag(projected.covariance) == pytest.approx(np.ones(20))


def test_like_sounds_are_near_and_unlike_ones_far() -> None:
    reference = clip_moments(noises(8, 0.5, 0))
    space = LogMelSpace.fit(reference)
    same, darker, darkest = (
        space.distance(clip_moments(noises(8, colour, 1)), reference) for colour in (0.5, 0.7, 0.9)
    )
    assert same < 0.5 * darker
    assert darker < 0.5 * darkest
