"""Stage 2's networks by name, and sizes at which they are equal."""

from __future__ import annotations

from ssmttm.config import Stage2Config
from ssmttm.errors import UserError
from ssmttm.model.denoisers.common import Denoiser
from ssmttm.model.denoisers.convnext import ConvNeXtDenoiser
from ssmttm.model.denoisers.ssm import SSMDenoiser
from ssmttm.model.denoisers.transformer import TransformerDenoiser
from ssmttm.model.denoisers.unet import UNetDenoiser

DENOISERS: dict[str, type[Denoiser]] = {
    "convnext": ConvNeXtDenoiser,
    "unet": UNetDenoiser,
    "transformer": TransformerDenoiser,
    "ssm": SSMDenoiser,
}

# What to change in a preset's `stage2` for a denoiser as large as its own, within 3 % (mini: 5.21 M trainable
# parameters with the demo's codec and text encoder, paper: 49.2 M): {"denoiser": name, **EQUAL_SIZES[preset][name]}.
EQUAL_SIZES: dict[str, dict[str, dict[str, int]]] = {
    "mini": {
        "convnext": {"width": 256, "layers": 8},
        "unet": {"width": 160, "layers": 1, "head_dim": 40},
        "transformer": {"width": 224, "layers": 6, "head_dim": 56},
        "ssm": {"width": 192, "layers": 7, "head_dim": 64},
    },
    "paper": {
        "convnext": {"width": 576, "layers": 16},
        "unet": {"width": 416, "layers": 2, "head_dim": 32},
        "transformer": {"width": 576, "layers": 9, "head_dim": 64},
        "ssm": {"width": 448, "layers": 13, "head_dim": 64},
    },
}


def build_denoiser(config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int) -> Denoiser:
    """The denoiser that the configuration names.

    Raises:
        UserError: if its heads do not fit its width, or positions its heads.
    """
    if config.denoiser in ("transformer", "unet") and config.head_dim % 2:
        raise UserError(f"stage2.head_dim={config.head_dim} must be even: positions turn pairs of dimensions")
    if (config.denoiser != "convnext" or config.cross_attention) and config.width % config.head_dim:
        raise UserError(f"stage2.width={config.width} must be a multiple of stage2.head_dim={config.head_dim}")
    return DENOISERS[config.denoiser](config, fine_dim, coarse_dim, text_dim)
