from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ssmttm.engine.sampling import (
    Sampling,
    SamplingRows,
    frame_noise,
    frame_uniforms,
    guide,
    sample,
    sample_each,
    uniform_table,
)


def uniforms(count: int) -> torch.Tensor:
    return torch.tensor([frame_uniforms(7, frame, 1)[0] for frame in range(count)]).double()[:, None]


def test_noise_is_keyed_by_seed_and_absolute_frame() -> None:
    whole = frame_noise([3, 4], first_frame=0, frames=12, dim=5)
    assert torch.equal(whole[1:, :, 4:9], frame_noise([4], first_frame=4, frames=5, dim=5))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[..., 0], whole[..., 1])


def test_draws_of_noise_are_independent_and_the_first_is_the_default() -> None:
    first, second = (frame_noise([3], first_frame=0, frames=400, dim=20, draw=draw) for draw in (0, 1))
    assert torch.equal(first, frame_noise([3], first_frame=0, frames=400, dim=20))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.04
    assert torch.equal(second[..., 7:9], frame_noise([3], first_frame=7, frames=2, dim=20, draw=1))


def test_noise_is_standard_normal() -> None:
    noise = frame_noise([0], first_frame=0, frames=400, dim=100)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_codes_and_latents_draw_from_different_streams() -> None:
    assert frame_uniforms(1, 5, 3).shape == (3,)
    assert not np.allclose(frame_uniforms(1, 5, 3), frame_uniforms(1, 6, 3))
    assert not np.allclose(frame_uniforms(1, 5, 3), frame_uniforms(2, 5, 3))


@pytest.mark.parametrize("codebooks", [1, 3, 4, 9])
def test_a_table_holds_the_frames_own_numbers(codebooks: int) -> None:
    expected = np.stack([frame_uniforms(2**63 - 1, frame, codebooks) for frame in range(100, 120)])
    assert np.array_equal(uniform_table(2**63 - 1, 100, 20, codebooks), expected)


def draw_slowly(logits: np.ndarray, uniform: float, sampling: Sampling) -> int:
    """One code, by the book."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    order = order[: sampling.top_k or None]
    weights = np.exp((logits[order] - logits.max()) / sampling.temperature)
    shares = weights / weights.sum()
    reached = np.cumsum(shares) - shares
    order, shares = order[reached < sampling.top_p], shares[reached < sampling.top_p]
    by_code = np.argsort(order)
    curve = np.cumsum(shares[by_code])
    return int(order[by_code][np.searchsorted(curve, uniform * curve[-1], side="right")])


@given(
    settings=st.lists(
        st.builds(
            Sampling,
            guidance=st.just(1.0),
            temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
            top_k=st.sampled_from([0, 1, 7, 32, 100]),
            top_p=st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
        ),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis_settings(deadline=None)
def test_every_row_is_drawn_by_its_own_settings(settings: list[Sampling], seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, numbers = 3 * random.standard_normal((len(settings), 2, 32)), random.random((len(settings), 2))
    together = sample_each(
        torch.from_numpy(logits), torch.from_numpy(numbers), SamplingRows.of(settings, torch.device("cpu"))
    )
    for row, sampling in enumerate(settings):
        expected = [draw_slowly(logits[row, k], numbers[row, k], sampling) for k in range(2)]
        assert together[row].tolist() == expected
        alone = sample(torch.from_numpy(logits[row : row + 1]), torch.from_numpy(numbers[row : row + 1]), sampling)
        assert torch.equal(together[row : row + 1], alone)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(500, 1, 4)
    for top_p, expected in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        codes = sample(logits, uniforms(500), Sampling(1.0, 1.0, 0, top_p))
        assert set(codes.flatten().tolist()) == expected


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    logits = probabilities.log().expand(4000, 1, 4)
    codes = sample(logits, uniforms(4000), Sampling(1.0, 1.0, 0))
    counted = torch.bincount(codes.flatten(), minlength=4) / 4000
    assert torch.allclose(counted, probabilities, atol=0.03)
    assert counted[1] == 0


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    logits = torch.tensor([0.0, 1.0, 0.5]).expand(2000, 1, 3)
    warm = sample(logits, uniforms(2000), Sampling(1.0, 1.0, 0))
    cool = sample(logits, uniforms(2000), Sampling(1.0, 0.3, 0))
    assert (cool == 1).float().mean() > (warm == 1).float().mean() + 0.2
    assert (sample(logits, uniforms(2000), Sampling(1.0, 0.0, 0)) == 1).all()


def test_top_k_keeps_the_likeliest() -> None:
    logits = torch.arange(10.0).expand(500, 1, 10)
    codes = sample(logits * 0.01, uniforms(500), Sampling(1.0, 1.0, 3))
    assert set(codes.flatten().tolist()) == {7, 8, 9}


def test_uniforms_at_the_edges_stay_inside() -> None:
    logits = torch.tensor([[[0.0, 1.0, -torch.inf]]])
    for value, expected in ((0.0, 0), (np.nextafter(1.0, 0.0), 1)):
        code = sample(logits, torch.tensor([[value]]).double(), Sampling(1.0, 1.0, 0))
        assert code.item() == expected


def test_guidance_interpolates_and_extrapolates() -> None:
    conditional, unconditional = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, 3.0), torch.tensor([[[4.0, -2.0]]]))
