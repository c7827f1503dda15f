"""What `ssmttm doctor` reports of the machine and its installation."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

import ssmttm
from ssmttm import config as configuration
from ssmttm.errors import UserError

PACKAGES = ("torch", "ray", "deepspeed", "transformers", "mlflow", "numpy", "soundfile", "mamba-ssm")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _soundfont() -> str:
    from ssmttm.corpus.soundfont import find_soundfont

    try:
        return find_soundfont().path
    except UserError as error:
        return f"none: {error}"


def _models(config: configuration.Config) -> dict[str, Any]:
    """Parameters of both stages, counted on the meta device, where nothing is allocated."""
    from ssmttm.codec.mini import MiniCodec
    from ssmttm.model.diffusion import LatentCompleter
    from ssmttm.model.lm import MusicLM
    from ssmttm.model.text import load_text_encoder

    try:
        text_dim = load_text_encoder(config.text).dim
    except UserError as error:
        return {"text encoder": f"none: {error}"}
    with torch.device("meta"):
        codec = MiniCodec(config.codec)
        features = torch.empty(codec.codebook_size, codec.coarse_dim)
        lm = MusicLM(config.stage1, codec.codebook_size, text_dim, features)
        completer = LatentCompleter(config.stage2, codec.fine_dim, codec.coarse_dim, text_dim)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in (("1", lm), ("2", completer))}
    return {
        "text encoder": f"{config.text.encoder}, {text_dim} dimensions",
        **{f"stage {name}": f"{config.preset}: {count:,} parameters" for name, count in counts.items()},
    }


def examine(preset: str) -> dict[str, dict[str, Any]]:
    """Findings by heading, as JSON values.

    Raises:
        UserError: for an unknown preset.
    """
    config = configuration.load(preset)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if gpus:
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return {
        "versions": {
            "ssmttm": ssmttm.__version__,
            "python": platform.python_version(),
            **{package: _version(package) for package in PACKAGES},
        },
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "torch threads": torch.get_num_threads(),
            "gpus": ", ".join(gpus) or "none",
            "bf16": "native" if bf16 else "emulated",
        },
        "corpus": {"soundfont": _soundfont()},
        "models": _models(config),
    }
