"""The state-space op of Mamba-2 (SSD, arXiv 2405.21060) in plain torch: chunked over time, or one step.

    state_t = exp(dt_t A) state_(t-1) + dt_t x_t B_t^T          y_t = state_t C_t

Shapes: B batch, L steps, H heads, P head dimension, G groups (H / G heads share B and C), N state size,
Q steps per chunk, R heads per group, c chunks. The state is [B, H, P, N], at least float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def ssd_scan(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    state_BHPN: Tensor | None = None,
    mask_BL: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, L, H, P] in x's dtype and the final state [B, H, P, N].

    Inside a chunk the recurrence is one masked matrix product; only the state passes from chunk to chunk.

    Args:
        dt_BLH: step sizes after softplus, float32 or float64.
        A_H: negative decay rates.
        state_BHPN: state before the first step; zero if None.
        mask_BL: False leaves the state untouched (dt = 0 there).
    """
    Bsz, L, H, P = x_BLHP.shape
    G, N = B_BLGN.shape[2:]
    R, Q = H // G, min(chunk_size, L)
    dtype = _state_dtype(x_BLHP)
    dt_BLH = dt_BLH.to(dtype)
    if mask_BL is not None:
        dt_BLH = dt_BLH * mask_BL[..., None]
    padding = -L % Q
    if padding:  # dt = 0 in the padding: the state passes through unchanged
        x_BLHP = F.pad(x_BLHP, (0, 0, 0, 0, 0, padding))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, padding))
        B_BLGN = F.pad(B_BLGN, (0, 0, 0, 0, 0, padding))
        C_BLGN = F.pad(C_BLGN, (0, 0, 0, 0, 0, padding))
    c = (L + padding) // Q

    x_BcGRQP = x_BLHP.reshape(Bsz, c, Q, G, R, P).permute(0, 1, 3, 4, 2, 5)
    dt_BcGRQ = dt_BLH.reshape(Bsz, c, Q, G, R).permute(0, 1, 3, 4, 2)
    B_BcGQN = B_BLGN.reshape(Bsz, c, Q, G, N).transpose(2, 3)
    C_BcGQN = C_BLGN.reshape(Bsz, c, Q, G, N).transpose(2, 3)

    log_decay_BcGRQ = (dt_BcGRQ * A_H.to(dtype).view(G, R, 1)).cumsum(-1)
    # exp of a difference, masked before exp: never exp(+large), never inf - inf
    difference = log_decay_BcGRQ[..., :, None] - log_decay_BcGRQ[..., None, :]
    future = torch.ones(Q, Q, dtype=torch.bool, device=x_BLHP.device).triu(1)
    decay_BcGRQQ = difference.masked_fill(future, float("-inf")).exp()

    xdt_BcGRQP = x_BcGRQP * dt_BcGRQ[..., None].to(x_BLHP.dtype)
    scores_BcGQQ = C_BcGQN @ B_BcGQN.transpose(-1, -2)
    mixing = scores_BcGQQ[:, :, :, None] * decay_BcGRQQ.to(scores_BcGQQ.dtype)
    y_BcGRQP = mixing @ xdt_BcGRQP.to(mixing.dtype)

    to_end_BcGRQ = (log_decay_BcGRQ[..., -1:] - log_decay_BcGRQ).exp()
    weighted = (xdt_BcGRQP * to_end_BcGRQ[..., None].to(x_BLHP.dtype)).transpose(-1, -2)
    added_BcGRPN = (weighted @ B_BcGQN[:, :, :, None].to(weighted.dtype)).to(dtype)
    chunk_decay_BcGR = log_decay_BcGRQ[..., -1].exp()

    if state_BHPN is None:
        carried = torch.zeros(Bsz, G, R, P, N, dtype=dtype, device=x_BLHP.device)
    else:
        carried = state_BHPN.to(dtype).view(Bsz, G, R, P, N)
    before = []
    for added, decay in zip(added_BcGRPN.unbind(1), chunk_decay_BcGR.unbind(1), strict=True):
        before.append(carried)
        carried = carried * decay[..., None, None] + added
    before_BcGRPN = torch.stack(before, dim=1)

    entering = C_BcGQN[:, :, :, None] @ before_BcGRPN.to(C_BcGQN.dtype).transpose(-1, -2)
    y_BcGRQP = y_BcGRQP + entering * log_decay_BcGRQ.exp()[..., None].to(entering.dtype)
    y_BLHP = y_BcGRQP.permute(0, 1, 4, 2, 3, 5).reshape(Bsz, c * Q, H, P)[:, :L]
    return y_BLHP.to(x_BLHP.dtype), carried.view(Bsz, H, P, N)


def ssd_step(
    x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGN: Tensor, C_BGN: Tensor, state_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence: output [B, H, P] in x's dtype and the new state.

    Where no gradient is asked for, the new state is written over the given one: a step allocates nothing of its size.
    """
    dtype, R = state_BHPN.dtype, x_BHP.shape[1] // B_BGN.shape[1]
    if R > 1 and B_BGN.shape[1] > 1:
        B_BGN, C_BGN = B_BGN.repeat_interleave(R, dim=1), C_BGN.repeat_interleave(R, dim=1)
    dt_BH = dt_BH.to(dtype)
    decay_BH11 = (dt_BH * A_H.to(dtype)).exp()[..., None, None]
    xdt_BHP1 = (x_BHP.to(dtype) * dt_BH[..., None])[..., None]
    if torch.is_grad_enabled():
        state_BHPN = torch.addcmul(state_BHPN * decay_BH11, xdt_BHP1, B_BGN.to(dtype)[:, :, None])
    else:
        state_BHPN.mul_(decay_BH11).addcmul_(xdt_BHP1, B_BGN.to(dtype)[:, :, None])
    if torch.compiler.is_compiling():  # one pass over the state, fused with its update
        y_BHP = (state_BHPN * C_BGN.to(dtype)[:, :, None]).sum(-1)
    else:
        y_BHP = (state_BHPN @ C_BGN.to(dtype)[..., None]).squeeze(-1)
    return y_BHP.to(x_BHP.dtype), state_BHPN
