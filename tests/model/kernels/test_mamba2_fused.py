"""The fused layer against the layer written out in plain torch, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.model.kernels.mamba2_fused import Sizes, mamba2_inner
from ssmttm.model.mixers.mamba2 import Mamba2


def make_layer(groups=1, chunk=8, width=16, dtype=torch.float64):
    torch.manual_seed(0)
    return Mamba2(width, state_size=5, head_dim=4, groups=groups, chunk_size=chunk).to(dtype)


def gradients(layer, x, mask, weight, fused):
    """Output, final state, and the gradients of the input and of every parameter."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    start = None if fused else layer.initial_state(len(x), x.device)
    y, state = layer(x, start, mask)
    (y * weight).sum().backward()
    return y, state, {"x": x.grad, **{name: parameter.grad.clone() for name, parameter in layer.named_parameters()}}


@given(
    length=st.integers(1, 40),
    chunk=st.sampled_from([1, 3, 8, 64]),
    groups=st.sampled_from([1, 2, 4]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_fused_equals_written_out(length, chunk, groups, masked, seed):
    layer = make_layer(groups, chunk)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, 16, generator=g, dtype=torch.float64)
    weight = torch.randn(2, length, 16, generator=g, dtype=torch.float64)
    mask = torch.rand(2, length, generator=g) > 0.3 if masked else None
    y, state, grads = gradients(layer, x, mask, weight, fused=True)
    expected_y, expected_state, expected = gradients(layer, x, mask, weight, fused=False)
    torch.testing.assert_close(y, expected_y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, expected_state, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(groups):
    sizes = Sizes(heads=2, head_dim=2, groups=groups, state_size=2, chunk_size=3)
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    mask = torch.tensor([[True, True, False, True, True, True, True]])
    projected = normal(1, 7, sizes.inner + sizes.channels + sizes.heads)
    parameters = (normal(sizes.channels, 4), normal(sizes.channels), normal(2), normal(2), normal(2), normal(4))
    assert torch.autograd.gradcheck(lambda p, *rest: mamba2_inner(p, mask, *rest, sizes)[0], (projected, *parameters))


def test_going_on_from_the_fused_state_equals_the_whole():
    layer = make_layer()
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    whole, final = layer(x)
    first, state = layer(x[:, :13])
    second, state = layer(x[:, 13:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, final)


def test_bf16_gradients_are_about_as_good_as_autograds():
    """Errors against float64, mean over four draws: the hand-written backward pass in bf16 beside autograd's."""
    errors = {fused: dict.fromkeys(("x", *dict(make_layer().named_parameters())), 0.0) for fused in (True, False)}
    for seed in range(4):
        torch.manual_seed(seed)
        exact = Mamba2(64, state_size=16, head_dim=16, chunk_size=32).double()
        layer = Mamba2(64, state_size=16, head_dim=16, chunk_size=32)
        layer.load_state_dict(exact.state_dict())
        x, weight = torch.randn(4, 150, 64), torch.randn(4, 150, 64)
        _, _, expected = gradients(exact, x.double(), None, weight.double(), fused=False)
        for fused, sums in errors.items():
            with torch.autocast("cpu", torch.bfloat16):
                _, _, found = gradients(layer, x, None, weight, fused)
            for name, value in expected.items():
                sums[name] += float((found[name].double() - value).norm() / value.norm()) / 4
    for name, error in errors[True].items():
        assert error < min(1.75 * errors[False][name], 0.025), (name, error, errors[False][name])


def test_long_fast_decay_stays_finite():
    layer = Mamba2(16, state_size=4, head_dim=4, chunk_size=64)
    with torch.no_grad():
        layer.dt_bias += 10
        layer.A_log += 2
    y, state, grads = gradients(layer, torch.randn(1, 500, 16), None, torch.ones(1, 500, 16), fused=True)
    assert all(v.isfinite().all() for v in (y, state.ssm_BHPN, *grads.values()))
