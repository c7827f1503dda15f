"""Trained models on disk: `model.safetensors` beside `model.json`, which holds all that rebuilds the module."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ssmttm import storage
from ssmttm.config import Stage1Config, Stage2Config, from_dict
from ssmttm.errors import UserError
from ssmttm.model.denoisers.registry import DENOISERS
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM
from ssmttm.tensors import TensorFile
from ssmttm.verified import File

Value = TypeVar("Value")
TENSORS, DESCRIPTION = "model.safetensors", "model.json"
LARGEST = 1 << 20  # of any size that a description names


def save_tensors(uri: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write named tensors as one safetensors file; returns its size and digest."""
    data = safetensors.torch.save({name: t.detach().contiguous() for name, t in tensors.items()})
    storage.write_bytes(uri, data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_tensors(uri: str) -> dict[str, Tensor]:
    """Read a safetensors file to CPU; what was stored in float16 comes back as float32.

    Raises:
        UserError: if it is missing, not safetensors, or holds a value that is not finite.
    """
    return in_full(TensorFile.look(File(uri)).load())


def in_full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, those in float16 as float32."""
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
    tensors = save_tensors(storage.join(folder, TENSORS), state)
    storage.write_json(storage.join(folder, DESCRIPTION), {"kind": kind, **description, "tensors": tensors})


def read_description(folder: str, kind: str) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        UserError: if the folder holds no model, or one of another kind.
    """
    uri = storage.join(folder, DESCRIPTION)
    if not storage.exists(uri):
        raise UserError(f"{folder} holds no trained model (no {DESCRIPTION}); give a run's weights folder")
    about = File(uri, remedy="take a run's weights folder")
    description = about.json()
    if not isinstance(description, dict) or not isinstance(description.get("kind"), str):
        raise about.damaged("describes no model")
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


def _make_lm(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> MusicLM:
    return MusicLM(
        Stage1Config(**description["config"]),
        description["codebook_size"],
        widths_of(description),
        state.get("codebook_features"),
    )


def _make_completer(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> LatentCompleter:
    config = Stage2Config(**description["config"])
    DENOISERS.find(config.denoiser).check(config)
    return LatentCompleter(config, description["fine_dim"], description["coarse_dim"], widths_of(description))


def build_lm(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> MusicLM:
    """The language model in eval mode from its description and state dict."""
    lm = _make_lm(description, state)
    lm.load_state_dict(current_names("stage1", state))
    return lm.eval()


def build_completer(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> LatentCompleter:
    """The latent completer in eval mode from its description and state dict."""
    completer = _make_completer(description, state)
    completer.load_state_dict(current_names("stage2", state))
    return completer.eval()


# A stage's model from its description and state: as it is made, and with its weights.
MAKERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]] = {
    "stage1": _make_lm,
    "stage2": _make_completer,
}
BUILDERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]] = {
    "stage1": build_lm,
    "stage2": build_completer,
}


def read_model(stage: str, description: Any, file: File) -> nn.Module:
    """A stage's model in eval mode from its description and weights, both of which may be anyone's: they are compared
    before a model is made.

    Raises:
        DamagedError: if they make no sense or do not fit each other.
    """
    stored = TensorFile.look(file)
    stored = stored.renamed(partial(current_names, stage))
    described = _described(stage, description, file)
    features = stored.entries.get("codebook_features")
    if features is not None and features.shape[:1] != (described["codebook_size"],):
        raise file.damaged("holds vectors of another number of codes than its configuration names")
    with torch.device("meta"):
        given = {} if features is None else {"codebook_features": torch.empty(features.shape)}
        skeleton = stored.build(lambda: MAKERS[stage](described, given))
    stored.expect(skeleton.state_dict())
    state = current_names(stage, in_full(stored.load()))
    return stored.build(lambda: BUILDERS[stage](described, state))


def _described(stage: str, description: Any, file: File) -> dict[str, Any]:
    """A description whose entries are what they should be."""
    sizes = ("codebook_size", "text_dim") if stage == "stage1" else ("fine_dim", "coarse_dim", "text_dim")
    if not isinstance(description, dict) or not isinstance(description.get("config"), dict):
        raise file.damaged("has a bad configuration (no table)")
    controls = description.get("controls", {})
    if not isinstance(controls, dict):
        raise file.damaged("has a bad configuration (controls)")
    for name, size in ({name: description.get(name) for name in sizes} | controls).items():
        if type(size) is not int or not 0 < size <= LARGEST:
            raise file.damaged(f"has a bad configuration ({name}={str(size)[:40]})")
    try:
        from_dict({stage: description["config"]})
    except UserError as error:
        raise file.damaged(f"has a bad configuration ({error})") from None
    return description


def _load(folder: str, stage: str) -> tuple[Any, dict[str, Any]]:
    description = read_description(folder, stage)
    known = description.get("tensors")
    known = known if isinstance(known, dict) else {}  # runs of before say nothing of it
    file = File(storage.join(folder, TENSORS), None, known.get("bytes"), known.get("sha256"))
    with torch.device("cpu"):
        return read_model(stage, description, file), description


def load_lm(folder: str) -> tuple[MusicLM, dict[str, Any]]:
    """A trained language model and its description.

    Raises:
        UserError: if the folder holds none, or a damaged one.
    """
    return _load(folder, "stage1")


def load_completer(folder: str) -> tuple[LatentCompleter, dict[str, Any]]:
    """A trained latent completer and its description.

    Raises:
        UserError: if the folder holds none, or a damaged one.
    """
    return _load(folder, "stage2")
