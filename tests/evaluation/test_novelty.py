from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.errors import UserError
from ssmttm.evaluation.novelty import CodeRuns, Neighbours, copy_bound, runs


def test_copies_are_found_among_new_clips() -> None:
    random = np.random.default_rng(0)
    scales = random.uniform(0.01, 100, 30)
    training, held_out, new = (random.normal(size=(n, 30)) * scales for n in (200, 200, 50))
    copies = training[:10] + 0.05 * scales * random.normal(size=(10, 30))
    neighbours = Neighbours(training)
    bound = copy_bound(neighbours.nearest(held_out)[0])
    distances, numbers = neighbours.nearest(np.concatenate([copies, new]))
    assert numbers[:10].tolist() == list(range(10))
    assert (distances[:10] < bound).all()
    assert (distances[10:] < bound).mean() <= 0.1
    assert distances[:10] == pytest.approx(0.05, rel=0.4)


def test_neighbours_need_training_clips() -> None:
    with pytest.raises(UserError, match="at least two training clips"):
        Neighbours(np.zeros((1, 3)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_runs_are_all_windows(codes: list[int], length: int) -> None:
    windows = {tuple(codes[i : i + length]) for i in range(len(codes) - length + 1)}
    found = runs(np.array(codes, dtype=np.int16), length)
    assert {tuple(np.frombuffer(run, dtype=np.int32).tolist()) for run in found} == windows


def test_runs_of_training_are_known_and_new_ones_are_not() -> None:
    random = np.random.default_rng(0)
    training = [random.integers(0, 1024, 100) for _ in range(20)]
    known = CodeRuns(training)
    assert known.share_known(training[3]) == 1
    assert known.share_known(random.integers(0, 1024, 100)) == 0
    half = np.concatenate([training[0][:50], random.integers(0, 1024, 50)])
    assert 0.4 < known.share_known(half) < 0.5
    assert np.isnan(known.share_known(training[0][:7]))
