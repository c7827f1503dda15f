from __future__ import annotations

from typing import Any

import pytest
import torch

from ssmttm.hardware import denormals_as_zero, multiplies_bf16


@pytest.mark.parametrize(
    ("features", "native"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_tile": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_tile": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_tile": True}, True),
        ({"architecture": "aarch64", "bf16": True}, False),  # torch's fast paths are those of x86
    ],
)
def test_bfloat16_is_native_where_the_cpu_says_so(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, Any], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert multiplies_bf16("cpu") is native


def test_a_gpu_that_emulates_bfloat16_does_not_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not multiplies_bf16("cuda")


def test_denormals_are_zero_inside_alone() -> None:
    tiny = torch.tensor(1e-40)
    with denormals_as_zero():
        assert float(tiny * 1) == 0
    assert float(tiny * 1) > 0
