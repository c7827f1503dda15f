"""Sizes at which the denoisers of stage 2 are equal."""

from __future__ import annotations

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
