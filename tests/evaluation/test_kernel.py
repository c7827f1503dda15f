from __future__ import annotations

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.evaluation.kernel import SCALE, KernelDistance, median_distance


def distance(clips_ND: np.ndarray, reference_MD: np.ndarray, bandwidth: float | None = None) -> float:
    return KernelDistance(clips_ND, reference_MD, bandwidth).value()


def slow(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """The definition, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.sum((a - b) ** 2) / (2 * sigma**2)))

    within = [
        np.mean([k(one[i], one[j]) for i in range(len(one)) for j in range(len(one)) if i != j]) for one in (x, y)
    ]
    return SCALE * (sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_it_is_its_definition() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 3)), random.normal(1, 2, size=(9, 3))
    assert distance(x, y, 1.5) == pytest.approx(slow(x, y, 1.5), rel=1e-9)
    assert KernelDistance(x, y).bandwidth == median_distance(y)


def test_it_is_unbiased_whatever_the_number_of_clips() -> None:
    """On equal distributions the mean over many draws is zero within three of its own standard errors."""
    random = np.random.default_rng(1)
    for count in (5, 40):
        values = [distance(*random.normal(size=(2, count, 8)), bandwidth=4.0) for _ in range(400)]
        error = np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values)) < 3 * error
        assert error < 0.3  # of a scale on which unlike Gaussians are tens apart


def test_its_expectation_on_gaussians_has_a_closed_form() -> None:
    """With s = sigma^2, E k(x, y) of x ~ N(a, I), y ~ N(b, I) is (s / (s+2))^(D/2) exp(-|a - b|^2 / (2 (s+2)))."""
    random, dimensions, shift, sigma = np.random.default_rng(2), 4, 1.0, 2.0
    s = sigma**2
    scale = (s / (s + 2)) ** (dimensions / 2)
    expected = SCALE * 2 * scale * (1 - np.exp(-dimensions * shift**2 / (2 * (s + 2))))
    values = []
    for _ in range(60):
        x, y = random.normal(size=(100, dimensions)), random.normal(shift, 1, size=(100, dimensions))
        values.append(distance(x, y, sigma))
    assert abs(np.mean(values) - expected) < 3 * np.std(values) / len(values) ** 0.5
    assert np.mean(values) == pytest.approx(expected, rel=0.05)


def test_repeating_a_clip_is_not_pairing_it_with_itself() -> None:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(6, 2)), random.normal(size=(6, 2))
    kernel = KernelDistance(x, y)
    assert kernel.value(np.full(6, 3), np.full(6, 2)) == pytest.approx(kernel.value())
    assert kernel.value(np.array([1, 1, 1, 1, 0, 0])) == pytest.approx(distance(x[:4], y, kernel.bandwidth))


def test_sets_that_have_no_distance_are_refused() -> None:
    one = np.zeros((1, 2))
    with pytest.raises(UserError, match="at least two"):
        distance(one, np.eye(2))
    with pytest.raises(UserError, match="same embedding"):
        distance(np.eye(2), np.zeros((5, 2)))
