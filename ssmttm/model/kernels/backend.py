"""Which code runs the parts of a Mamba-2 layer between its projections: plain torch, or mamba-ssm's Triton kernels.

The kernels are taken on CUDA where they are installed and agree with plain torch, which is looked at once for each
kind of device and layer size, forward and backward. What disagrees or fails is left out, and a log line says so.
`ssmttm doctor` prints the choice.

Shapes: B batch, L steps, E = H P inner width, C convolved channels, K taps, H heads, P head dimension, G groups,
N state size.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmttm.model.kernels.ssd import ssd_scan, ssd_step

logger = logging.getLogger(__name__)

EPSILON = 1e-5  # of the RMS norm
KERNEL_CHUNK = 256  # steps per chunk that the kernels are tuned for
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 4e-2}  # relative (fp32 products may be TF32)


def convolve(window_BLC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> Tensor:
    """silu of the causal depthwise convolution: [B, K - 1 + L, C] -> [B, L, C]."""
    # Four taps are faster as shifted products than as a grouped Conv1d on CPU, and channels stay last. All in the
    # activations' dtype: mixed operands would be promoted to fp32 and double the traffic.
    weight_KC = weight_CK.to(window_BLC.dtype).T.contiguous()
    length = window_BLC.shape[1] - len(weight_KC) + 1
    out_BLC = bias_C.to(window_BLC.dtype)
    for tap, weight_C in enumerate(weight_KC):
        out_BLC = torch.addcmul(out_BLC, window_BLC[:, tap : tap + length], weight_C)
    return F.silu(out_BLC)


def gated_rms_norm(y_BLE: Tensor, z_BLE: Tensor, weight_E: Tensor, groups: int) -> Tensor:
    """RMS norm of y * silu(z) within each group, as in mamba_ssm.Mamba2 (`norm_before_gate=False`)."""
    gated = (y_BLE * F.silu(z_BLE)).unflatten(-1, (groups, -1))
    return F.rms_norm(gated, gated.shape[-1:], eps=EPSILON).flatten(-2) * weight_E.to(y_BLE.dtype)


class Backend(NamedTuple):
    """The parts, and one line that says what runs and why."""

    scan: Callable[..., tuple[Tensor, Tensor]]
    step: Callable[..., tuple[Tensor, Tensor]]
    convolve: Callable[[Tensor, Tensor, Tensor], Tensor]
    gated_rms_norm: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    description: str


TORCH = Backend(ssd_scan, ssd_step, convolve, gated_rms_norm, "plain torch")


def backend_for(x: Tensor, head_dim: int, state_size: int) -> Backend:
    """What a layer of these sizes runs on activations like x."""
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return TORCH
    return chosen("cuda", head_dim, state_size)


@cache
def chosen(device: str, head_dim: int, state_size: int) -> Backend:
    """The fastest parts that agree with plain torch on this kind of device; logs the choice."""
    found, problems = dict[str, Any](), list[str]()
    for name, load in (("scan", _scan), ("step", _step), ("convolve", _convolve), ("gated_rms_norm", _gated_rms_norm)):
        try:
            part = load()
            # The first layer to ask may be generating, where there are no gradients, or training in autocast.
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
                for dtype in TOLERANCE:
                    CHECKS[name](part, torch.device(device), dtype, head_dim, state_size)
            found[name] = part
        except Exception as error:  # whatever an import, a compiler or a driver may raise
            problems.append(f"{name}: {' '.join(str(error).split())[:120]}")
    description = f"Triton kernels for {', '.join(found)}" if found else "plain torch"
    if problems:
        description += f"; plain torch for {' | '.join(problems)}"
    logger.log(logging.WARNING if problems else logging.INFO, "Mamba-2 on %s: %s", device, description)
    return TORCH._replace(description=description, **found)


def _triton_module(name: str) -> types.ModuleType:
    """A module of `mamba_ssm.ops.triton`. Without mamba-ssm's compiled part, which the kernels do not need, the package
    itself cannot be imported; they can, under a parent that is there for the time of the import."""
    spec = (
        importlib.util.find_spec("mamba_ssm") if "mamba_ssm" not in sys.modules else sys.modules["mamba_ssm"].__spec__
    )
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("mamba-ssm is not installed (pip install 'ssmttm[cuda]')")
    try:
        importlib.import_module("mamba_ssm")
    except ImportError:
        parent = types.ModuleType("mamba_ssm")
        parent.__path__ = list(spec.submodule_search_locations)
        sys.modules["mamba_ssm"] = parent
        try:
            return importlib.import_module(f"mamba_ssm.ops.triton.{name}")
        finally:
            del sys.modules["mamba_ssm"]
    return importlib.import_module(f"mamba_ssm.ops.triton.{name}")


def _scan() -> Callable[..., tuple[Tensor, Tensor]]:
    kernel = _triton_module("ssd_combined").mamba_chunk_scan_combined

    def scan(
        x_BLHP: Tensor,
        dt_BLH: Tensor,
        A_H: Tensor,
        B_BLGN: Tensor,
        C_BLGN: Tensor,
        state_BHPN: Tensor | None = None,
        mask_BL: Tensor | None = None,
        chunk_size: int = KERNEL_CHUNK,
    ) -> tuple[Tensor, Tensor]:
        if mask_BL is not None:
            dt_BLH = dt_BLH * mask_BL[..., None]
        return kernel(
            x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, KERNEL_CHUNK, initial_states=state_BHPN, return_final_states=True
        )

    return scan


def _step() -> Callable[..., tuple[Tensor, Tensor]]:
    kernel = _triton_module("selective_state_update").selective_state_update

    def step(
        x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGN: Tensor, C_BGN: Tensor, state_BHPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        P, N = state_BHPN.shape[2:]
        # Expanded, so that the kernel sees one dt and one A per head; it wants D and the bias of dt even where
        # there is none.
        none_HP = torch.zeros_like(A_H)[:, None].expand(-1, P)
        y_BHP = kernel(
            state_BHPN,
            x_BHP,
            dt_BH[..., None].expand(-1, -1, P),
            A_H[:, None, None].expand(-1, P, N),
            B_BGN,
            C_BGN,
            D=none_HP,
            dt_bias=none_HP,
        )
        return y_BHP, state_BHPN

    return step


def _convolve() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    try:
        kernel = importlib.import_module("causal_conv1d").causal_conv1d_fn
    except ImportError:
        raise ImportError("causal-conv1d is not installed (pip install 'ssmttm[cuda]')") from None

    def convolve_fused(window_BLC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> Tensor:
        if window_BLC.shape[2] % 8:  # rows of channels must be aligned
            return convolve(window_BLC, weight_CK, bias_C)
        out_BCL = kernel(window_BLC.contiguous().transpose(1, 2), weight_CK, bias_C, activation="silu")
        return out_BCL.transpose(1, 2)[:, weight_CK.shape[1] - 1 :]

    return convolve_fused


def _gated_rms_norm() -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    kernel = _triton_module("layernorm_gated").rmsnorm_fn

    def norm(y_BLE: Tensor, z_BLE: Tensor, weight_E: Tensor, groups: int) -> Tensor:
        size = y_BLE.shape[-1] // groups
        return kernel(y_BLE, weight_E, None, z=z_BLE, eps=EPSILON, group_size=size, norm_before_gate=False)

    return norm


def _compare(name: str, dtype: torch.dtype, pairs: list[tuple[Tensor, Tensor]]) -> None:
    for mine, reference in pairs:
        error = ((mine.double() - reference.double()).norm() / reference.double().norm()).item()
        if not error <= TOLERANCE[dtype]:
            raise ArithmeticError(f"{name} differs from the reference by {error:.2g} in {dtype}")


def _with_gradients(
    part: Callable[..., Any], inputs: list[Tensor], dtype: torch.dtype, wide: set[int], *rest: Any
) -> list[Tensor]:
    """Outputs and gradients of a part at inputs rounded to dtype (those in `wide` stay fp32)."""
    leaves = [value.to(value.dtype if i in wide else dtype).detach().requires_grad_() for i, value in enumerate(inputs)]
    outputs = part(*leaves, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    direction = torch.linspace(-1, 1, outputs[0].numel(), device=outputs[0].device).view(outputs[0].shape)
    gradients = torch.autograd.grad((outputs[0].float() * direction).sum(), leaves)
    return [*outputs, *gradients]


def _scan_inputs(device: torch.device, head_dim: int, state_size: int, length: int, groups: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    heads = 4
    dt_BLH = (0.1 * torch.rand(2, length, heads, generator=generator)).to(device)
    A_H = -(1 + torch.arange(heads, device=device).float())
    B_BLGN, C_BLGN = (normal(2, length, groups, state_size) for _ in range(2))
    return [normal(2, length, heads, head_dim), dt_BLH, A_H, B_BLGN, C_BLGN]


def check_scan(
    scan: Callable[..., Any],
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    state_size: int,
    length: int = 300,
    groups: int = 2,
) -> None:
    """Raises ArithmeticError if outputs or gradients of a scan, masked and from a state, differ from the reference."""
    inputs = _scan_inputs(device, head_dim, state_size, length, groups)
    state_BHPN = torch.linspace(-1, 1, 8 * head_dim * state_size, device=device).view(2, 4, head_dim, state_size)
    mask_BL = torch.arange(length, device=device) >= torch.tensor([[0], [length // 3]], device=device)
    mine = _with_gradients(scan, inputs, dtype, {1, 2}, state_BHPN, mask_BL)
    reference = _with_gradients(ssd_scan, inputs, dtype, {1, 2}, state_BHPN, mask_BL)
    _compare("scan", dtype, list(zip(mine, reference, strict=True)))


@torch.no_grad()
def check_step(
    step: Callable[..., Any], device: torch.device, dtype: torch.dtype, head_dim: int, state_size: int, groups: int = 2
) -> None:
    """Raises ArithmeticError if the output or the new state of a step differs from the reference."""
    x, dt, A, B, C = _scan_inputs(device, head_dim, state_size, 1, groups)
    rounded = [value[:, 0].to(dtype) for value in (x, B, C)]
    state_BHPN = torch.linspace(-1, 1, 8 * head_dim * state_size, device=device).view(2, 4, head_dim, state_size)
    mine = step(rounded[0], dt[:, 0], A, rounded[1], rounded[2], state_BHPN.clone())
    reference = ssd_step(rounded[0], dt[:, 0], A, rounded[1], rounded[2], state_BHPN.clone())
    _compare("step", dtype, list(zip(mine, reference, strict=True)))


def check_convolve(part: Callable[..., Any], device: torch.device, dtype: torch.dtype, *_: int) -> None:
    """Raises ArithmeticError if the convolution or its gradients differ from the reference."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(device) for shape in ((2, 35, 64), (64, 4), (64,))]
    mine, reference = (_with_gradients(each, inputs, dtype, {1, 2}) for each in (part, convolve))
    _compare("convolve", dtype, list(zip(mine, reference, strict=True)))


def check_gated_rms_norm(part: Callable[..., Any], device: torch.device, dtype: torch.dtype, *_: int) -> None:
    """Raises ArithmeticError if the norm or its gradients differ from the reference."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(device) for shape in ((2, 9, 64), (2, 9, 64), (64,))]
    mine, reference = (_with_gradients(each, inputs, dtype, {2}, 2) for each in (part, gated_rms_norm))
    _compare("gated_rms_norm", dtype, list(zip(mine, reference, strict=True)))


CHECKS: dict[str, Callable[..., None]] = {
    "scan": check_scan,
    "step": check_step,
    "convolve": check_convolve,
    "gated_rms_norm": check_gated_rms_norm,
}
