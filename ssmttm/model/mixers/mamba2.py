"""The Mamba-2 mixer (arXiv 2405.21060) over the parts that `kernels/` offers.

Shapes: B batch, L steps, D width, E inner width, C convolved channels, H heads, P head dimension, G groups,
N state size, J cached steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.config import Stage1Config
from ssmttm.model.kernels.backend import TORCH, Backend, backend_for
from ssmttm.model.kernels.mamba2_fused import Sizes, mamba2_inner
from ssmttm.model.linear import project
from ssmttm.model.mixers.base import Mixer


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Mamba2State(NamedTuple):
    """All that a Mamba-2 layer must remember: the last inputs of its convolution and the SSM state (fp32). In
    inference a step writes over it, so a state is to be continued only once."""

    window_BLC: Tensor
    ssm_BHPN: Tensor


class GatedRMSNorm(nn.Module):
    """Holds the weight of the gated norm under mamba_ssm's name, `norm.weight`; see `backend.gated_rms_norm`."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mamba2(Mixer):
    """Mamba-2 mixer (arXiv 2405.21060). Parameter names and shapes are those of `mamba_ssm.Mamba2`.

    All between the projections is one fused function where no state is given (training, prefill); from a given state,
    and with CUDA kernels, it is written out here, which is also the reference of the former. `A_log`, `D` and
    `dt_bias` stay fp32 and must not be decayed; dt starts log-uniform in [0.001, 0.1].
    """

    fixed_state = True
    never_decayed = ("A_log", "D", "dt_bias")

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
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    @classmethod
    def of(cls, config: Stage1Config) -> Mamba2:
        return cls(
            config.width,
            config.state_size,
            config.head_dim,
            config.expand,
            config.conv_kernel,
            config.groups,
            config.chunk_size,
        )

    def initial_state(self, batch: int, device: torch.device) -> Mamba2State:
        dtype = torch.promote_types(self.D.dtype, torch.float32)
        return Mamba2State(
            torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv_channels, dtype=dtype, device=device),
            torch.zeros(batch, self.heads, self.head_dim, self.state_size, dtype=dtype, device=device),
        )

    def forward(
        self,
        x_BLD: Tensor,
        state: Mamba2State | None = None,
        mask_BL: Tensor | None = None,
        bidirectional: int = 0,  # a recurrence reads one way
    ) -> tuple[Tensor, Mamba2State]:
        """Masked positions change neither the convolution window's content nor the SSM state; without a state both
        begin at zero. Where no gradient is asked for, one step writes the new state over the given one."""
        backend = backend_for(x_BLD, self.head_dim, self.state_size)
        if state is None and backend.scan is TORCH.scan:
            return self._from_zero(x_BLD, mask_BL)
        if state is None:
            state = self.initial_state(len(x_BLD), x_BLD.device)
        return self._from_state(x_BLD, state, mask_BL, backend)

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
        if not torch.is_grad_enabled():  # to be continued: a state of its own, laid out as steps go through it
            window_BLC, ssm_BHPN = window_BLC.clone(), ssm_BHPN.contiguous()
        return self.out_proj(y_BLE), Mamba2State(_at_least_fp32(window_BLC), ssm_BHPN)

    def _from_state(
        self, x_BLD: Tensor, state: Mamba2State, mask_BL: Tensor | None, backend: Backend
    ) -> tuple[Tensor, Mamba2State]:
        assert self.conv1d.bias is not None
        L = x_BLD.shape[1]
        z_BLE, conv_BLC, dt_BLH = project(self.in_proj, x_BLD).split(
            [self.inner, self.conv_channels, self.heads], dim=-1
        )
        if mask_BL is not None:
            conv_BLC = conv_BLC * mask_BL[..., None]
        window_BLC = torch.cat([state.window_BLC.to(conv_BLC.dtype), conv_BLC], dim=1)
        active_BLC = backend.convolve(window_BLC, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        x_BLE, B_BLM, C_BLM = active_BLC.split(
            [self.inner, self.groups * self.state_size, self.groups * self.state_size], dim=-1
        )
        dt_BLH = F.softplus(_at_least_fp32(dt_BLH) + self.dt_bias)
        A_H = -self.A_log.exp()
        x_BLHP = x_BLE.unflatten(-1, (self.heads, self.head_dim))
        B_BLGN = B_BLM.unflatten(-1, (self.groups, self.state_size))
        C_BLGN = C_BLM.unflatten(-1, (self.groups, self.state_size))
        if L == 1 and mask_BL is None:
            step = TORCH.step if torch.is_grad_enabled() else backend.step  # the kernel's has no gradients
            y_BHP, ssm_BHPN = step(x_BLHP[:, 0], dt_BLH[:, 0], A_H, B_BLGN[:, 0], C_BLGN[:, 0], state.ssm_BHPN)
            y_BLHP = y_BHP[:, None]
        else:
            y_BLHP, ssm_BHPN = backend.scan(
                x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, state.ssm_BHPN, mask_BL, self.chunk_size
            )
        y_BLE = (y_BLHP + x_BLHP * self.D.to(x_BLHP.dtype)[:, None]).flatten(-2)
        out_BLD = project(self.out_proj, backend.gated_rms_norm(y_BLE, z_BLE, self.norm.weight, self.groups))
        new_window_BLC = window_BLC[:, L:]
        if L == 1 and not torch.is_grad_enabled():
            new_window_BLC = state.window_BLC.copy_(new_window_BLC)
        return out_BLD, Mamba2State(_at_least_fp32(new_window_BLC), ssm_BHPN)
