"""Numbers of a prompt beside its text states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.conditions.encoders import load_text_encoder, load_text_encoder_from
from ssmttm.conditions.numbers import HIGHEST, LOWEST, PLACES, fingerprint_with_numbers, number_features
from ssmttm.config import TextConfig


def read_back(features: np.ndarray) -> float:
    """The one number behind the features."""
    scale = np.linspace(np.log2(LOWEST), np.log2(HIGHEST), PLACES)
    return float(2 ** (features.astype(np.float64) @ scale))


@given(
    st.integers(int(LOWEST), int(HIGHEST)), st.sampled_from(["{} bpm", "at {}bpm, slow", "tempo: {}", "{} BPM.", "{}"])
)
def test_a_tempo_can_be_read_back(bpm: int, form: str) -> None:
    features = number_features(form.format(bpm))
    assert features.sum() == pytest.approx(1, abs=2e-3)
    assert np.count_nonzero(features) <= 2
    assert read_back(features) == pytest.approx(bpm, rel=2e-3)


@pytest.mark.parametrize(
    "prompt", ["", "fast techno", "an 80s synth", "the 1990s", "from 1985", "in 4/4", "808 kick", "no. 7"]
)
def test_what_is_no_tempo_says_nothing(prompt: str) -> None:
    assert not number_features(prompt).any()


def test_fractions_ranges_and_several_numbers() -> None:
    assert read_back(number_features("at 99.5 bpm.")) == pytest.approx(99.5, rel=2e-3)
    both = number_features("100-140 bpm")
    np.testing.assert_allclose(both, number_features("100") + number_features("140"), atol=1e-3)


@given(st.floats(LOWEST, HIGHEST / 1.08))
def test_near_tempi_look_alike_and_others_do_not(bpm: float) -> None:
    here, near, far = (number_features(f"{bpm * factor:.1f}").astype(float) for factor in (1, 1.02, 1.08))
    if far.any():  # else beyond the scale
        assert np.linalg.norm(here - near) < 0.6 * np.linalg.norm(here - far)


def test_every_state_of_the_encoder_has_them() -> None:
    plain, numbered = load_text_encoder(TextConfig()), load_text_encoder(TextConfig(numbers=True))
    captions = ["techno at 130 bpm", "slow piano"]
    for caption, without, states in zip(captions, plain.encode(captions), numbered.encode(captions), strict=True):
        assert states.dtype == np.float16
        assert states.shape == (len(without), numbered.dim) == (len(without), plain.dim + PLACES)
        np.testing.assert_array_equal(states[:, : plain.dim], without)
        np.testing.assert_array_equal(states[:, plain.dim :], np.tile(number_features(caption), (len(states), 1)))


def test_an_encoder_with_numbers_is_another_one() -> None:
    plain, numbered = load_text_encoder(TextConfig()), load_text_encoder(TextConfig(numbers=True))
    assert numbered.fingerprint == fingerprint_with_numbers(plain.fingerprint) != plain.fingerprint
    assert "numbers" not in plain.reference  # as bundles were before
    for encoder in (plain, numbered):
        again = load_text_encoder_from(encoder.reference)
        assert (again.fingerprint, again.dim) == (encoder.fingerprint, encoder.dim)
