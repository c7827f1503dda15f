from __future__ import annotations

import pytest
import torch

from ssmttm.errors import UserError
from ssmttm.model import weights


def test_half_precision_takes_float_matrices_alone() -> None:
    tensors = {"matrix": torch.rand(3, 4), "vector": torch.rand(5), "codes": torch.arange(6).view(2, 3)}
    half = weights.halved(tensors)
    assert {name: tensor.dtype for name, tensor in half.items()} == {
        "matrix": torch.float16,
        "vector": torch.float32,
        "codes": torch.int64,
    }
    assert torch.equal(half["matrix"], tensors["matrix"].half())


def test_half_precision_comes_back_as_single(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = str(tmp_path_factory.mktemp("weights") / "model.safetensors")
    matrix = torch.rand(3, 4)
    weights.save_tensors(uri, weights.halved({"matrix": matrix}))
    assert torch.equal(weights.load_tensors(uri)["matrix"], matrix.half().float())


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match="large holds values beyond"):
        weights.halved({"large": torch.full((2, 2), 1e5)})
