"""The choice of what runs, part by part, and the kernels themselves, on CUDA or in Triton's interpreter."""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssmttm.model.kernels import backend
from ssmttm.model.mixers.mamba2 import Mamba2

LOADERS = ("_scan", "_step", "_convolve", "_gated_rms_norm")
PARTS = dict(zip(LOADERS, backend.TORCH[:4], strict=True))
HAS_KERNELS = all(importlib.util.find_spec(name) for name in ("triton", "mamba_ssm"))


@pytest.fixture(autouse=True)
def _choose_anew():
    backend.chosen.cache_clear()
    yield
    backend.chosen.cache_clear()


def install(monkeypatch, **parts):
    for name, part in (PARTS | parts).items():
        monkeypatch.setattr(backend, name, lambda part=part: part)


def test_on_cpu_and_in_float64_plain_torch_runs():
    assert backend.backend_for(torch.zeros(1), 8, 8) is backend.TORCH
    assert backend.backend_for(torch.zeros(1, dtype=torch.float64), 8, 8) is backend.TORCH


def test_parts_that_agree_are_taken_and_logged(monkeypatch, caplog):
    install(monkeypatch, _scan=lambda *arguments: backend.ssd_scan(*arguments))
    with caplog.at_level(logging.INFO):
        found = backend.chosen("cpu", 8, 16)
    assert found.scan is not backend.TORCH.scan
    assert "Triton kernels for scan, step, convolve, gated_rms_norm" in caplog.text


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_parts_are_looked_at_as_well_while_generating_or_in_autocast(monkeypatch, mode):
    install(monkeypatch, _scan=lambda *arguments: backend.ssd_scan(*arguments))
    with mode():
        found = backend.chosen("cpu", 8, 16)
    assert found.description == "Triton kernels for scan, step, convolve, gated_rms_norm"


def test_one_step_with_gradients_never_takes_the_kernel(monkeypatch):
    torch.manual_seed(0)
    layer, x = Mamba2(16, state_size=8, head_dim=8), torch.randn(2, 1, 16, requires_grad=True)
    state = layer.initial_state(2, x.device)
    (expected,) = torch.autograd.grad(layer(x, state)[0].square().sum(), x)

    def no_gradients(*_):
        raise AssertionError("the kernel has no backward pass")

    monkeypatch.setattr("ssmttm.model.mixers.mamba2.backend_for", lambda *_: backend.TORCH._replace(step=no_gradients))
    (gradient,) = torch.autograd.grad(layer(x, state)[0].square().sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", LOADERS)
def test_a_part_that_disagrees_is_left_out_with_a_warning(monkeypatch, caplog, name):
    def wrong(*arguments):
        result = PARTS[name](*arguments)
        return (result[0] * 1.1, *result[1:]) if isinstance(result, tuple) else result * 1.1

    install(monkeypatch, **{name: wrong})
    with caplog.at_level(logging.WARNING):
        found = backend.chosen("cpu", 8, 16)
    assert getattr(found, name[1:]) is PARTS[name]
    assert f"{name[1:]} differs from the reference by 0.1" in caplog.text


def test_wrong_gradients_are_found(monkeypatch):
    def detached(x, dt, *rest):
        return backend.ssd_scan(x, dt.detach() + 0 * dt, *rest)

    install(monkeypatch, _scan=detached)
    assert backend.chosen("cpu", 8, 16).scan is backend.ssd_scan


def test_what_fails_or_is_missing_is_left_out(monkeypatch, caplog):
    def missing():
        raise ImportError("mamba-ssm is not installed")

    for name in LOADERS:
        monkeypatch.setattr(backend, name, missing)
    with caplog.at_level(logging.WARNING):
        assert backend.chosen("cpu", 8, 16)[:4] == backend.TORCH[:4]
    assert "plain torch for scan: mamba-ssm is not installed" in caplog.text


def test_a_layer_runs_the_parts_that_were_chosen(monkeypatch):
    torch.manual_seed(0)
    layer, x = Mamba2(16, state_size=8, head_dim=8).eval(), torch.randn(2, 9, 16)
    mask = torch.tensor([[False] * 3 + [True] * 6, [True] * 9])
    expected, state = layer(x, mask_BL=mask)
    called = []

    def counted(name, part):
        return lambda *arguments: called.append(name) or part(*arguments)

    other = backend.Backend(*(counted(name, part) for name, part in PARTS.items()), "counted")
    monkeypatch.setattr("ssmttm.model.mixers.mamba2.backend_for", lambda *_: other)
    y, other_state = layer(x, mask_BL=mask)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert called == ["_convolve", "_scan", "_gated_rms_norm"]
    with torch.no_grad():
        stepped, _ = layer(x[:, :1], other_state)
        assert called[3:] == ["_convolve", "_step", "_gated_rms_norm"]
        monkeypatch.undo()
        torch.testing.assert_close(stepped, layer(x[:, :1], state)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_KERNELS, reason="no triton or mamba-ssm; make test-slow installs them where it can")
def test_kernels_agree_in_the_interpreter():
    script = Path(__file__).parent / "interpreted_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scan", "step", "gated_rms_norm"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state_size", [64, 128, 512])
@pytest.mark.parametrize("groups", [1, 4])
def test_kernels_agree_on_cuda(dtype, state_size, groups):
    device = torch.device("cuda")
    for length in (1, 63, 256, 257, 4096):
        backend.check_scan(backend._scan(), device, dtype, 64, state_size, length, groups)
    backend.check_step(backend._step(), device, dtype, 64, state_size, groups)
    backend.check_gated_rms_norm(backend._gated_rms_norm(), device, dtype)


@pytest.mark.gpu
def test_the_kernels_are_chosen_on_cuda():
    assert backend.chosen("cuda", 64, 64).scan is not backend.ssd_scan
