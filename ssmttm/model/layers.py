"""Layers with one streaming contract: `layer(x_BLD, state, ...) -> (y_BLD, state)`; one call over L steps gives
what L calls over one step give.

Shapes: B batch, L steps, D width, E inner width, C convolved channels, H heads, P head dimension, G groups,
N state size, J cached steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.model.linear import project
from ssmttm.model.mamba2_fused import Sizes, mamba2_inner
from ssmttm.model.ssd import ssd_scan, ssd_step


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Mamba2State(NamedTuple):
    """All that a Mamba-2 layer must remember: the last inputs of its convolution and the SSM state (fp32)."""

    window_BLC: Tensor
    ssm_BHPN: Tensor


class GatedRMSNorm(nn.Module):
    """RMS norm of y * silu(z) within each group, as in mamba_ssm.Mamba2 (`norm_before_gate=False`)."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups = groups

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = (y * F.silu(z)).unflatten(-1, (self.groups, -1))
        return F.rms_norm(gated, gated.shape[-1:], eps=1e-5).flatten(-2) * self.weight.to(y.dtype)


class Mamba2(nn.Module):
    """Mamba-2 mixer (arXiv 2405.21060). Parameter names and shapes are those of `mamba_ssm.Mamba2`.

    Without a state (training, prefill) all between the projections is one fused function; from a given state it is
    written out here, which is also the reference of the former. `A_log`, `D` and `dt_bias` stay fp32 and must not be
    decayed; dt starts log-uniform in [0.001, 0.1].
    """

    def __init__(
        self,
        width: int,
        state_size: int = 64,
        head_dim: int = 64,
        expand: int = 2,
        conv_kernel: int = 4,
        groups: int = 1,
        chunk_size: int = 64,
    ):
        super().__init__()
        inner = expand * width
        if inner % head_dim or (inner // head_dim) % groups:
            raise ValueError(f"inner width {inner} must be a multiple of head_dim {head_dim} x groups {groups}")
        self.inner, self.heads, self.head_dim = inner, inner // head_dim, head_dim
        self.groups, self.state_size, self.chunk_size = groups, state_size, chunk_size
        self.conv_channels = inner + 2 * groups * state_size
        self.in_proj = nn.Linear(width, inner + self.conv_channels + self.heads, bias=False)
        self.conv1d = nn.Conv1d(self.conv_channels, self.conv_channels, conv_kernel, groups=self.conv_channels)
        dt = torch.exp(torch.rand(self.heads) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedRMSNorm(inner, groups)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def initial_state(self, batch: int, device: torch.device) -> Mamba2State:
        dtype = torch.promote_types(self.in_proj.weight.dtype, torch.float32)
        return Mamba2State(
            torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv_channels, dtype=dtype, device=device),
            torch.zeros(batch, self.heads, self.head_dim, self.state_size, dtype=dtype, device=device),
        )

    def _convolve(self, window_BLC: Tensor, L: int) -> Tensor:
        # A depthwise kernel of four taps is faster as shifted products than as a grouped Conv1d on CPU, and it
        # keeps channels last.
        assert self.conv1d.bias is not None
        # In the activations' dtype: mixed operands would be promoted to fp32 and double the traffic.
        weight_CK = self.conv1d.weight.squeeze(1).to(window_BLC.dtype)
        out_BLC = self.conv1d.bias.to(window_BLC.dtype)
        for tap, weight_C in enumerate(weight_CK.T.contiguous()):
            out_BLC = torch.addcmul(out_BLC, window_BLC[:, tap : tap + L], weight_C)
        return F.silu(out_BLC)

    def forward(
        self, x_BLD: Tensor, state: Mamba2State | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, Mamba2State]:
        """Masked positions change neither the convolution window's content nor the SSM state; without a state both
        begin at zero."""
        return self._from_zero(x_BLD, mask_BL) if state is None else self._from_state(x_BLD, state, mask_BL)

    def _from_zero(self, x_BLD: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Mamba2State]:
        assert self.conv1d.bias is not None
        sizes = Sizes(self.heads, self.head_dim, self.groups, self.state_size, self.chunk_size)
        y_BLE, window_BLC, ssm_BHPN = mamba2_inner(
            self.in_proj(x_BLD),
            mask_BL,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.dt_bias,
            self.A_log,
            self.D,
            self.norm.weight,
            sizes,
        )
        return self.out_proj(y_BLE), Mamba2State(_at_least_fp32(window_BLC), ssm_BHPN)

    def _from_state(self, x_BLD: Tensor, state: Mamba2State, mask_BL: Tensor | None) -> tuple[Tensor, Mamba2State]:
        L = x_BLD.shape[1]
        z_BLE, conv_BLC, dt_BLH = project(self.in_proj, x_BLD).split(
            [self.inner, self.conv_channels, self.heads], dim=-1
        )
        if mask_BL is not None:
            conv_BLC = conv_BLC * mask_BL[..., None]
        window_BLC = torch.cat([state.window_BLC.to(conv_BLC.dtype), conv_BLC], dim=1)
        x_BLE, B_BLM, C_BLM = self._convolve(window_BLC, L).split(
            [self.inner, self.groups * self.state_size, self.groups * self.state_size], dim=-1
        )
        dt_BLH = F.softplus(_at_least_fp32(dt_BLH) + self.dt_bias)
        A_H = -self.A_log.exp()
        x_BLHP = x_BLE.unflatten(-1, (self.heads, self.head_dim))
        B_BLGN = B_BLM.unflatten(-1, (self.groups, self.state_size))
        C_BLGN = C_BLM.unflatten(-1, (self.groups, self.state_size))
        if L == 1 and mask_BL is None:
            y_BHP, ssm_BHPN = ssd_step(x_BLHP[:, 0], dt_BLH[:, 0], A_H, B_BLGN[:, 0], C_BLGN[:, 0], state.ssm_BHPN)
            y_BLHP = y_BHP[:, None]
        else:
            y_BLHP, ssm_BHPN = ssd_scan(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, state.ssm_BHPN, mask_BL, self.chunk_size)
        y_BLE = (y_BLHP + x_BLHP * self.D.to(x_BLHP.dtype)[:, None]).flatten(-2)
        out_BLD = self.out_proj(self.norm(y_BLE, z_BLE))
        return out_BLD, Mamba2State(_at_least_fp32(window_BLC[:, L:]), ssm_BHPN)


class MLP(nn.Module):
    """Linear, GELU, Linear: SiMBA's channel mixer as the papers use it."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        inner = int(ratio * width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(F.gelu(project(self.up, x_BLD)))


def sinusoids(position_BL: Tensor, width: int) -> Tensor:
    """Cosine and sine position code [B, L, width], period 10,000 (arXiv 1706.03762)."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=position_BL.device) / half)
    angle = position_BL[..., None].float() * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
