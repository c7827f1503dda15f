"""Matrix products for the shapes that decoding has, and weights stored in fewer bits for it.

One step of one stream reads every weight once and does next to nothing with it, so the bytes of the weights are its
time. Shapes: B rows, L steps, D inputs, E outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 4
INT8_ROWS = 16  # the int8 kernel reads the weights again for each row; from here on, expanding them once is faster
PRECISIONS = ("fp32", "bf16", "int8")


class NarrowLinear(nn.Module):
    """A trained linear layer whose weight is kept in bf16, or in int8 with one scale per output; inputs are rounded to
    bf16, sums are fp32 or exact to bf16. For inference only. Takes and returns the activations' dtype."""

    weight: Tensor
    scale_E: Tensor | None
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, precision: str):
        super().__init__()
        weight_ED = linear.weight.detach()
        scale_E = None
        if precision == "int8":
            # Symmetric, to the nearest of 255 levels; a row of zeros keeps a scale of which nothing comes.
            largest_E = weight_ED.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            scale_E = (largest_E / 127).bfloat16()
            weight_ED = (weight_ED / scale_E.to(weight_ED.dtype)[:, None]).round().clamp(-127, 127).to(torch.int8)
        elif precision == "bf16":
            weight_ED = weight_ED.bfloat16()
        else:
            raise ValueError(f"precision must be bf16 or int8, not {precision!r}")
        self.register_buffer("weight", weight_ED.contiguous())
        self.register_buffer("scale_E", scale_E)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if self.scale_E is None:
            y = F.linear(rows, self.weight)
        elif rows.device.type == "cpu" and len(rows) <= INT8_ROWS:
            y = torch._weight_int8pack_mm(rows, self.weight, self.scale_E)
        else:
            y = F.linear(rows, self.weight.to(torch.bfloat16)) * self.scale_E
        y = y.reshape(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def narrow_linears(module: nn.Module, precision: str) -> None:
    """Replace every linear layer inside by its `NarrowLinear`, one after the other, so that both copies of the
    weights are never there together."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, NarrowLinear(child, precision))
        else:
            narrow_linears(child, precision)


def project(linear: nn.Module, x_BLD: Tensor) -> Tensor:
    """`linear(x)`. One step of a few rows on a CPU is computed as (W x^T)^T, for which the fp32 matrix product is
    about three times as fast when W is tall."""
    few = x_BLD.shape[1] == 1 and x_BLD.shape[0] <= FEW_ROWS and x_BLD.device.type == "cpu"
    if not few or torch.is_grad_enabled() or not isinstance(linear, nn.Linear):
        return linear(x_BLD)
    y_BE = (linear.weight @ x_BLD[:, 0].T).T
    return (y_BE if linear.bias is None else y_BE + linear.bias)[:, None]
