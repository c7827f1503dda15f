from __future__ import annotations

import numpy as np

from ssmttm.evaluation import intervals
from ssmttm.evaluation.frechet import frechet_distance


def mean(values: np.ndarray, draws: int, seed: int) -> tuple[float, float | None, float | None]:
    return intervals.of_clips(lambda chosen: float(values[chosen].mean()), len(values), draws, seed)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = []
    for trial in range(200):
        _, low, high = mean(random.exponential(2.0, 60), 200, trial)
        covered.append(low <= 2.0 <= high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_intervals_are_the_seeds() -> None:
    values = np.arange(10.0)
    assert mean(values, 50, 1) == mean(values, 50, 1)
    assert mean(values, 50, 1) != mean(values, 50, 2)


def test_a_distances_interval_lies_around_it_and_narrows() -> None:
    """Repeated clips raise a Fréchet distance: taken as they are, the replicas would lie above the value."""
    random = np.random.default_rng(0)
    widths = []
    for count in (20, 200):
        x, y = random.normal(size=(2, count, 4))

        def distance(a: np.ndarray, b: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> float:
            return frechet_distance(np.repeat(x, a.astype(int), axis=0), np.repeat(y, b.astype(int), axis=0))

        value, low, high = intervals.of_two_sets(distance, count, count, 60, 0)
        assert value == frechet_distance(x, y)
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_what_is_not_available_has_a_reason_and_no_value() -> None:
    figure = intervals.not_available("no weights", "lower")
    assert figure.value is None
    assert figure.as_json()["reason"] == "no weights"
