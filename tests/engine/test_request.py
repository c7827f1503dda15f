from __future__ import annotations

from ssmttm.config import GenerationConfig
from ssmttm.engine.request import check_seed, resolve
from ssmttm.engine.sampling import Sampling


def test_defaults_come_from_the_bundle() -> None:
    config = GenerationConfig(guidance=3.0, temperature=0.7, top_k=9, top_p=0.8, steps=4)
    settings = resolve(config, 10.0)
    assert settings.sampling == Sampling(3.0, 0.7, 9, 0.8)
    assert settings.steps == 4


def test_given_values_win_even_when_they_are_zero() -> None:
    settings = resolve(GenerationConfig(), 10.0, guidance=0.0, temperature=0.0, top_k=0, steps=1)
    assert settings.sampling == Sampling(0.0, 0.0, 0)
    assert settings.steps == 1


def test_seeds_are_kept_or_drawn() -> None:
    assert check_seed(5) == 5
    drawn = {check_seed(None) for _ in range(8)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)
