"""Trained models on disk: `model.safetensors` beside `model.json`, which holds all that rebuilds the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ssmttm import storage
from ssmttm.config import Stage1Config, Stage2Config
from ssmttm.errors import UserError
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM

Value = TypeVar("Value")
TENSORS, DESCRIPTION = "model.safetensors", "model.json"


def save_tensors(uri: str, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as one safetensors file."""
    storage.write_bytes(uri, safetensors.torch.save({name: t.detach().contiguous() for name, t in tensors.items()}))


def load_tensors(uri: str) -> dict[str, Tensor]:
    """Read a safetensors file to CPU; what was stored in float16 comes back as float32.

    Raises:
        UserError: if it is missing or not safetensors.
    """
    try:
        tensors = safetensors.torch.load(storage.read_bytes(uri))
    except safetensors.SafetensorError as error:
        raise UserError(f"{uri} is not a readable safetensors file: {error}") from None
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with every float32 matrix in float16, for files of half the size. Vectors stay as they are:
    they are small, and the state space's own parameters, norms and statistics among them need their bits.

    Raises:
        UserError: if a matrix holds a value beyond float16's largest.
    """
    half = {}
    for name, tensor in tensors.items():
        matrix = tensor.dtype == torch.float32 and tensor.ndim > 1
        half[name] = tensor.to(torch.float16) if matrix else tensor
        if matrix and not torch.isfinite(half[name]).all():
            raise UserError(f"{name} holds values beyond float16's largest, 65504; store the bundle in full precision")
    return half


def save_model(folder: str, kind: str, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a module's state dict and its description.

    Args:
        kind: `stage1` or `stage2`.
        description: for stage 1 at least config, codebook_size, text_dim; for stage 2 config, fine_dim,
            coarse_dim, text_dim.
    """
    save_tensors(storage.join(folder, TENSORS), state)
    storage.write_json(storage.join(folder, DESCRIPTION), {"kind": kind, **description})


def read_description(folder: str, kind: str) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        UserError: if the folder holds no model, or one of another kind.
    """
    uri = storage.join(folder, DESCRIPTION)
    if not storage.exists(uri):
        raise UserError(f"{folder} holds no trained model (no {DESCRIPTION}); give a run's weights folder")
    description: dict[str, Any] = storage.read_json(uri)
    if description["kind"] != kind:
        raise UserError(f"{folder} holds a {description['kind']} model; {kind} is needed here")
    return description


def widths_of(description: Mapping[str, Any]) -> dict[str, int]:
    """Width of each condition that a described model takes, by name."""
    return {"text": description["text_dim"], **description.get("controls", {})}


def describe_widths(widths: Mapping[str, int]) -> dict[str, Any]:
    """Inverse of `widths_of`: entries of `model.json`."""
    controls = {name: width for name, width in widths.items() if name != "text"}
    return {"text_dim": widths["text"], **({"controls": controls} if controls else {})}


# Beginnings of parameter names in weights and checkpoints from before conditioners owned their input layers.
_STATISTICS = ("text_mean", "text_std", "pooled_mean", "pooled_std")
_OLD_NAMES = {
    "stage1": {
        name: f"inputs.text.{name}"
        for name in ("prefix_proj", "prefix_norm", "null_prefix", "pooled_proj", "null_pooled", *_STATISTICS)
    },
    "stage2": {
        "denoiser.text": "denoiser.inputs.text.text",
        "denoiser.null_text": "denoiser.inputs.text.null_text",
        "denoiser.prefix": "denoiser.inputs.text.tokens",
        "denoiser.null_prefix": "denoiser.inputs.text.null_prefix",
        **{name: f"denoiser.inputs.text.{name}" for name in _STATISTICS},
    },
}


def current_name(stage: str, name: str) -> str:
    """What a parameter or module of a stage is called now, under whatever name it was stored."""
    for old, new in _OLD_NAMES.get(stage, {}).items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def current_names(stage: str, state: Mapping[str, Value]) -> dict[str, Value]:
    """Entries by parameter, each under its current name."""
    return {current_name(stage, name): value for name, value in state.items()}


def build_lm(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> MusicLM:
    """The language model in eval mode from its description and state dict."""
    lm = MusicLM(
        Stage1Config(**description["config"]),
        description["codebook_size"],
        widths_of(description),
        state.get("codebook_features"),
    )
    lm.load_state_dict(current_names("stage1", state))
    return lm.eval()


def build_completer(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> LatentCompleter:
    """The latent completer in eval mode from its description and state dict."""
    completer = LatentCompleter(
        Stage2Config(**description["config"]),
        description["fine_dim"],
        description["coarse_dim"],
        widths_of(description),
    )
    completer.load_state_dict(current_names("stage2", state))
    return completer.eval()


def load_lm(folder: str) -> tuple[MusicLM, dict[str, Any]]:
    """A trained language model and its description.

    Raises:
        UserError: if the folder holds none.
    """
    description = read_description(folder, "stage1")
    with torch.device("cpu"):
        return build_lm(description, load_tensors(storage.join(folder, TENSORS))), description


def load_completer(folder: str) -> tuple[LatentCompleter, dict[str, Any]]:
    """A trained latent completer and its description.

    Raises:
        UserError: if the folder holds none.
    """
    description = read_description(folder, "stage2")
    with torch.device("cpu"):
        return build_completer(description, load_tensors(storage.join(folder, TENSORS))), description
