from __future__ import annotations

import numpy as np
import torch

from ssmttm.generation.sampling import Sampling, frame_noise, frame_uniforms, guide, sample


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
