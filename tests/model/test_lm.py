"""Every backbone: stepwise = full, causal, blind to padding and batch mates."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batches import doubled, with_text
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm import config as configuration
from ssmttm.conditions.text import TextStatistics, collate_text
from ssmttm.config import Stage1Config
from ssmttm.errors import UserError
from ssmttm.model import costs
from ssmttm.model.delay import apply_delay
from ssmttm.model.lm import MusicLM
from ssmttm.model.mixers.registry import BACKBONES

V, TEXT_DIM = 11, 6


def make_lm(backbone="prefix_simba", **changes):
    torch.manual_seed(0)
    settings_ = {"width": 16, "layers": 2, "state_size": 8, "head_dim": 8, "chunk_size": 4, "dropout": 0.3}
    config = Stage1Config(backbone=backbone, **{**settings_, "pooled_init_std": 0.3, **changes})
    features = torch.randn(V, 5) if config.codebook_features else None
    return MusicLM(config, V, {"text": TEXT_DIM}, features).double().eval()


def texts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, TEXT_DIM)).astype(np.float16) for length in lengths]


def batch(states, null=None):
    return doubled(collate_text(states, null))


def codes(batch_size, length, K=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return apply_delay(torch.randint(0, V, (batch_size, K, length), generator=g), V)


@cache
def shared_lm(backbone, positions="none", K=1):
    return make_lm(backbone, positions=positions, num_codebooks=K)


backbones, positions, seeds = (
    st.sampled_from(sorted(BACKBONES)),
    st.sampled_from(["none", "sinusoidal"]),
    st.integers(0, 1000),
)
codebooks, lengths, frames = st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 12)
many = settings(max_examples=250, deadline=None)


@given(backbones, positions, codebooks, lengths, lengths, frames, seeds)
@many
@torch.no_grad()
def test_stepwise_equals_full(backbone, positions, K, length, other, frames, seed):
    lm, text = shared_lm(backbone, positions, K), batch(texts(length, other, seed=seed), null=[False, seed % 2 == 0])
    delayed = codes(2, frames, K, seed)
    full = lm(delayed, text)
    logits, state = lm.prefill(text)
    for s in range(delayed.shape[-1]):
        torch.testing.assert_close(logits, full[:, :, s], rtol=1e-7, atol=1e-7)
        logits, state = lm.step(delayed[:, :, s], state)


@given(backbones, positions, codebooks, frames, seeds)
@many
@torch.no_grad()
def test_two_halves_equal_the_whole(backbone, positions, K, frames, seed):
    lm, text, delayed = shared_lm(backbone, positions, K), batch(texts(4, seed=seed)), codes(1, frames, K, seed)
    full = lm(delayed, text)
    _, state = lm.prefill(text)
    cut = 1 + seed % delayed.shape[-1]
    first, state = lm.read(delayed[:, :, :cut], state)
    torch.testing.assert_close(first[:, :, :-1], full[:, :, 1:cut], rtol=1e-7, atol=1e-7)
    if cut < delayed.shape[-1]:
        second, _ = lm.read(delayed[:, :, cut:], state)
        torch.testing.assert_close(first[:, :, -1], full[:, :, cut], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(second[:, :, :-1], full[:, :, cut + 1 :], rtol=1e-7, atol=1e-7)


@given(backbones, positions, codebooks, seeds, st.integers(0, 8))
@many
@torch.no_grad()
def test_a_changed_frame_changes_nothing_before_or_at_it(backbone, positions, K, seed, where):
    lm, text = shared_lm(backbone, positions, K), batch(texts(4))
    delayed = codes(1, 9, K, seed)
    changed = delayed.clone()
    changed[:, 0, where] = (changed[:, 0, where] + 1) % V
    before, after = lm(delayed, text), lm(changed, text)
    assert torch.equal(before[:, :, : where + 1], after[:, :, : where + 1])
    if where < delayed.shape[-1] - 1:
        assert not torch.equal(before[:, :, where + 1 :], after[:, :, where + 1 :])


@given(backbones, positions, codebooks, lengths, st.integers(1, 20), seeds)
@many
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(backbone, positions, K, length, mate, seed):
    """A longer text beside it pads a row's own, and what the mate plays changes nothing either."""
    lm = shared_lm(backbone, positions, K)
    own, other = texts(length, mate, seed=seed)
    delayed = codes(2, 7, K, seed)
    alone = lm(delayed[:1], batch([own]))
    together = lm(delayed, batch([own, other]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-8, atol=1e-8)
    changed = torch.cat([delayed[:1], codes(1, 7, K, seed + 1)])
    torch.testing.assert_close(lm(changed, batch([own, other]))[:1], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_null_text_ignores_the_text(backbone):
    lm = make_lm(backbone)
    delayed = codes(1, 7)
    first = lm(delayed, batch(texts(5, seed=1), null=[True]))
    second = lm(delayed, batch(texts(9, seed=2), null=[True]))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, lm(delayed, batch(texts(5, seed=1))))


def test_both_text_paths_carry_and_can_be_dropped():
    lm = make_lm()
    delayed, text = codes(1, 7), batch(texts(5))
    own = lm(delayed, text)
    no_pooled, no_prefix = lm(delayed, text, drop_pooled=True), lm(delayed, text, drop_prefix=True)
    assert not torch.allclose(own, no_pooled)
    assert not torch.allclose(own, no_prefix)
    neither = lm(delayed, text, drop_pooled=True, drop_prefix=True)
    torch.testing.assert_close(neither, lm(delayed, text.as_null()))


def test_dropout_acts_in_training_only():
    lm = make_lm()
    delayed, text = codes(1, 7), batch(texts(5))
    assert torch.equal(lm(delayed, text), lm(delayed, text))
    lm.train()
    assert not torch.equal(lm(delayed, text), lm(delayed, text))


def test_token_dropout_hides_codes_in_training_only():
    lm = make_lm(dropout=0.0, token_dropout=0.999999)
    first, second, text = codes(1, 7, seed=1), codes(1, 7, seed=2), batch(texts(5))
    assert not torch.equal(lm(first, text), lm(second, text))
    lm.train()
    assert torch.equal(lm(first, text), lm(second, text))


def test_optimizer_groups_cover_each_parameter_once_and_spare_the_ssm():
    lm = make_lm()
    groups = lm.optimizer_groups(lr=1e-3, weight_decay=0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in lm.parameters())
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in lm.named_parameters():
        last = name.split(".")[-1]
        if last in ("A_log", "D", "dt_bias", "token_table", "bias", "head_bias") or "norm" in name:
            assert decay[id(parameter)] == 0, name
        assert rate[id(parameter)] == pytest.approx(1.5e-4 if name.startswith("inputs.text.pooled_proj") else 1e-3)
    assert decay[id(lm.blocks[0].mixer.in_proj.weight)] == 0.1


def test_text_statistics_standardise_and_clamp():
    states = texts(4, 7, 5)
    for s in states:
        s[:, 0] = 0.25
    statistics = TextStatistics.measure(states)
    assert statistics.mean[0] == pytest.approx(0.25)
    assert statistics.std.min() >= 0.1 * statistics.std.median() * 0.99


def test_token_states_and_pooled_vectors_are_standardised():
    """A shift and a stretch of either is undone by statistics that know of them."""
    lm, delayed, text = make_lm(), codes(1, 7), batch(texts(5))
    before, zeros, ones = lm(delayed, text), torch.zeros(TEXT_DIM), torch.ones(TEXT_DIM)
    moved = with_text(text, states_BSD=text["text"].states_BSD * 3 + 2)
    assert not torch.allclose(before, lm(delayed, moved))
    lm.set_text_statistics(TextStatistics(zeros + 2, ones * 3, zeros, ones))
    torch.testing.assert_close(before, lm(delayed, moved))
    moved = with_text(moved, pooled_BD=text["text"].pooled_BD * 5 - 1)
    assert not torch.allclose(before, lm(delayed, moved))
    lm.set_text_statistics(TextStatistics(zeros + 2, ones * 3, zeros - 1, ones * 5))
    torch.testing.assert_close(before, lm(delayed, moved))


def test_state_has_a_fixed_size_for_ssm_backbones():
    lm = make_lm()
    _, state = lm.prefill(batch(texts(5)))
    sizes = []
    for _ in range(5):
        _, state = lm.step(torch.zeros(1, 1, dtype=torch.long), state)
        sizes.append(sum(t.numel() for block in state.blocks for part in block if part is not None for t in part))
    assert len(set(sizes)) == 1


def test_steps_write_over_the_state_and_allocate_no_other():
    lm = make_lm(positions="sinusoidal")
    with torch.inference_mode():
        _, state = lm.prefill(batch(texts(5)))
        places = [part.data_ptr() for block in state.blocks for part in block.first]
        for _ in range(3):
            _, state = lm.step(torch.zeros(1, 1, dtype=torch.long), state)
        assert places == [part.data_ptr() for block in state.blocks for part in block.first]
        assert state.position_B.item() == 5 + 1 + 3


def test_lengths_that_positions_are_not_made_for_are_refused():
    lm = make_lm(positions="sinusoidal", max_frames=6, num_codebooks=3)
    lm(codes(1, 6, 3), batch(texts(5)))
    with pytest.raises(UserError, match=r"7 frames is longer than .* made for \(6\)"):
        lm(codes(1, 7, 3), batch(texts(5)))
    assert configuration.load("paper").stage1.max_frames == 2588
    with pytest.raises(UserError, match="2589"):
        costs.build(configuration.load("paper").stage1, costs.Shape(1024, 768, 8)).check_length(2589)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fewer_bits_hardly_move_what_is_likely_next(backbone):
    """On a trained model: next-token KL to fp32 of at most 0.01 nats, stepwise and in one pass."""
    torch.manual_seed(0)
    lm = make_lm(backbone, width=32, head_dim=16, dropout=0.0, token_dropout=0.0).float()
    melody = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]).repeat(4)[None, None, :40] % V
    text = collate_text(texts(5))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=3e-3)
    lm.train()
    for _ in range(60):
        loss = F.cross_entropy(lm(melody, text)[0, 0], melody[0, 0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 1.0  # of 2.4 nats: what is likely is no longer everything
    lm.eval()
    with torch.inference_mode():
        expected = lm(melody, text).log_softmax(-1)
        for precision in ("bf16", "int8"):
            narrow = copy.deepcopy(lm)
            narrow.narrow(precision)
            logits, state = narrow.prefill(text)
            stepped = [logits]
            for code in melody[0, 0, :-1]:
                logits, state = narrow.step(code.view(1, 1), state)
                stepped.append(logits)
            for found in (narrow(melody, text), torch.stack(stepped, dim=2)):
                kl = (expected.exp() * (expected - found.log_softmax(-1))).sum(-1).mean()
                assert 0 < kl < 0.01


@pytest.mark.parametrize("backbone", ["prefix_transformer", "cross_transformer", "cross_simba"])
def test_a_width_that_attention_cannot_cut_into_heads_is_refused(backbone):
    config = Stage1Config(backbone=backbone, width=96, head_dim=64, layers=1, codebook_features=False)
    with pytest.raises(UserError, match=r"stage1\.width=96 must be a multiple of stage1\.head_dim=64"):
        MusicLM(config, codebook_size=16, widths={"text": 8})
    MusicLM(config.model_copy(update={"head_dim": 32}), codebook_size=16, widths={"text": 8})
