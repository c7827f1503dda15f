"""The latent completer: loss on the right places, a sampler that inverts a known field, kept frames kept."""

import numpy as np
import pytest
import torch

from ssmttm.config import Stage2Config
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.text import TextStatistics, collate_text

DF, DC, TEXT = 4, 3, 5


@pytest.fixture
def completer():
    torch.manual_seed(0)
    model = LatentCompleter(Stage2Config(width=8, layers=2), DF, DC, TEXT).eval()
    torch.nn.init.normal_(model.denoiser.output.weight, std=0.5)
    model.set_statistics(torch.ones(DC), torch.full((DC,), 2.0), torch.full((DF,), 3.0), torch.full((DF,), 0.5))
    return model


def text(rows=2, seed=0):
    rng = np.random.default_rng(seed)
    return collate_text([rng.normal(size=(3, TEXT)).astype(np.float16) for _ in range(rows)])


def test_loss_counts_valid_frames_only(completer):
    g = torch.Generator().manual_seed(0)
    fine, noise = torch.randn(2, DF, 9, generator=g), torch.randn(2, DF, 9, generator=g)
    coarse, t = torch.randn(2, DC, 9, generator=g), torch.tensor([0.2, 0.7])
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    total, count = completer.loss(fine, coarse, text(), t, noise, mask)
    assert count == 14
    fine[1, :, 5:] = 100.0
    coarse[1, :, 5:] = -100.0
    again, _ = completer.loss(fine, coarse, text(), t, noise, mask)
    torch.testing.assert_close(total, again)
    row = completer.loss(fine[1:, :, :5], coarse[1:, :, :5], text_row(1), t[1:], noise[1:, :, :5], mask[1:, :5])[0]
    first = completer.loss(fine[:1], coarse[:1], text_row(0), t[:1], noise[:1], mask[:1])[0]
    torch.testing.assert_close(total, row + first)


def text_row(index):
    whole = text()
    return type(whole)(
        *(part[index : index + 1] for part in (whole.states_BSD, whole.mask_BS, whole.pooled_BD, whole.null_B))
    )


def test_sampling_follows_the_straight_path_exactly(completer, monkeypatch):
    """With the true velocity of one target, Euler lands on the target whatever the number of steps."""
    target = torch.randn(2, DF, 6)
    noise = torch.randn(2, DF, 6)
    monkeypatch.setattr(completer, "_velocity", lambda *a: target - noise)
    for steps in (1, 3, 8):
        sampled = completer.sample(torch.zeros(2, DC, 6), text(), noise, steps)
        torch.testing.assert_close(sampled, target * 0.5 + 3.0)


def test_known_frames_are_kept(completer):
    g = torch.Generator().manual_seed(0)
    coarse, noise = torch.randn(2, DC, 9, generator=g), torch.randn(2, DF, 9, generator=g)
    free = completer.sample(coarse, text(), noise, 4)
    known = torch.randn(2, DF, 3, generator=g)
    kept = completer.sample(coarse, text(), noise, 4, known_BDT=known, known_frames=3)
    torch.testing.assert_close(kept[..., :3], known)
    assert not torch.allclose(kept[..., 3:], free[..., 3:])


def test_known_frames_on_their_own_trail_change_nothing(completer):
    """Sampled again from the same noise, with its first frames known as they were made, a piece comes out the same."""
    g = torch.Generator().manual_seed(0)
    coarse, noise = torch.randn(2, DC, 9, generator=g), torch.randn(2, DF, 9, generator=g)
    trail = []
    free = completer.sample(coarse, text(), noise, 4, guidance=2.0, trail=trail)
    known = {"known_BDT": free[..., :3], "known_frames": 3}
    on_trail = completer.sample(
        coarse, text(), noise, 4, guidance=2.0, **known, known_trail=[look[..., :3] for look in trail]
    )
    torch.testing.assert_close(on_trail, free)
    on_line = completer.sample(coarse, text(), noise, 4, guidance=2.0, **known)
    assert not torch.allclose(on_line[..., 3:], free[..., 3:], atol=1e-3)


def test_guidance_one_is_the_conditional_field(completer):
    coarse, noise = torch.randn(2, DC, 6), torch.randn(2, DF, 6)
    plain = completer.sample(coarse, text(), noise, 3)
    torch.testing.assert_close(plain, completer.sample(coarse, text(), noise, 3, guidance=1.0))
    assert not torch.allclose(plain, completer.sample(coarse, text(), noise, 3, guidance=3.0))


def test_text_statistics_enter(completer):
    coarse, noise = torch.randn(2, DC, 6), torch.randn(2, DF, 6)
    before = completer.sample(coarse, text(), noise, 2)
    completer.set_text_statistics(
        TextStatistics.measure([np.random.default_rng(0).normal(size=(4, TEXT)) for _ in range(9)])
    )
    assert not torch.allclose(before, completer.sample(coarse, text(), noise, 2))


def test_it_learns_a_deterministic_mapping():
    """Fine latents that are a function of the coarse ones: the loss falls well below its start."""
    torch.manual_seed(0)
    model = LatentCompleter(Stage2Config(width=32, layers=2), 2, 2, TEXT)
    optimizer = torch.optim.AdamW(model.optimizer_groups(3e-3, 0.0))
    g = torch.Generator().manual_seed(0)
    losses = []
    mask = torch.ones(16, 12, dtype=torch.bool)
    for _ in range(150):
        coarse = torch.randn(16, 2, 12, generator=g)
        total, count = model.loss(
            -coarse, coarse, text(16), torch.rand(16, generator=g), torch.randn(16, 2, 12, generator=g), mask
        )
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append(float(total / count))
    assert np.mean(losses[-20:]) < 0.5 * losses[0]
