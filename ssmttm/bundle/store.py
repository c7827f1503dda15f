"""A bundle: everything that turns a prompt into audio, in one folder or under one URI.

    config.json           resolved configuration, what rebuilds the models, references with fingerprints, costs
    stage1.safetensors    language model
    stage2.safetensors    latent completer; absent where stage 1 writes the other codebooks too
    codec.json, codec.safetensors, and vocoder.safetensors if one was trained
    README.md             model card
    ATTRIBUTION.csv       every recording the models learned from
    bundle.json           sizes and digests of all of it, written last

Nothing in it is executable and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import torch

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.bundle.card import CardFields, TrainingCost, model_card
from ssmttm.codec.base import VOCODER_NAME, WEIGHTS_NAME, Codec, load_codec
from ssmttm.conditions.encoders import TextEncoder, load_text_encoder_from
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM

COMMIT_NAME = "bundle.json"
FORMAT = 1
# Only what generation needs: the other sections hold paths of the machine that trained the model.
SECTIONS = ("preset", "codec", "text", "generation")  # and those of the stages that there are

# What rebuilds each model; runs record more.
ARCHITECTURE = {
    "stage1": ("config", "codebook_size", "text_dim"),
    "stage2": ("config", "fine_dim", "coarse_dim", "text_dim"),
}


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


def _model_id(preset: str, digests: list[str]) -> str:
    name = posixpath.basename(preset).rsplit(".", 1)[0]
    return f"ssmttm-{name}-{hashlib.sha256(':'.join(digests).encode()).hexdigest()[:8]}"


def write_bundle(
    out: str,
    config: Config,
    stage1_weights: str,
    stage2_weights: str | None,
    codec_uri: str,
    codec_fingerprint: str,
    text: dict[str, Any],
    attribution: str,
    card: CardFields,
    half: bool = False,
) -> str:
    """Gather trained parts into a bundle and return its model id. A bundle that was there is replaced.

    Args:
        out: folder or URI.
        config: resolved configuration; `generation` gives the bundle's defaults.
        stage1_weights, stage2_weights: folders that `weights.save_model` wrote; no second where stage 1 writes more
            than codebook 0.
        codec_uri, codec_fingerprint: the codec that the stages were trained on.
        text: `reference` and `fingerprint` of the text encoder they were trained on.
        attribution: content of ATTRIBUTION.csv.
        card: what the model card says of data, training and results.
        half: store the models' matrices in float16; they are computed with in float32 all the same.

    Raises:
        UserError: if the codec has changed since, a part is missing, a weight does not fit float16, or stage 2 has
            no number of steps.
    """
    stages = {"stage1": stage1_weights} | ({} if stage2_weights is None else {"stage2": stage2_weights})
    if stage2_weights is not None and config.generation.steps is None:
        raise UserError("generation.steps=null leaves stage 2 without a number of sampling steps; give one")
    codec = load_codec(codec_uri)
    if codec.fingerprint() != codec_fingerprint:
        raise UserError(
            f"codec {codec_uri} has changed since the stages were trained on it (fingerprint {codec.fingerprint()}, "
            f"not {codec_fingerprint}); restore it, or train again"
        )
    storage.make_dirs(out)
    storage.remove_tree(storage.join(out, COMMIT_NAME))
    codec.save(out)
    descriptions = {}
    for kind, folder in stages.items():
        description = weights.read_description(folder, kind)
        descriptions[kind] = {key: description[key] for key in ARCHITECTURE[kind]}
        tensors = weights.load_tensors(storage.join(folder, weights.TENSORS))
        weights.save_tensors(storage.join(out, f"{kind}.safetensors"), weights.halved(tensors) if half else tensors)
    values = config.model_dump(mode="json", include={*SECTIONS, *stages})
    del values["codec"]["path"]
    if stage2_weights is None:
        values["generation"]["steps"] = None
    content = {
        "format": FORMAT,
        "config": values,
        **descriptions,
        "codec": {"fingerprint": codec_fingerprint},
        "text": {"reference": text["reference"], "fingerprint": text["fingerprint"]},
        "costs": {part: asdict(cost) for part, cost in card.costs.items() if part not in card.uncounted},
    }
    storage.write_json(storage.join(out, "config.json"), content)
    storage.write_text(storage.join(out, "ATTRIBUTION.csv"), attribution)
    heard = [*(f"{kind}.safetensors" for kind in stages), WEIGHTS_NAME]
    if codec.describe_vocoder() is not None:
        heard.append(VOCODER_NAME)
    model_id = _model_id(config.preset, [storage.digest(storage.join(out, name)) for name in heard])
    storage.write_text(storage.join(out, "README.md"), model_card(model_id, config, card))
    storage.write_commit(out, COMMIT_NAME, {"model_id": model_id})
    return model_id


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
