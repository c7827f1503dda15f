"""Every denoiser under one contract: padding and batch mates change nothing, any length works, time, text and coarse
latents are heard; and equal sizes are equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import doubled, with_text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssmttm import config as configuration
from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
from ssmttm.config import Stage2Config
from ssmttm.errors import UserError
from ssmttm.model.costs import trainable_parameters
from ssmttm.model.denoisers.common import Denoiser
from ssmttm.model.denoisers.registry import DENOISERS, build_denoiser
from ssmttm.model.denoisers.ssm import BidirectionalMamba2
from ssmttm.model.denoisers.transformer import SelfAttention
from ssmttm.model.denoisers.unet import UNetDenoiser
from tuning.equal_sizes import EQUAL_SIZES

DF, DC, TEXT = 4, 3, 5
NAMES = [(name, cross) for name in DENOISERS for cross in (False, True)]


def build(name: str, cross: bool = True, **changes: int) -> Denoiser:
    """A small denoiser in fp64 with random weights everywhere, as parts that start at zero would hide mistakes."""
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 2, "head_dim": 8, "state_size": 8, "kernel_size": 5, **changes}
    model = build_denoiser(Stage2Config(denoiser=name, cross_attention=cross, **sizes), DF, DC, {"text": TEXT})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


MODELS = {(name, cross): build(name, cross) for name, cross in NAMES}


def make_text(rows: int, null: list[bool] | None = None) -> Conditions:
    """Texts of unequal lengths, left-padded."""
    generator = np.random.default_rng(0)
    return doubled(
        collate_text([generator.normal(size=(2 + row, TEXT)).astype(np.float32) for row in range(rows)], null)
    )


def row_of(text: Conditions, row: int) -> Conditions:
    """One row without its padding."""
    one = text.rows([row])
    real = one["text"].mask_BS[0]
    return with_text(one, states_BSD=one["text"].states_BSD[:, real], mask_BS=one["text"].mask_BS[:, real])


def make_inputs(rows: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, times and coarse latents."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((rows, DF, frames), (rows,), (rows, DC, frames))
    noisy, t, coarse = (torch.rand(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return noisy - 0.5, t, coarse - 0.5


@pytest.mark.parametrize(("name", "cross"), NAMES)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 23), min_size=2, max_size=3), extra=st.integers(0, 5), null=st.booleans())
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(
    name: str, cross: bool, lengths: list[int], extra: int, null: bool
) -> None:
    """Rows in a batch with garbage after their ends are what they are alone and unpadded."""
    model, frames = MODELS[name, cross], max(lengths) + extra
    noisy, t, coarse = make_inputs(len(lengths), frames)
    text = make_text(len(lengths), [null, *[False] * (len(lengths) - 1)])
    mask = torch.arange(frames)[None] < torch.tensor(lengths)[:, None]
    noisy = torch.where(mask[:, None], noisy, 1e3)
    coarse = torch.where(mask[:, None], coarse, -1e3)
    together = model(noisy, t, coarse, text, mask)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone = model(noisy[one, :, :length], t[one], coarse[one, :, :length], row_of(text, row))
        torch.testing.assert_close(together[one, :, :length], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "cross"), NAMES)
@torch.no_grad()
def test_everything_given_is_heard(name: str, cross: bool) -> None:
    model = MODELS[name, cross]
    noisy, t, coarse = make_inputs(2, 11)
    text = make_text(2)
    base = model(noisy, t, coarse, text)
    shuffled = with_text(text, states_BSD=text["text"].states_BSD + 1)
    others = {
        "noisy": model(noisy + 1, t, coarse, text),
        "t": model(noisy, t * 0.5, coarse, text),
        "coarse": model(noisy, t, coarse + 1, text),
        "null": model(noisy, t, coarse, text.as_null()),
        "pooled": model(noisy, t, coarse, with_text(text, pooled_BD=text["text"].pooled_BD + 1)),
    }
    for what, other in others.items():
        assert not torch.allclose(base, other, atol=1e-4), what
    # Token states are heard if and only if the blocks look at them, and never where the text is dropped.
    assert torch.allclose(base, model(noisy, t, coarse, shuffled), atol=1e-6) == (not cross)
    assert torch.equal(others["null"], model(noisy, t, coarse, shuffled.as_null()))


@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_frames_hear_both_past_and_future(name: str) -> None:
    model = MODELS[name, False]
    noisy, t, coarse = make_inputs(1, 12)
    base = model(noisy, t, coarse, make_text(1))
    changed = noisy.clone()
    changed[..., 6] += 1
    difference = (model(changed, t, coarse, make_text(1)) - base).abs().amax(dim=(0, 1))
    assert (difference[[4, 5, 7, 8]] > 1e-6).all()


@torch.no_grad()
def test_positions_are_relative() -> None:
    """Attention of frames far into a row is that of the same frames at its beginning."""
    attention = SelfAttention(16, 8).double()
    x = torch.randn(1, 30, 16, dtype=torch.float64)
    late = torch.arange(30)[None] >= 20
    torch.testing.assert_close(attention(x, late)[:, 20:], attention(x[:, 20:], None))


@torch.no_grad()
def test_both_directions_have_weights_of_their_own() -> None:
    """A mixer whose directions were shared could not tell a piece from its reversal."""
    torch.manual_seed(0)
    mixer = BidirectionalMamba2(Stage2Config(width=16, head_dim=8, state_size=8)).double()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    assert not torch.allclose(mixer(x, None), mixer(x.flip(1), None).flip(1), atol=1e-4)


@pytest.mark.parametrize("frames", range(1, 10))
@torch.no_grad()
def test_unet_takes_any_length(frames: int) -> None:
    model = MODELS["unet", False]
    assert isinstance(model, UNetDenoiser)
    noisy, t, coarse = make_inputs(1, frames)
    assert model(noisy, t, coarse, make_text(1)).shape == (1, DF, frames)


@pytest.mark.parametrize("name", DENOISERS)
def test_it_starts_at_zero_and_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    config = Stage2Config(denoiser=name, width=16, layers=2, head_dim=8, state_size=8, cross_attention=True)
    model = build_denoiser(config, DF, DC, {"text": TEXT}).double()
    noisy, t, coarse = make_inputs(3, 9)
    text = make_text(3, [True, False, False])
    assert not model(noisy, t, coarse, text).any()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):  # zeros let gradients through one after the other
        optimizer.zero_grad()
        (model(noisy, t, coarse, text) - noisy).square().mean().backward()
        optimizer.step()
    silent = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent


def test_heads_must_fit() -> None:
    with pytest.raises(UserError, match=r"stage2\.width=100 must be a multiple of stage2\.head_dim=64"):
        build_denoiser(Stage2Config(denoiser="transformer", width=100), DF, DC, {"text": TEXT})
    with pytest.raises(UserError, match=r"stage2\.head_dim=25 must be even"):
        build_denoiser(Stage2Config(denoiser="unet", width=100, head_dim=25), DF, DC, {"text": TEXT})
    build_denoiser(Stage2Config(denoiser="convnext", width=100), DF, DC, {"text": TEXT})  # has no heads


@pytest.mark.parametrize(("preset", "sizes"), [("mini", (128, 128, 384)), ("paper", (64, 8, 768))])
def test_equal_sizes_are_equal(preset: str, sizes: tuple[int, int, int]) -> None:
    """Within 3 % of the preset's own denoiser."""
    config = configuration.load(preset).stage2
    with torch.device("meta"):
        *latents, text = sizes
        wanted = trainable_parameters(build_denoiser(config, *latents, {"text": text}))
        for name, changes in EQUAL_SIZES[preset].items():
            model = build_denoiser(config.model_copy(update={"denoiser": name, **changes}), *latents, {"text": text})
            assert trainable_parameters(model) == pytest.approx(wanted, rel=0.03), name
    assert set(EQUAL_SIZES[preset]) == set(DENOISERS)
