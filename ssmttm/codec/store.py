"""Codecs on disk: a folder of safetensors and JSON, or a published checkpoint as transformers lays it out.

codec.json  codec.safetensors  [vocoder.safetensors, in half precision]        written here
config.json model.safetensors                                                  published
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import safetensors.torch

from ssmttm import storage
from ssmttm.codec.base import Codec
from ssmttm.codec.registry import CODECS
from ssmttm.errors import UserError
from ssmttm.tensors import TensorFile
from ssmttm.verified import File, Listing

CONFIG_NAME = "codec.json"
WEIGHTS_NAME = "codec.safetensors"
PUBLISHED_CONFIG_NAME, PUBLISHED_WEIGHTS_NAME = "config.json", "model.safetensors"  # of transformers
VOCODER_NAME = "vocoder.safetensors"
FORMAT = 1
FIT_AGAIN = "fit it again with jobs/train_codec.py, or fetch it again"
TRAIN_AGAIN = "train it again with jobs/train_codec.py codec.vocoder=neural"


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


def load_codec(uri: str, listing: Listing | None = None) -> Codec:
    """Load a codec from a folder that `save_codec` wrote (or a bundle, which holds the same files), or a published
    one as transformers lays it out (`config.json`, `model.safetensors`).

    Args:
        uri: of the folder.
        listing: of a bundle: only files that it lists are read.

    Raises:
        UserError: naming the folder and the remedy, if it holds no codec, one this version cannot read, or a
            damaged one.
    """

    def file(name: str, remedy: str = FIT_AGAIN) -> File:
        if listing is not None:
            return listing.file(name)
        return File(storage.join(uri, name), uri, described=f"{uri} is damaged: {name}", remedy=remedy)

    if listing is None:
        is_ours = storage.exists(storage.join(uri, CONFIG_NAME))
        if not is_ours and storage.exists(storage.join(uri, PUBLISHED_CONFIG_NAME)):
            return _load_published(file(PUBLISHED_CONFIG_NAME), file(PUBLISHED_WEIGHTS_NAME))
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not storage.exists(storage.join(uri, name)):
                raise UserError(
                    f"no codec at {uri}: {name} is missing; fit one with jobs/train_codec.py codec.path={uri}, or give "
                    "the folder of a published DAC or EnCodec checkpoint"
                )
    about = file(CONFIG_NAME)
    description = about.json()
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"the codec at {uri} is not of format {FORMAT}; fit it again with jobs/train_codec.py")
    weights = TensorFile.look(file(WEIGHTS_NAME))
    codec = _build(about, weights, CODECS, description.get("name"), description.get("config"))
    weights.expect(codec.weights())
    codec.load_state_dict(weights.load())
    if codec.fingerprint() != description.get("fingerprint"):
        raise weights.file.damaged(f"is another than {CONFIG_NAME} names (its fingerprint)")
    if "vocoder" in description:
        _load_vocoder(codec, about, file(VOCODER_NAME, TRAIN_AGAIN), description["vocoder"])
    return codec.eval()


def _load_vocoder(codec: Codec, about: File, file: File, entry: Any) -> None:
    """Put the vocoder that a folder holds on top of its codec."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise about.damaged("does not describe its vocoder")
    if file.sha256 not in (None, entry.get("sha256")):
        raise about.damaged(f"names another {VOCODER_NAME}")
    vocoder = TensorFile.look(replace(file, sha256=entry.get("sha256")))
    vocoder.build(lambda: codec.add_vocoder(entry["config"]))
    vocoder.expect(codec.weights(vocoder=True))
    codec.load_state_dict({**codec.weights(), **vocoder.load()})


def _load_published(about: File, file: File) -> Codec:
    config = about.json()
    if not isinstance(config, dict):
        raise about.damaged("does not describe a codec")
    kinds = {kind.published_as: kind for kind in CODECS.values() if kind.published_as is not None}
    weights = TensorFile.look(file)
    codec = _build(about, weights, kinds, config.get("model_type"), config)
    total = sum(entry.size for entry in weights.entries.values())
    wanted = sum(weight.numel() for weight in codec.state_dict().values())
    if total != wanted:
        raise file.damaged(f"holds {total:,} weights, where its configuration wants {wanted:,}")
    try:
        codec.load_state_dict({f"model.{name}": weight for name, weight in weights.load().items()})
    except RuntimeError as error:  # names or shapes; published checkpoints may have older names, which load too
        raise file.damaged(f"does not fit its configuration ({error})") from None
    return codec.eval()


def _build(about: File, weights: TensorFile, kinds: dict[str, type[Codec]], name: Any, config: Any) -> Codec:
    if not isinstance(name, str) or name not in kinds:
        raise about.damaged(f"is of an unknown kind '{name}'; known: {', '.join(kinds)}")
    if not isinstance(config, dict):
        raise about.damaged("has a bad configuration (no table)")
    return replace(weights, file=about).build(lambda: kinds[name].from_description(config))
