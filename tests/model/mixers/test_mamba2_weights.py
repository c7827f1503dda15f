"""Layers with transformers' weights compute what transformers computes."""

import pytest
import torch

from ssmttm.errors import UserError
from ssmttm.model.mixers.mamba2 import Mamba2
from ssmttm.model.mixers.mamba2_weights import mamba2_from_weights

WIDTH = 32


def mixer(heads: int, state_size: int, groups: int = 1):
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(heads * 100 + state_size)
    config = Mamba2Config(
        hidden_size=WIDTH,
        num_heads=heads,
        head_dim=2 * WIDTH // heads,
        state_size=state_size,
        n_groups=groups,
        chunk_size=16,
        num_hidden_layers=1,
    )
    layer = Mamba2Mixer(config, layer_idx=0).eval()
    with torch.no_grad():
        for parameter in (layer.D, layer.norm.weight, layer.conv1d.bias):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer


@pytest.mark.parametrize("heads", [1, 4, 16])
@pytest.mark.parametrize("state_size", [8, 64])
@torch.no_grad()
def test_transformers_weights_give_transformers_outputs(heads: int, state_size: int) -> None:
    theirs = mixer(heads, state_size)
    ours = mamba2_from_weights(theirs.state_dict(), chunk_size=16)
    x = torch.randn(2, 50, WIDTH)
    expected = theirs(x)
    whole, final = ours(x)
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    written_out, _ = ours(x, ours.initial_state(2, x.device))
    torch.testing.assert_close(written_out, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))

    first, state = ours(x[:, :23])  # across a chunk boundary, from a carried state
    second, carried = ours(x[:, 23:], state)
    torch.testing.assert_close(
        torch.cat([first, second], 1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
    )
    torch.testing.assert_close(carried.ssm_BHPN, final.ssm_BHPN, rtol=1e-4, atol=1e-5)

    state, steps = ours.initial_state(2, x.device), []
    for t in range(50):
        y, state = ours(x[:, t : t + 1], state)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("groups", [2, 4])
@torch.no_grad()
def test_groups_agree_too(groups: int) -> None:
    theirs = mixer(8, 16, groups)
    ours = mamba2_from_weights(theirs.state_dict(), groups=groups)
    x = torch.randn(2, 40, WIDTH)
    expected = theirs(x)
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_layer_of_a_whole_model_is_found_by_its_prefix() -> None:
    layer = Mamba2(WIDTH, state_size=8, head_dim=16)
    weights = {f"backbone.layers.3.mixer.{name}": value for name, value in layer.state_dict().items()}
    again = mamba2_from_weights({**weights, "backbone.norm_f.weight": torch.ones(1)}, "backbone.layers.3.mixer.")
    x = torch.randn(1, 9, WIDTH)
    assert torch.equal(again(x)[0], layer(x)[0])


def test_what_does_not_fit_is_named() -> None:
    weights = Mamba2(WIDTH, state_size=8, head_dim=16).state_dict()
    with pytest.raises(UserError, match=r"no Mamba-2 layer under 'x\.': x\.A_log is missing"):
        mamba2_from_weights(weights, "x.")
    with pytest.raises(UserError, match="bias"):
        mamba2_from_weights({**weights, "in_proj.bias": torch.zeros(1)})
    with pytest.raises(UserError, match="do not fit 3 groups"):
        mamba2_from_weights(weights, groups=3)
