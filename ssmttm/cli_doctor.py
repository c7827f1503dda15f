"""What `ssmttm doctor` reports of the machine and its installation."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import Any

import torch

import ssmttm
from ssmttm import config as configuration
from ssmttm.errors import UserError
from ssmttm.hardware import multiplies_bf16
from ssmttm.model.kernels import backend

PACKAGES = ("torch", "ray", "deepspeed", "transformers", "mlflow", "numpy", "soundfile", "mamba-ssm")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _soundfont() -> str:
    from ssmttm.composer.fonts import find_soundfonts

    try:
        return ", ".join(font.path for font in find_soundfonts())
    except UserError as error:
        return f"none: {error}"


def _bundle(uri: str | None) -> dict[str, Any]:
    """Which model there is, and what it can be asked by."""
    from ssmttm.bundle.load import open_bundle, shipped_bundle
    from ssmttm.conditions.handles import words_of

    try:
        listing, content = open_bundle(uri or shipped_bundle())
    except UserError as error:
        return {"model": f"none: {error}"}
    words = words_of(content["stage1"].get("controls", {}))
    examples = {word: json.dumps(example) for word, example in words.items()}
    return {"model": listing.content["model_id"], "asked by": ", ".join(["prompt", *words]), **examples}


def _text_dim(config: configuration.Config) -> int:
    """Dimensions of the text states: as configured, else of the encoder itself."""
    from ssmttm.conditions.encoders import load_text_encoder

    return config.text.dim or load_text_encoder(config.text).dim


def _models(config: configuration.Config) -> dict[str, dict[str, Any]]:
    """What the stages cost, counted without allocating them."""
    from ssmttm.codec.registry import CODECS
    from ssmttm.model import costs
    from ssmttm.model.diffusion import LatentCompleter

    try:
        text_dim = _text_dim(config)
    except UserError as error:
        return {"stage1": {"text encoder": f"none: {error}"}}
    coarse_dim, fine_dim = CODECS.find(config.codec.name).latent_dims(config.codec)
    shape = costs.Shape(config.codec.codebook_size, text_dim, coarse_dim)
    frame_rate = config.codec.sample_rate / (config.codec.hop * config.codec.stack)
    frames = round(config.corpus.segment_seconds * frame_rate)
    lm = costs.build(config.stage1, shape)
    decode, train = (measure(config.stage1, shape, frames) for measure in (costs.decode_costs, costs.train_costs))
    total = train.flops_per_frame * frames * config.train.global_batch * config.train.steps
    micro = min(config.train.micro_batch, config.train.global_batch)
    musicgen = costs.musicgen_small_training_flops()
    stage1 = {
        "backbone": config.stage1.backbone,
        "trainable_params": costs.trainable_parameters(lm),
        "frames_per_second": round(frame_rate, 3),
        "context_frames": frames,
        "state_bytes_per_stream": decode.state_bytes,
        "decode_flops_per_frame": decode.flops,
        "decode_bytes_per_frame": decode.bytes_moved,
        "decode_bytes_per_frame_guided": decode.guided_bytes_moved,
        "train_flops_per_frame": round(train.flops_per_frame),
        "train_flops_total": total,
        "train_flops_of_musicgen_small": musicgen,
        "train_flops_share_of_musicgen_small": round(total / musicgen, 4),
        "train_micro_batch": micro,
        "train_memory_bytes": train.fixed_bytes + micro * train.bytes_per_sequence,
    }
    if config.stage1.num_codebooks > 1:
        return {"stage1": stage1, "stage2": {"none": "stage 1 writes the codebooks that fine latents come from"}}
    with torch.device("meta"):
        completer = LatentCompleter(config.stage2, fine_dim, coarse_dim, {"text": text_dim})
    return {"stage1": stage1, "stage2": {"trainable_params": costs.trainable_parameters(completer)}}


def examine(preset: str, bundle: str | None = None) -> dict[str, dict[str, Any]]:
    """Findings by heading, as JSON values.

    Args:
        bundle: folder or URI; the package's own when left out.

    Raises:
        UserError: for an unknown preset.
    """
    config = configuration.load(preset, job="stage1")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = multiplies_bf16("cuda" if gpus else "cpu")
    sizes = (config.stage1.head_dim, config.stage1.state_size)
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
            "mamba-2": backend.chosen("cuda", *sizes).description if gpus else backend.TORCH.description,
        },
        "corpus": {"soundfont": _soundfont()},
        "bundle": _bundle(bundle),
        **_models(config),
    }
