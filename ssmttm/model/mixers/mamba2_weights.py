"""Mamba-2 layers from other people's weights: `mamba_ssm.Mamba2` and transformers' `Mamba2Mixer`, which name and order
them alike (z, x, B, C, dt in `in_proj`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ssmttm.errors import UserError
from ssmttm.model.mixers.mamba2 import Mamba2

NAMES = (
    "A_log",
    "D",
    "dt_bias",
    "in_proj.weight",
    "conv1d.weight",
    "conv1d.bias",
    "norm.weight",
    "out_proj.weight",
)


def mamba2_from_weights(
    weights: Mapping[str, Tensor], prefix: str = "", groups: int = 1, chunk_size: int = 64
) -> Mamba2:
    """A layer holding the weights of a state dict; all sizes but the number of groups follow from their shapes.

    Args:
        weights: a state dict with the entries of `NAMES` under `prefix`; others are ignored.
        prefix: for example `backbone.layers.0.mixer.`.
        groups: groups of heads that share B and C (`ngroups`, `n_groups`).

    Raises:
        UserError: if an entry is missing, a projection has a bias, or the shapes do not belong together.
    """
    missing = [prefix + name for name in NAMES if prefix + name not in weights]
    if missing:
        raise UserError(f"no Mamba-2 layer under '{prefix}': {missing[0]} is missing")
    extra = [prefix + name for name in ("in_proj.bias", "out_proj.bias") if prefix + name in weights]
    if extra:
        raise UserError(f"{extra[0]}: Mamba-2 layers whose projections have a bias are not supported")
    own = {name: weights[prefix + name] for name in NAMES}
    width, inner = own["out_proj.weight"].shape
    heads, (channels, _, kernel) = len(own["A_log"]), own["conv1d.weight"].shape
    state_size, rest = divmod(channels - inner, 2 * groups)
    if rest or inner % heads or inner % width:
        raise UserError(
            f"weights under '{prefix}' do not fit {groups} groups: inner width {inner}, {heads} heads, {channels} "
            "convolved channels"
        )
    layer = Mamba2(width, state_size, inner // heads, inner // width, kernel, groups, chunk_size)
    try:
        layer.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(f"weights under '{prefix}': {' '.join(str(error).split())[:200]}") from None
    return layer
