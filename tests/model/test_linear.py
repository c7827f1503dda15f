"""Products for few rows, and narrow weights, against plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssmttm.model.linear import FEW_ROWS, INT8_ROWS, NarrowLinear, narrow_linears, project


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_project_is_the_linear_layer(rows, bias):
    linear, x = nn.Linear(7, 30, bias=bias), torch.randn(rows, 1, 7)
    with torch.no_grad():
        torch.testing.assert_close(project(linear, x), linear(x))


@pytest.mark.parametrize("shape", [(1, 1, 64), (INT8_ROWS, 1, 64), (INT8_ROWS + 1, 1, 64), (2, 40, 64), (64,)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_int8_is_the_product_with_the_nearest_of_255_levels(shape, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=bias), torch.randn(shape)
    linear.weight[3] = 0
    narrow = NarrowLinear(linear, "int8")
    assert narrow.weight.dtype == torch.int8
    assert narrow.scale_E is not None
    levels = narrow.weight.float() * narrow.scale_E.float()[:, None]
    assert ((levels - linear.weight).abs() <= 0.5001 * narrow.scale_E.float()[:, None]).all()
    expected = F.linear(x.bfloat16().float(), levels, linear.bias)
    y = narrow(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    if not bias:
        assert (y[..., 3] == 0).all()


@torch.no_grad()
def test_bf16_halves_the_bytes_and_keeps_the_dtype():
    linear, x = nn.Linear(64, 48), torch.randn(2, 1, 64)
    narrow = NarrowLinear(linear, "bf16")
    assert narrow.weight.nbytes * 2 == linear.weight.nbytes
    y = project(narrow, x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, linear(x), rtol=2e-2, atol=2e-2)


def test_only_linear_layers_are_narrowed_wherever_they_lie():
    module = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Sequential(nn.Conv1d(2, 2, 1), nn.Linear(8, 8))})
    narrow_linears(module, "int8")
    kinds = [type(part) for part in module.modules() if not list(part.children())]
    assert kinds == [NarrowLinear, nn.Conv1d, NarrowLinear]


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="bf16 or int8"):
        NarrowLinear(nn.Linear(2, 2), "int4")
