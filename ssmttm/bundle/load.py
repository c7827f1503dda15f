"""Reading a bundle: the models and the codec whole, or what it says of itself. Its files are named in save.py."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.bundle.card import TrainingCost
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.conditions.encoders import TextEncoder, load_text_encoder_from
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM

COMMIT_NAME = "bundle.json"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; models and codec are in evaluation mode on one device. `completer`: None where stage 1 writes
    the codebooks that fine latents come from."""

    config: Config
    lm: MusicLM
    completer: LatentCompleter | None
    codec: Codec
    text_encoder: TextEncoder
    model_id: str

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device


def shipped_bundle() -> str:
    """Folder of the bundle that comes with the package."""
    return str(resources.files("ssmttm") / "weights" / "mini")


def check_bundle(uri: str) -> None:
    """Raises UserError, saying how to get one, if there is no complete bundle at `uri`."""
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        raise UserError(
            f"no bundle at {uri}; make one with 'make demo' or 'ssmttm export', or name another (--bundle URI)"
        )


def read_model_id(uri: str) -> str:
    """The name of a bundle's model.

    Raises:
        UserError: if there is no complete bundle at `uri`.
    """
    check_bundle(uri)
    return str(storage.read_json(storage.join(uri, COMMIT_NAME))["model_id"])


def read_costs(uri: str) -> dict[str, TrainingCost]:
    """What the parts of the bundle in a folder cost, those that it knows of; none where the folder holds no bundle."""
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        return {}
    costs = storage.read_json(storage.join(uri, "config.json")).get("costs", {})
    return {part: TrainingCost(**cost) for part, cost in costs.items()}


def read_codec_data(uri: str) -> dict[str, Any]:
    """What the codec of the bundle in a folder learned from, and its vocoder, by part; nothing where the folder holds
    no bundle, or one of before."""
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        return {}
    return storage.read_json(storage.join(uri, "config.json"))["codec"].get("data", {})


def load_bundle(uri: str, device: str | None = None) -> Bundle:
    """Load a bundle, checking every file against its digest. `device` defaults to CUDA where there is one.

    Raises:
        UserError: if it is missing, incomplete, damaged, of another format, or its text encoder is not at hand.
    """
    check_bundle(uri)
    storage.read_commit(uri, COMMIT_NAME, verify=True)
    content = storage.read_json(storage.join(uri, "config.json"))
    if content["format"] != FORMAT:
        raise UserError(f"{uri} has bundle format {content['format']}; this version of ssmttm reads format {FORMAT}")
    text_encoder = load_text_encoder_from(content["text"]["reference"])
    if text_encoder.fingerprint != content["text"]["fingerprint"]:
        raise UserError(
            f"{uri} was trained with another text encoder than {content['text']['reference']} is now; "
            "restore the one it names"
        )
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    lm_state = weights.load_tensors(storage.join(uri, "stage1.safetensors"))
    completer = None
    if "stage2" in content:
        completer_state = weights.load_tensors(storage.join(uri, "stage2.safetensors"))
        completer = weights.build_completer(content["stage2"], completer_state).requires_grad_(False).to(target)
    return Bundle(
        configuration.from_dict(content["config"]),
        weights.build_lm(content["stage1"], lm_state).requires_grad_(False).to(target),
        completer,
        load_codec(uri).eval().requires_grad_(False).to(target),
        text_encoder,
        read_model_id(uri),
    )
