"""What lies between the two projections of a Mamba-2 layer, with its backward pass written by hand.

convolution -> SSD (chunked) -> skip -> gated RMS norm, as one autograd function. `Mamba2` computes the same from
`ssd_scan` and plain torch, which is the reference (tests/model/test_mamba2_fused.py). By hand, because autograd keeps
and adds a gradient for every slice, split and broadcast, and on a CPU that traffic costs more than the products.

With a_t = dt_t A, s_t = cumsum(a)_t inside a chunk, xdt = dt x, and H the state that enters a chunk:

    y_t = sum_(j<=t) (C_t.B_j) exp(s_t - s_j) xdt_j + exp(s_t) H C_t        (arXiv 2405.21060, section 6)

The gradient of s_t is what row t of a chunk's matrix contributes less what column t does. (dy_t.y_t - xdt_t.d(xdt)_t
says the same without a pass over the matrix, but in bf16 its two sums round differently, and their small difference
is lost: 2.4 times the error in dt.)

Shapes: B batch, L steps, E = H P inner width, C = E + 2 G N convolved channels, H heads, P head dimension, G groups,
R heads per group, N state size, Q steps per chunk, c chunks. Heads are kept as [G, R].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmttm.model.kernels.backend import EPSILON


class Sizes(NamedTuple):
    """The sizes that a layer fixes."""

    heads: int
    head_dim: int
    groups: int
    state_size: int
    chunk_size: int

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        return self.inner + 2 * self.groups * self.state_size


class Chunks(NamedTuple):
    """Inputs of the scan in chunks, each contiguous: x and xdt [B, c, G, Q, R P], B and C [B, c, G, Q, N], all in the
    activations' dtype; dt and its cumulative log decay [B, c, G, Q, R] in fp32 (or fp64)."""

    x: Tensor
    xdt: Tensor
    dt: Tensor
    log_decay: Tensor
    B: Tensor
    C: Tensor


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Of decays, states and gradients of parameters: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def _taps(weight_CK: Tensor, dtype: torch.dtype) -> Tensor:
    """[K, C] contiguous: a product with a strided row is not vectorised, and takes nine times as long in bf16."""
    return weight_CK.to(dtype).T.contiguous()


def _convolve(window_BLC: Tensor, weight_KC: Tensor, bias_C: Tensor) -> Tensor:
    """Causal depthwise convolution: [B, K - 1 + L, C] -> [B, L, C]."""
    length = window_BLC.shape[1] - len(weight_KC) + 1
    out_BLC = window_BLC[:, :length] * weight_KC[0]
    for tap in range(1, len(weight_KC)):
        out_BLC += window_BLC[:, tap : tap + length] * weight_KC[tap]
    return out_BLC.add_(bias_C)


def _convolve_backward(grad_BLC: Tensor, window_BLC: Tensor, weight_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the inputs after the window's first K - 1 steps [B, L, C], and of the weights [C, K]."""
    length, taps = grad_BLC.shape[1], len(weight_KC)
    grad_input_BLC = grad_BLC * weight_KC[-1]
    grad_weight = []
    for tap in range(taps):
        ahead = taps - 1 - tap
        if ahead and ahead < length:
            grad_input_BLC[:, : length - ahead] += grad_BLC[:, ahead:] * weight_KC[tap]
        grad_weight.append((grad_BLC * window_BLC[:, tap : tap + length]).sum((0, 1), dtype=_wide(grad_BLC.dtype)))
    return grad_input_BLC, torch.stack(grad_weight, dim=1)


def _silu_slope(z: Tensor, gate: Tensor) -> Tensor:
    """Derivative of silu at z, given sigmoid(z)."""
    return gate * (1 + z * (1 - gate))


def _chunked(values: Tensor, length: int, chunk: int) -> Tensor:
    """[B, L, ...] -> [B, c, Q, ...], zeros after L."""
    padding = -length % chunk
    if padding:
        values = F.pad(values, (0, 0) * (values.ndim - 2) + (0, padding))
    return values.unflatten(1, (-1, chunk))


def _by_group(values_BLX: Tensor, chunk: int, groups: int) -> Tensor:
    """[B, L, G X] -> [B, c, G, Q, X]."""
    return _chunked(values_BLX, values_BLX.shape[1], chunk).unflatten(-1, (groups, -1)).transpose(2, 3)


def _by_step(values: Tensor, length: int) -> Tensor:
    """[B, c, G, Q, X] -> [B, L, G X]."""
    return values.transpose(2, 3).flatten(1, 2)[:, :length].flatten(2)


def _per_head(values: Tensor, heads: int) -> Tensor:
    """[B, c, G, Q, R P] -> [B, c, G, R, Q, P]."""
    return values.unflatten(-1, (heads, -1)).transpose(3, 4)


def _scaled(values: Tensor, factor: Tensor) -> Tensor:
    """Values [B, c, G, X, R P] times a factor [B, c, G, X, R] per head (X may be 1)."""
    return (values.unflatten(-1, (factor.shape[-1], -1)) * factor[..., None].to(values.dtype)).flatten(-2)


def _dot(left: Tensor, right: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Scalar product in each head: [B, c, G, Q, R P] -> [B, c, G, Q, R]."""
    return (left * right).unflatten(-1, (heads, -1)).sum(-1, dtype=dtype)


def _to_chunks(x_BLE: Tensor, dt_BLH: Tensor, B_BLM: Tensor, C_BLM: Tensor, A_H: Tensor, sizes: Sizes) -> Chunks:
    length, G = x_BLE.shape[1], sizes.groups
    # Chunks of equal length, as few as chunk_size allows: less padding than full ones.
    chunk = -(-length // -(-length // sizes.chunk_size))
    x, dt, B, C = (_by_group(v, chunk, G).contiguous() for v in (x_BLE, dt_BLH, B_BLM, C_BLM))
    log_decay = (dt * A_H.view(G, 1, -1)).cumsum(3)
    return Chunks(x, _scaled(x, dt), dt, log_decay, B, C)


def _scan(chunks: Chunks) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs from within a chunk and from the state before it, both [B, c, G, Q, R P]; scores C B^T
    [B, c, G, 1, Q, Q] and decay [B, c, G, R, Q, Q] (see below); states before each chunk [B, c, G, N, R P] and after
    the last [B, G, N, R P], fp32 or fp64."""
    heads, dtype = chunks.dt.shape[-1], chunks.x.dtype
    scores = (chunks.C @ chunks.B.mT).tril_()[:, :, :, None]
    # exp(s_t - s_j) for j <= t; above the diagonal anything finite, for scores are zero there
    per_head = chunks.log_decay.mT.contiguous()
    decay = (per_head[..., :, None] - per_head[..., None, :]).clamp_(max=0).exp_().to(dtype)
    y_within = _by_head_product(scores * decay, chunks.xdt, heads)
    entering = (chunks.log_decay[..., -1:, :] - chunks.log_decay).exp_()
    added = chunks.B.mT @ _scaled(chunks.xdt, entering)
    kept = chunks.log_decay[..., -1:, :].exp()
    before = torch.empty(added.shape, dtype=kept.dtype, device=added.device)
    carried = torch.zeros_like(before[:, 0])
    for index in range(before.shape[1]):
        before[:, index] = carried
        carried = _scaled(carried, kept[:, index]).add_(added[:, index])
    y_before = _scaled(chunks.C @ before.to(dtype), chunks.log_decay.exp())
    return y_within, y_before, scores, decay, before, carried


def _by_head_product(matrix: Tensor, values: Tensor, heads: int) -> Tensor:
    """[B, c, G, R, Q, Q] times [B, c, G, Q, R P], head by head."""
    return (matrix @ _per_head(values, heads)).transpose(3, 4).flatten(-2)


def _scan_backward(
    grad_y: Tensor, y_before: Tensor, chunks: Chunks, scores: Tensor, decay: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of xdt [B, c, G, Q, R P], B and C [B, c, G, Q, N], and of dt A [B, c, G, Q, R] (fp32 or fp64)."""
    heads, dtype, wide = chunks.dt.shape[-1], chunks.x.dtype, before.dtype
    by_head = _per_head(grad_y, heads)
    decayed = (by_head @ _per_head(chunks.xdt, heads).mT).mul_(decay)
    grad_scores = decayed.sum(3).tril_()
    weighed = decayed.mul_(scores)
    grad_log_decay = (weighed.sum(-1, dtype=wide) - weighed.sum(-2, dtype=wide)).mT.contiguous()
    grad_xdt = _by_head_product((scores * decay).mT, grad_y, heads)
    grad_C = grad_scores @ chunks.B
    grad_B = grad_scores.mT @ chunks.C

    # through the states
    from_start = _scaled(grad_y, chunks.log_decay.exp())
    grad_C += from_start @ before.to(dtype).mT
    grad_before = chunks.C.mT @ from_start
    kept = chunks.log_decay[..., -1:, :].exp()
    grad_added = torch.empty_like(before)
    carried = torch.zeros_like(before[:, 0])
    for index in reversed(range(before.shape[1])):
        grad_added[:, index] = carried
        carried = _scaled(carried, kept[:, index]).add_(grad_before[:, index])
    entering = (chunks.log_decay[..., -1:, :] - chunks.log_decay).exp_()
    narrow = grad_added.to(dtype)
    grad_B += _scaled(chunks.xdt, entering) @ narrow.mT
    through_state = _scaled(chunks.B @ narrow, entering)

    grad_xdt += through_state
    ending = _dot(chunks.xdt, through_state, heads, wide)
    grad_log_decay += _dot(grad_y, y_before, heads, wide) - ending
    grad_log_decay[..., -1, :] += ending.sum(3) + _dot(grad_added, before, heads, wide).sum(3) * kept[..., 0, :]
    return grad_xdt, grad_B, grad_C, grad_log_decay.flip(3).cumsum(3).flip(3)


class _Mamba2Inner(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected_BLF: Tensor,
        mask_BL: Tensor | None,
        conv_weight_CK: Tensor,
        conv_bias_C: Tensor,
        dt_bias_H: Tensor,
        A_log_H: Tensor,
        D_H: Tensor,
        norm_weight_E: Tensor,
        sizes: Sizes,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = projected_BLF.dtype
        wide = _wide(dtype)
        z_BLE, inputs_BLC, raw_dt_BLH = projected_BLF.split([sizes.inner, sizes.channels, sizes.heads], dim=-1)
        length, taps = inputs_BLC.shape[1], conv_weight_CK.shape[1]
        window_BLC = F.pad(inputs_BLC, (0, 0, taps - 1, 0))
        if mask_BL is not None:
            window_BLC[:, taps - 1 :] *= mask_BL[..., None]
        preactivation_BLC = _convolve(window_BLC, _taps(conv_weight_CK, dtype), conv_bias_C.to(dtype))
        x_BLE, B_BLM, C_BLM = F.silu(preactivation_BLC).split(
            [sizes.inner, *(2 * [sizes.groups * sizes.state_size])], dim=-1
        )
        unbounded_dt_BLH = raw_dt_BLH.to(wide) + dt_bias_H
        dt_BLH = F.softplus(unbounded_dt_BLH)
        if mask_BL is not None:
            dt_BLH = dt_BLH * mask_BL[..., None]
        A_H = -A_log_H.to(wide).exp()
        chunks = _to_chunks(x_BLE, dt_BLH, B_BLM, C_BLM, A_H, sizes)
        y, y_before, scores, decay, before, final = _scan(chunks)
        y += y_before
        y += _scaled(chunks.x, D_H.view(1, 1, sizes.groups, 1, -1))
        skipped_BLE = _by_step(y, length)
        gated_BLE = skipped_BLE * F.silu(z_BLE)
        grouped = gated_BLE.unflatten(-1, (sizes.groups, -1))
        inverse_rms = grouped.square().mean(-1, keepdim=True, dtype=wide).add_(EPSILON).rsqrt_().to(dtype)
        out_BLE = (grouped * inverse_rms).flatten(-2) * norm_weight_E.to(dtype)
        ctx.sizes, ctx.length = sizes, length
        ctx.save_for_backward(
            projected_BLF, mask_BL, window_BLC, preactivation_BLC, unbounded_dt_BLH, *chunks, y_before, scores, decay,
            before, skipped_BLE, inverse_rms, conv_weight_CK, A_H, D_H, norm_weight_E,
        )  # fmt: skip
        ctx.mark_non_differentiable(final, window_BLC)
        return out_BLE, window_BLC[:, length:], final

    @staticmethod
    def backward(ctx: Any, grad_out_BLE: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (
            projected_BLF, mask_BL, window_BLC, preactivation_BLC, unbounded_dt_BLH, *parts, y_before, scores, decay,
            before, skipped_BLE, inverse_rms, conv_weight_CK, A_H, D_H, norm_weight_E,
        ) = ctx.saved_tensors  # fmt: skip
        sizes, length, chunks = ctx.sizes, ctx.length, Chunks(*parts)
        dtype, wide = projected_BLF.dtype, before.dtype
        E, states = sizes.inner, sizes.groups * sizes.state_size
        grad_projected_BLF = torch.empty_like(projected_BLF)

        # gated norm
        z_BLE = projected_BLF[..., :E]
        gate_BLE = torch.sigmoid(z_BLE)
        silu_BLE = z_BLE * gate_BLE
        normed = (skipped_BLE * silu_BLE).unflatten(-1, (sizes.groups, -1)) * inverse_rms
        grad_norm_weight = (grad_out_BLE * normed.flatten(-2)).sum((0, 1), dtype=wide)
        grad_normed = (grad_out_BLE * norm_weight_E.to(dtype)).unflatten(-1, (sizes.groups, -1))
        along = (grad_normed * normed).mean(-1, keepdim=True)
        grad_gated_BLE = (grad_normed - normed * along).mul_(inverse_rms).flatten(-2)
        grad_projected_BLF[..., :E] = grad_gated_BLE * skipped_BLE * _silu_slope(z_BLE, gate_BLE)
        grad_skipped_BLE = grad_gated_BLE * silu_BLE

        # skip and scan
        G, R = sizes.groups, sizes.heads // sizes.groups
        grad_y = _by_group(grad_skipped_BLE, chunks.x.shape[3], G).contiguous()
        grad_D = _dot(grad_y, chunks.x, R, wide).sum((0, 1, 3)).flatten()
        grad_xdt, grad_B, grad_C, grad_a = _scan_backward(grad_y, y_before, chunks, scores, decay, before)
        grad_A = (grad_a * chunks.dt).sum((0, 1, 3)).flatten()
        grad_dt = grad_a * A_H.view(G, 1, R) + _dot(chunks.x, grad_xdt, R, wide)
        grad_x = _scaled(grad_xdt, chunks.dt).add_(_scaled(grad_y, D_H.view(1, 1, G, 1, R)))
        grad_dt_BLH = _by_step(grad_dt, length)
        if mask_BL is not None:
            grad_dt_BLH = grad_dt_BLH * mask_BL[..., None]
        grad_raw_dt_BLH = grad_dt_BLH * torch.sigmoid(unbounded_dt_BLH)
        grad_projected_BLF[..., -sizes.heads :] = grad_raw_dt_BLH

        # convolution
        grad_active_BLC = torch.empty_like(preactivation_BLC)
        for where, part in zip(
            grad_active_BLC.split([E, states, states], dim=-1), (grad_x, grad_B, grad_C), strict=True
        ):
            where.copy_(_by_step(part, length))
        grad_active_BLC *= _silu_slope(preactivation_BLC, torch.sigmoid(preactivation_BLC))
        grad_inputs_BLC, grad_conv_weight_CK = _convolve_backward(
            grad_active_BLC, window_BLC, _taps(conv_weight_CK, dtype)
        )
        if mask_BL is not None:
            grad_inputs_BLC *= mask_BL[..., None]
        grad_projected_BLF[..., E : E + sizes.channels] = grad_inputs_BLC
        return (
            grad_projected_BLF,
            None,
            grad_conv_weight_CK,
            grad_active_BLC.sum((0, 1), dtype=wide),
            grad_raw_dt_BLH.sum((0, 1)),
            grad_A * A_H,
            grad_D,
            grad_norm_weight,
            None,
        )


def mamba2_inner(
    projected_BLF: Tensor,
    mask_BL: Tensor | None,
    conv_weight_CK: Tensor,
    conv_bias_C: Tensor,
    dt_bias_H: Tensor,
    A_log_H: Tensor,
    D_H: Tensor,
    norm_weight_E: Tensor,
    sizes: Sizes,
) -> tuple[Tensor, Tensor, Tensor]:
    """From zero state: outputs [B, L, E] before the last projection, the last K - 1 convolution inputs [B, K - 1, C]
    and the final state [B, H, P, N] (neither carries gradients).

    Args:
        projected_BLF: z, convolution inputs and dt side by side, F = E + C + H, fp64, fp32 or bf16.
        mask_BL: False leaves convolution window and state untouched.
    """
    with torch.autocast(projected_BLF.device.type, enabled=False):
        out, window, final = _Mamba2Inner.apply(
            projected_BLF, mask_BL, conv_weight_CK, conv_bias_C, dt_bias_H, A_log_H, D_H, norm_weight_E, sizes
        )
    heads_BHNP = final.unflatten(-1, (-1, sizes.head_dim)).transpose(2, 3).flatten(1, 2)
    return out, window, heads_BHNP.mT
