"""Every backbone: stepwise = full, causal, blind to padding and batch mates."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.config import Backbone, Stage1Config
from ssmttm.model.codebooks import apply_delay
from ssmttm.model.layers import FEW_ROWS, Mamba2, project
from ssmttm.model.lm import MusicLM
from ssmttm.model.text import TextStatistics, collate_text

BACKBONES = get_args(Backbone)
V, TEXT_DIM = 11, 6


def make_lm(backbone="prefix_simba", **changes):
    torch.manual_seed(0)
    settings_ = {"width": 16, "layers": 2, "state_size": 8, "head_dim": 8, "chunk_size": 4, "dropout": 0.3}
    config = Stage1Config(backbone=backbone, **{**settings_, "pooled_init_std": 0.3, **changes})
    features = torch.randn(V, 5) if config.codebook_features else None
    return MusicLM(config, V, TEXT_DIM, features).double().eval()


def texts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, TEXT_DIM)).astype(np.float16) for length in lengths]


def batch(states, null=None):
    text = collate_text(states, null)
    return type(text)(text.states_BSD.double(), text.mask_BS, text.pooled_BD.double(), text.null_B)


def codes(batch_size, length, K=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return apply_delay(torch.randint(0, V, (batch_size, K, length), generator=g), V)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
@torch.no_grad()
def test_stepwise_equals_full(backbone, K, positions):
    lm = make_lm(backbone, num_codebooks=K, positions=positions)
    text = batch(texts(3, 6), null=[False, True])
    delayed = codes(2, 9, K)
    full = lm(delayed, text)
    logits, state = lm.prefill(text)
    for s in range(delayed.shape[-1]):
        torch.testing.assert_close(logits, full[:, :, s], rtol=1e-7, atol=1e-7)
        logits, state = lm.step(delayed[:, :, s], state)


@pytest.mark.parametrize("backbone", BACKBONES)
@given(where=st.integers(0, 8), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_changed_frame_changes_nothing_before_or_at_it(backbone, where, seed):
    lm = make_lm(backbone)
    text = batch(texts(4))
    delayed = codes(1, 9, seed=seed)
    changed = delayed.clone()
    changed[..., where] = (changed[..., where] + 1) % V
    before, after = lm(delayed, text), lm(changed, text)
    assert torch.equal(before[:, :, : where + 1], after[:, :, : where + 1])
    if where < 8:
        assert not torch.equal(before[:, :, where + 1 :], after[:, :, where + 1 :])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
@given(length=st.integers(1, 9), mate=st.integers(1, 20), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_padding_and_batch_mates_change_nothing(backbone, positions, length, mate, seed):
    lm = make_lm(backbone, positions=positions)
    own, other = texts(length, mate, seed=seed)
    delayed = codes(2, 7, seed=seed)
    alone = lm(delayed[:1], batch([own]))
    together = lm(delayed, batch([own, other]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-8, atol=1e-8)


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
    groups = lm.optimizer_groups(lr=1e-3, weight_decay=0.1, pooled_lr_factor=0.15)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in lm.parameters())
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in lm.named_parameters():
        last = name.split(".")[-1]
        if last in ("A_log", "D", "dt_bias", "token_table", "bias", "head_bias") or "norm" in name:
            assert decay[id(parameter)] == 0, name
        assert rate[id(parameter)] == pytest.approx(1.5e-4 if name.startswith("pooled_proj") else 1e-3)
    assert decay[id(lm.blocks[0].mixer.in_proj.weight)] == 0.1


def test_text_statistics_standardise_and_clamp():
    states = texts(4, 7, 5)
    for s in states:
        s[:, 0] = 0.25
    statistics = TextStatistics.measure(states)
    assert statistics.mean[0] == pytest.approx(0.25)
    assert statistics.std.min() >= 0.1 * statistics.std.median() * 0.99


def test_state_has_a_fixed_size_for_ssm_backbones():
    lm = make_lm()
    _, state = lm.prefill(batch(texts(5)))
    sizes = []
    for _ in range(5):
        _, state = lm.step(torch.zeros(1, 1, dtype=torch.long), state)
        sizes.append(sum(t.numel() for block in state.blocks for part in block if part is not None for t in part))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_project_is_the_linear_layer(rows, bias):
    linear, x = torch.nn.Linear(7, 30, bias=bias), torch.randn(rows, 1, 7)
    with torch.no_grad():
        torch.testing.assert_close(project(linear, x), linear(x))


def test_mamba2_agrees_with_transformers():
    """An independent implementation of the same layer, with the same weights."""
    from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    config = Mamba2Config(
        hidden_size=32, num_heads=4, head_dim=16, state_size=8, n_groups=1, expand=2, chunk_size=8, conv_kernel=4
    )
    theirs = Mamba2Mixer(config, layer_idx=0).eval()
    ours = Mamba2(32, state_size=8, head_dim=16, chunk_size=8).eval()
    with torch.no_grad():
        theirs.dt_bias.uniform_(-4, -2)
        theirs.A_log.copy_(torch.linspace(0.1, 2, 4))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 21, 32)
    y, _ = ours(x, ours.initial_state(2, x.device))
    expected = theirs(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
