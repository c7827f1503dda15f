"""Stage 2's networks by name. Another one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from ssmttm.config import Stage2Config
from ssmttm.model.denoisers.common import Denoiser
from ssmttm.model.denoisers.convnext import ConvNeXtDenoiser
from ssmttm.model.denoisers.ssm import SSMDenoiser
from ssmttm.model.denoisers.transformer import TransformerDenoiser
from ssmttm.model.denoisers.unet import UNetDenoiser
from ssmttm.registry import Registry

DENOISERS: Registry[type[Denoiser]] = Registry(
    "stage2.denoiser",
    {"convnext": ConvNeXtDenoiser, "unet": UNetDenoiser, "transformer": TransformerDenoiser, "ssm": SSMDenoiser},
)


def build_denoiser(config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]) -> Denoiser:
    """The denoiser that the configuration names; `widths`: of each condition, by name.

    Raises:
        UserError: if there is none of this name, its heads do not fit its width, or positions its heads.
    """
    kind = DENOISERS.find(config.denoiser)
    kind.check(config)
    return kind(config, fine_dim, coarse_dim, widths)
