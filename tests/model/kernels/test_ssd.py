"""The chunked scan and the step against the sequential recurrence, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.model.kernels.ssd import ssd_scan, ssd_step


def sequential(x, dt, A, B, C, state, mask):
    """The definition: one step after another."""
    outputs = []
    repeats = x.shape[2] // B.shape[2]
    for t in range(x.shape[1]):
        step = dt[:, t] * mask[:, t, None]
        b = B[:, t].repeat_interleave(repeats, 1)
        c = C[:, t].repeat_interleave(repeats, 1)
        state = state * (step * A).exp()[..., None, None] + torch.einsum("bh,bhp,bhn->bhpn", step, x[:, t], b)
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, c))
    return torch.stack(outputs, 1), state


def inputs(length, groups=1, seed=0, batch=2, heads=4, head_dim=3, size=5):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = normal(batch, length, heads, head_dim)
    dt = torch.rand(batch, length, heads, generator=g, dtype=torch.float64)
    A = -torch.rand(heads, generator=g, dtype=torch.float64) * 16
    return x, dt, A, normal(batch, length, groups, size), normal(batch, length, groups, size)


@given(
    length=st.integers(1, 40),
    chunk=st.sampled_from([1, 3, 8, 64]),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_scan_equals_the_sequential_recurrence(length, chunk, groups, seed):
    x, dt, A, B, C = inputs(length, groups, seed)
    g = torch.Generator().manual_seed(seed + 1)
    state = torch.randn(2, 4, 3, 5, generator=g, dtype=torch.float64)
    mask = torch.rand(2, length, generator=g) > 0.3
    y, final = ssd_scan(x, dt, A, B, C, state, mask, chunk)
    expected_y, expected_final = sequential(x, dt, A, B, C, state, mask)
    torch.testing.assert_close(y, expected_y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(final, expected_final, rtol=1e-10, atol=1e-10)


def test_step_equals_scan():
    x, dt, A, B, C = inputs(9, groups=2)
    expected, final = ssd_scan(x, dt, A, B, C, chunk_size=4)
    state = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    for t in range(9):
        y, state = ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], state)
        torch.testing.assert_close(y, expected[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, final)


def test_two_halves_equal_the_whole():
    x, dt, A, B, C = inputs(30)
    whole, final = ssd_scan(x, dt, A, B, C, chunk_size=8)
    first, state = ssd_scan(x[:, :13], dt[:, :13], A, B[:, :13], C[:, :13], chunk_size=8)
    second, state = ssd_scan(x[:, 13:], dt[:, 13:], A, B[:, 13:], C[:, 13:], state, chunk_size=8)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, final)


def test_gradients():
    x, dt, A, B, C = (v.requires_grad_() for v in inputs(7, groups=2, batch=1, heads=2, head_dim=2, size=2))
    assert torch.autograd.gradcheck(lambda *a: ssd_scan(*a, chunk_size=3), (x, dt, A, B, C))


def test_long_fast_decay_stays_finite():
    x, dt, A, B, C = (v.float() for v in inputs(1000))
    y, state = ssd_scan(x, dt + 5, A * 10, B, C)
    assert y.isfinite().all()
    assert state.isfinite().all()


def test_bfloat16_input_keeps_a_float32_state():
    x, dt, A, B, C = (v.float() for v in inputs(50))
    y, state = ssd_scan(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16())
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    reference, _ = ssd_scan(x, dt, A, B, C)
    assert (y.float() - reference).abs().max() < 0.05 * reference.abs().max()


@pytest.mark.parametrize("groups", [1, 2])
def test_masked_tail_leaves_the_state(groups):
    x, dt, A, B, C = inputs(12, groups)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[:, 7:] = False
    _, state = ssd_scan(x, dt, A, B, C, mask_BL=mask, chunk_size=4)
    _, expected = ssd_scan(x[:, :7], dt[:, :7], A, B[:, :7], C[:, :7], chunk_size=4)
    torch.testing.assert_close(state, expected)
