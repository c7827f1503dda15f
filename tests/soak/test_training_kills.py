"""Killed at random moments, a training loses nothing: a few of the kills of `kills.py`, which is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import Soak


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_training_gives_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    tally = Soak(tmp_path, "local", seed=1).soak(10)
    assert tally.different == []
    assert tally.count == 10
    assert tally.saves >= 1
