"""The latent completer: loss on the right places, a sampler that inverts a known field, kept frames kept."""

import math

import numpy as np
import pytest
import torch
from batches import with_text

from ssmttm.conditions.text import TextStatistics, collate_text
from ssmttm.config import GenerationConfig, Stage2Config
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.model.diffusion import Blend, LatentCompleter, Sampler, rescaled

DF, DC, TEXT = 4, 3, 5


SMALL = {"width": 8, "layers": 2, "head_dim": 8}


def make_completer(**changes):
    torch.manual_seed(0)
    model = LatentCompleter(Stage2Config(**SMALL, **changes), DF, DC, {"text": TEXT}).eval()
    torch.nn.init.normal_(model.denoiser.output.weight, std=0.5)
    model.set_statistics(torch.ones(DC), torch.full((DC,), 2.0), torch.full((DF,), 3.0), torch.full((DF,), 0.5))
    return model


@pytest.fixture
def completer():
    return make_completer()


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
    return text().rows([index])


@pytest.mark.parametrize("objective", ["flow", "v"])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ancestral"])
def test_sampling_follows_the_straight_path_exactly(objective, solver, monkeypatch):
    """With the true output for one target, every solver lands on it whatever the number of steps."""
    completer = make_completer(objective=objective)
    target, noise = torch.randn(2, DF, 6), torch.randn(2, DF, 6)

    def perfect(y, level_B, *_):
        """What the objective would have the network say, if the fine latents are `target`."""
        level = level_B[:, None, None]
        # At the end, where only Heun's method looks, nothing is left of the noise.
        eps = (y - level * target) / (1 - level) if float(level_B[0]) < 1 else noise
        return completer.path.target(target, eps, level)

    monkeypatch.setattr(completer, "_output", perfect)
    for steps in (1, 3, 8):
        sampler = Sampler(steps, solver)
        sampled = completer.sample(torch.zeros(2, DC, 6), text(), noise, sampler, fresh=lambda _: torch.randn(2, DF, 6))
        torch.testing.assert_close(sampled, target * 0.5 + 3.0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("objective", ["flow", "v", "regression"])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ancestral"])
def test_known_frames_are_kept(objective, solver):
    completer = make_completer(objective=objective)
    g = torch.Generator().manual_seed(0)
    coarse, noise = torch.randn(2, DC, 9, generator=g), torch.randn(2, DF, 9, generator=g)
    draws = torch.randn(4, 2, DF, 9, generator=g)
    how = {"sampler": Sampler(4, solver), "fresh": lambda step: draws[step]}
    free = completer.sample(coarse, text(), noise, **how)
    known = torch.randn(2, DF, 3, generator=g)
    kept = completer.sample(coarse, text(), noise, **how, known_BDT=known, known_frames=3)
    torch.testing.assert_close(kept[..., :3], known)
    # A regressor has one look, at no latents at all; the others hear what is kept.
    assert torch.allclose(kept[..., 3:], free[..., 3:]) == (objective == "regression")


def test_the_network_sees_known_frames_on_their_own_lines(completer, monkeypatch):
    """Wherever a solver looks, between its steps too."""
    noise, known, seen = torch.randn(1, DF, 6), torch.randn(1, DF, 2), []

    def record(y, level_B, *_):
        seen.append((float(level_B[0]), y[..., :2]))
        return torch.randn_like(y)

    monkeypatch.setattr(completer, "_output", record)
    completer.sample(torch.zeros(1, DC, 6), text(1), noise, Sampler(3, "heun"), known_BDT=known, known_frames=2)
    assert [level for level, _ in seen] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    for level, y in seen:
        torch.testing.assert_close(y, (1 - level) * noise[..., :2] + level * (known - 3.0) / 0.5)


def test_known_frames_on_their_own_trail_change_nothing(completer):
    """Sampled again from the same noise, with its first frames known as they were made, a piece comes out the same."""
    g = torch.Generator().manual_seed(0)
    coarse, noise = torch.randn(2, DC, 9, generator=g), torch.randn(2, DF, 9, generator=g)
    trail = []
    free = completer.sample(coarse, text(), noise, Sampler(4, guidance=2.0), trail=trail)
    known = {"known_BDT": free[..., :3], "known_frames": 3}
    on_trail = completer.sample(
        coarse, text(), noise, Sampler(4, guidance=2.0), **known, known_trail=[look[..., :3] for look in trail]
    )
    torch.testing.assert_close(on_trail, free)
    on_line = completer.sample(coarse, text(), noise, Sampler(4, guidance=2.0), **known)
    assert not torch.allclose(on_line[..., 3:], free[..., 3:], atol=1e-3)


def test_guidance_one_is_the_conditional_field(completer):
    coarse, noise = torch.randn(2, DC, 6), torch.randn(2, DF, 6)
    plain = completer.sample(coarse, text(), noise, Sampler(3))
    same = completer.sample(coarse, text(), noise, Sampler(3, guidance=1.0, rescale=0.7))
    torch.testing.assert_close(plain, same)
    assert not torch.allclose(plain, completer.sample(coarse, text(), noise, Sampler(3, guidance=3.0)))


def test_guidance_may_end_before_the_piece_is_done(completer, monkeypatch):
    """Of four even steps, those at 0 and .25 are guided, with a second pass."""
    coarse, noise, dropped = torch.randn(2, DC, 8), torch.randn(2, DF, 8), []
    drawn = {
        until: completer.sample(coarse, text(), noise, Sampler(4, guidance=3.0, guided_until=until)) for until in (0, 1)
    }
    assert torch.equal(drawn[0], completer.sample(coarse, text(), noise, Sampler(4)))
    assert torch.equal(drawn[1], completer.sample(coarse, text(), noise, Sampler(4, guidance=3.0)))
    output = completer._output
    monkeypatch.setattr(
        completer, "_output", lambda *args: (dropped.append(bool(args[3]["text"].null_B[0])), output(*args))[1]
    )
    half = completer.sample(coarse, text(), noise, Sampler(4, guidance=3.0, guided_until=0.5))
    assert dropped == [False, True, False, True, False, False]
    assert not any(torch.allclose(half, other) for other in drawn.values())


def test_guidance_on_coarse_latents():
    """Guided on both, the output is nothing + g_c (coarse - nothing) + g_t (both - coarse)."""
    completer = make_completer(coarse_null_probability=0.2)
    torch.nn.init.normal_(completer.null_coarse)
    coarse, y, level = torch.randn(2, DC, 6), torch.randn(2, DF, 6), torch.full((2,), 0.3)
    nothing_BDT = completer.null_coarse[:, None].expand(2, DC, 6)
    both, only, nothing = (
        completer._output(y, level, c, t)
        for c, t in ((coarse, text()), (coarse, text().as_null()), (nothing_BDT, text().as_null()))
    )
    asked = Blend([text()], [], text().as_null())
    guided = completer._guided(y, level, coarse, asked, Sampler(1, guidance=2.5, coarse_guidance=1.5))
    torch.testing.assert_close(guided, nothing + 1.5 * (only - nothing) + 2.5 * (both - only))


def test_guidance_on_coarse_latents_must_have_been_learnt(completer):
    with pytest.raises(UserError, match=r"stage2_coarse_guidance=2 needs a model trained with"):
        completer.sample(torch.zeros(1, DC, 4), text(1), torch.zeros(1, DF, 4), Sampler(1, coarse_guidance=2.0))


def test_rescaling_keeps_the_deviation():
    """Fully rescaled, each row has the deviation that it had without guidance; half way it lies between."""
    plain, guided = torch.randn(2, DF, 6), torch.randn(2, DF, 6) * torch.tensor([3.0, 0.5])[:, None, None]
    full = rescaled(guided, plain, 1.0)
    torch.testing.assert_close(full.std((1, 2)), plain.std((1, 2)))
    torch.testing.assert_close(rescaled(guided, plain, 0.5), (full + guided) / 2)
    torch.testing.assert_close(rescaled(plain, plain, 0.7), plain)


def attempt(completer, level_or_t, measure="loss", **more):
    """Fine and coarse latents, noise, and the mean loss at one time."""
    g = torch.Generator().manual_seed(1)
    fine, coarse, noise = (torch.randn(2, dim, 9, generator=g) for dim in (DF, DC, DF))
    t, mask = torch.full((2,), level_or_t), torch.ones(2, 9, dtype=torch.bool)
    total, count = getattr(completer, measure)(fine, coarse, text(), t, noise, mask, **more)
    return fine, coarse, noise, (total / count).item()


def said(completer, x, t, coarse):
    """What the denoiser answers to normalised inputs."""
    return completer.denoiser(x, torch.full((2,), t), (coarse - 1.0) / 2.0, text())


def test_flow_loss_by_hand(completer):
    fine, coarse, noise, loss = attempt(completer, 0.3)
    fine = (fine - 3.0) / 0.5
    wanted = (said(completer, 0.7 * noise + 0.3 * fine, 0.3, coarse) - (fine - noise)).square().mean()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert attempt(completer, 0.3, "validation_loss")[-1] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_v_loss_by_hand(loss):
    completer = make_completer(objective="v", loss=loss)
    fine, coarse, noise, found = attempt(completer, 0.3)
    fine = (fine - 3.0) / 0.5
    alpha, sigma = math.cos(0.7 * math.pi / 2), math.sin(0.7 * math.pi / 2)
    error = said(completer, alpha * fine + sigma * noise, 0.3, coarse) - (alpha * noise - sigma * fine)
    wanted = error.abs().mean() if loss == "l1" else error.square().mean()
    assert found == pytest.approx(float(wanted), rel=1e-4)


def test_regression_loss_by_hand():
    completer = make_completer(objective="regression")
    fine, coarse, noise, loss = attempt(completer, 0.3)
    fine = (fine - 3.0) / 0.5
    wanted = (said(completer, torch.zeros_like(noise), 0.0, coarse) - fine).square().mean()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert attempt(completer, 0.9, "validation_loss")[-1] == pytest.approx(loss, rel=1e-6)


def test_validation_compares_objectives(monkeypatch):
    """Networks that hold the same belief about the fine latents have the same error, whatever they were taught."""
    errors = []
    for objective, loss in (("flow", "l2"), ("v", "l1")):
        completer = make_completer(objective=objective, loss=loss)

        def believe(y, level_B, *_, completer=completer):
            level = level_B[:, None, None]
            fine = 0.5 * torch.ones_like(y)
            return completer.path.target(fine, (y - level * fine) / (1 - level), level)

        monkeypatch.setattr(completer, "_output", believe)
        errors.append([attempt(completer, level, "validation_loss")[-1] for level in (0.1, 0.5, 0.9)])
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_dropped_coarse_latents_are_the_null_vector():
    completer = make_completer(coarse_null_probability=0.2)
    torch.nn.init.normal_(completer.null_coarse)
    *_, both = attempt(completer, 0.3)
    *_, dropped = attempt(completer, 0.3, coarse_null_B=torch.tensor([True, True]))
    assert dropped != pytest.approx(both, rel=1e-3)
    with torch.no_grad():  # the same null vector in the codec's units
        moved = completer.null_coarse[:, None] * 2.0 + 1.0
    g = torch.Generator().manual_seed(1)
    fine, _, noise = (torch.randn(2, dim, 9, generator=g) for dim in (DF, DC, DF))
    mask = torch.ones(2, 9, dtype=torch.bool)
    total, count = completer.loss(fine, moved.expand(2, DC, 9), text(), torch.full((2,), 0.3), noise, mask)
    assert dropped == pytest.approx(float(total / count), rel=1e-5)


def test_sampler_follows_the_configuration():
    config = GenerationConfig(
        solver="ab2",
        time_grid="sway",
        stage2_guidance_rescale=0.5,
        stage2_coarse_guidance=1.5,
        stage2_guided_until=0.4,
    )
    assert Sampler.of(config, 6, 2.0) == Sampler(6, "ab2", "sway", 2.0, 0.5, 1.5, 0.4)


def test_weights_from_before_the_other_denoisers_load():
    """Their configuration knows nothing of objectives; their tensors have these names and no others."""
    old = {"denoiser": "convnext", "width": 8, "layers": 1, "kernel_size": 7, "expand": 3}
    old |= {"null_probability": 0.15, "crop_frames": 0}
    block = [f"{layer}.{kind}" for layer in ("depthwise", "up", "down", "modulation") for kind in ("weight", "bias")]
    layers = ["input", "time.0", "time.2", "text", "norm", "output"]
    names = [f"denoiser.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    names += ["denoiser.null_text", *(f"denoiser.blocks.0.{name}" for name in block)]
    names += [f"{what}_{kind}" for what in ("fine", "coarse", "pooled") for kind in ("mean", "std")]
    now = LatentCompleter(Stage2Config(**old), DF, DC, {"text": TEXT}).state_dict()
    assert {weights.current_name("stage2", name) for name in names} == set(now)
    state = {name: now[weights.current_name("stage2", name)] for name in names}
    description = {"config": old, "fine_dim": DF, "coarse_dim": DC, "text_dim": TEXT}
    loaded = weights.build_completer(description, state)
    assert (loaded.config.objective, GenerationConfig().solver) == ("flow", "euler")


def test_token_states_are_standardised_too():
    """A shift and a stretch of all token states is undone by statistics that know of them."""
    completer = make_completer(cross_attention=True)
    torch.nn.init.normal_(completer.denoiser.blocks[0].look.attention.out.weight)
    y, level, coarse = torch.randn(2, DF, 6), torch.full((2,), 0.3), torch.randn(2, DC, 6)
    before, given = completer._output(y, level, coarse, text()), text()
    moved = with_text(given, states_BSD=given["text"].states_BSD * 3 + 2)
    assert not torch.allclose(before, completer._output(y, level, coarse, moved))
    zeros, ones = torch.zeros(TEXT), torch.ones(TEXT)
    completer.set_text_statistics(TextStatistics(zeros + 2, ones * 3, zeros, ones))
    torch.testing.assert_close(before, completer._output(y, level, coarse, moved))


def test_text_statistics_enter(completer):
    coarse, noise = torch.randn(2, DC, 6), torch.randn(2, DF, 6)
    before = completer.sample(coarse, text(), noise, Sampler(2))
    completer.set_text_statistics(
        TextStatistics.measure([np.random.default_rng(0).normal(size=(4, TEXT)) for _ in range(9)])
    )
    assert not torch.allclose(before, completer.sample(coarse, text(), noise, Sampler(2)))


def test_it_learns_a_deterministic_mapping():
    """Fine latents that are a function of the coarse ones: the loss falls well below its start."""
    torch.manual_seed(0)
    model = LatentCompleter(Stage2Config(width=32, layers=2), 2, 2, {"text": TEXT})
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


def test_several_prompts_are_averaged_and_guidance_leads_away_from_the_negative_one(completer):
    """Against calls of the network, one for each row; a prompt that counts for all is that prompt alone, bit by bit."""
    coarse, noise = torch.randn(2, DC, 6), torch.randn(2, DF, 6)
    one, other, away = text(2), text(2, seed=1), text(2, seed=2)
    weights = [torch.tensor([0.7, 0.2]).view(2, 1, 1), torch.tensor([0.3, 0.8]).view(2, 1, 1)]
    step = Sampler(1, guidance=2.0)
    level, seen = torch.zeros(2), completer._normalise("coarse", coarse)
    plain, second, without = (completer._output(noise, level, seen, asked) for asked in (one, other, away))
    mixed = weights[0] * plain + weights[1] * second
    velocity = completer.path.velocity(noise, without + 2 * (mixed - without), level[:, None, None])
    expected = (noise + velocity) * completer.fine_std[:, None] + completer.fine_mean[:, None]
    made = completer.sample(coarse, Blend([one, other], weights, away), noise, step)
    assert torch.allclose(made, expected, atol=1e-5)
    alone = completer.sample(coarse, Blend([one], [], one.as_null()), noise, step)
    assert torch.equal(alone, completer.sample(coarse, one, noise, step))
    unguided = [completer.sample(coarse, Blend([one], [], lead), noise, Sampler(2)) for lead in (one.as_null(), away)]
    assert torch.equal(*unguided)
