"""Codecs on disk: a folder of safetensors and JSON, or a published checkpoint as transformers lays it out.

codec.json  codec.safetensors  [vocoder.safetensors, in half precision]        written here
config.json model.safetensors                                                  published
"""

from __future__ import annotations

import hashlib
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from ssmttm import storage
from ssmttm.codec.base import Codec
from ssmttm.codec.registry import CODECS
from ssmttm.errors import UserError

CONFIG_NAME = "codec.json"
WEIGHTS_NAME = "codec.safetensors"
PUBLISHED_CONFIG_NAME, PUBLISHED_WEIGHTS_NAME = "config.json", "model.safetensors"  # of transformers
VOCODER_NAME = "vocoder.safetensors"
FORMAT = 1


def save_codec(codec: Codec, uri: str) -> None:
    """Write `codec.json` and `codec.safetensors` into a folder, and `vocoder.safetensors` in half precision if there is
    a vocoder on top."""
    storage.make_dirs(uri)
    storage.write_bytes(storage.join(uri, WEIGHTS_NAME), safetensors.torch.save(codec.weights()))
    description = {"format": FORMAT, **codec.describe(), "fingerprint": codec.fingerprint()}
    vocoder = codec.describe_vocoder()
    if vocoder is None:
        storage.remove_tree(storage.join(uri, VOCODER_NAME))
    else:
        halves = {name: weight.half() for name, weight in codec.weights(vocoder=True).items()}
        packed = safetensors.torch.save(halves)
        storage.write_bytes(storage.join(uri, VOCODER_NAME), packed)
        description["vocoder"] = {"config": vocoder, "sha256": hashlib.sha256(packed).hexdigest()}
    storage.write_json(storage.join(uri, CONFIG_NAME), description)


def load_codec(uri: str) -> Codec:
    """Load a codec from a folder that `save_codec` wrote (or a bundle, which holds the same files), or a published
    one as transformers lays it out (`config.json`, `model.safetensors`).

    Raises:
        UserError: naming the folder and the remedy, if it holds no codec, one this version cannot read, or a
            damaged one.
    """
    if not storage.exists(storage.join(uri, CONFIG_NAME)) and storage.exists(storage.join(uri, PUBLISHED_CONFIG_NAME)):
        return _load_published(uri)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not storage.exists(storage.join(uri, name)):
            raise UserError(
                f"no codec at {uri}: {name} is missing; fit one with jobs/train_codec.py codec.path={uri}, or give the "
                "folder of a published DAC or EnCodec checkpoint"
            )
    description = storage.read_json(storage.join(uri, CONFIG_NAME))
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"the codec at {uri} is not of format {FORMAT}; fit it again with jobs/train_codec.py")
    codec = _build(storage.join(uri, CONFIG_NAME), CODECS, description.get("name"), description.get("config"))
    _load_weights(codec, storage.join(uri, WEIGHTS_NAME), "")
    if codec.fingerprint() != description.get("fingerprint"):
        raise UserError(f"the codec at {uri} is damaged: its fingerprint differs from {CONFIG_NAME}; fit it again")
    if "vocoder" in description:
        _load_vocoder(codec, uri, description["vocoder"])
    return codec.eval()


def _load_vocoder(codec: Codec, uri: str, entry: Any) -> None:
    """Put the vocoder that a folder holds on top of its codec."""
    remedy = "train it again with jobs/train_codec.py codec.vocoder=neural"
    weights_uri = storage.join(uri, VOCODER_NAME)
    if not storage.exists(weights_uri):
        raise UserError(f"the codec at {uri} lacks its {VOCODER_NAME}; {remedy}")
    data = storage.read_bytes(weights_uri)
    try:
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"it differs from its digest in {CONFIG_NAME}")
        codec.add_vocoder(entry["config"])
        weights = safetensors.torch.load(data)
        codec.load_state_dict({**codec.weights(), **weights})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights_uri} is damaged or of another version ({reason}); {remedy}") from None


def _load_published(uri: str) -> Codec:
    config = storage.read_json(storage.join(uri, PUBLISHED_CONFIG_NAME))
    kinds = {kind.published_as: kind for kind in CODECS.values() if kind.published_as is not None}
    codec = _build(storage.join(uri, PUBLISHED_CONFIG_NAME), kinds, config.get("model_type"), config)
    _load_weights(codec, storage.join(uri, PUBLISHED_WEIGHTS_NAME), "model.")
    return codec.eval()


def _load_weights(codec: Codec, uri: str, prefix: str) -> None:
    """Load a safetensors file whose names lack `prefix`."""
    try:
        weights = safetensors.torch.load(storage.read_bytes(uri))
        codec.load_state_dict({prefix + name: weight for name, weight in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{uri} is damaged ({reason}); fit or fetch the codec again") from None


def _build(uri: str, kinds: dict[str, type[Codec]], name: Any, config: Any) -> Codec:
    if name not in kinds:
        raise UserError(f"{uri} is of an unknown kind '{name}'; known: {', '.join(kinds)}")
    try:
        return kinds[name].from_description(config)
    except UserError as error:
        raise UserError(f"{uri}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{uri} has a bad config ({reason}); fit or fetch the codec again") from None
