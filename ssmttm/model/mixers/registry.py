"""Mixers by name, and backbones: which of them a block of stage 1 is made of. Another one is a line here."""

from __future__ import annotations

from typing import NamedTuple

from ssmttm.model.mixers.attention import Attention
from ssmttm.model.mixers.base import Mixer
from ssmttm.model.mixers.mamba2 import Mamba2
from ssmttm.registry import Registry

MIXERS: Registry[type[Mixer]] = Registry("mixer", {"mamba2": Mamba2, "attention": Attention})


class Backbone(NamedTuple):
    """A block's mixer; the mixer that follows it, or an MLP; and whether blocks look at the prefix (cross-attention)
    where it is not read before the music."""

    mixer: str
    second: str | None = None
    is_cross: bool = False


BACKBONES: Registry[Backbone] = Registry(
    "stage1.backbone",
    {
        "prefix_simba": Backbone("mamba2"),
        "prefix_mamba": Backbone("mamba2", second="mamba2"),
        "prefix_transformer": Backbone("attention"),
        "cross_simba": Backbone("mamba2", is_cross=True),
        "cross_transformer": Backbone("attention", is_cross=True),
    },
)
