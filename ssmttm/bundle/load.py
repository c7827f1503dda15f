"""Reading a bundle: the models and the codec whole, or what it says of itself. Its files are named in save.py."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, cast

import torch

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.bundle.card import TrainingCost
from ssmttm.codec.base import Codec
from ssmttm.codec.store import CONFIG_NAME as CODEC_NAME
from ssmttm.codec.store import WEIGHTS_NAME, load_codec
from ssmttm.conditions.encoders import TextEncoder, load_text_encoder_from
from ssmttm.config import SECTIONS, Config
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM
from ssmttm.verified import File, Listing

COMMIT_NAME, CONFIG_NAME = "bundle.json", "config.json"
FORMAT = 1
# What each bundle lists; most also stage 2, some a vocoder.
TEXTS = ("README.md", "ATTRIBUTION.csv")
REQUIRED = (CONFIG_NAME, "stage1.safetensors", CODEC_NAME, WEIGHTS_NAME, *TEXTS)
TEXT_BYTES = 256 << 20  # an attribution of a million tracks has about 200 MB


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


def open_bundle(uri: str) -> tuple[Listing, dict[str, Any]]:
    """What a bundle lists, which is all that it needs, and the content of its `config.json`.

    Raises:
        UserError: if there is none at `uri`, it is of another format, or one of the two makes no sense.
    """
    check_bundle(uri)
    listing = Listing.read(uri, COMMIT_NAME, "fetch or export it again")
    name = listing.content.get("model_id")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise listing.commit.damaged("names no model")
    for required in REQUIRED:
        listing.file(required)
    about = listing.file(CONFIG_NAME)
    content = about.json()
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise about.damaged("describes no bundle")
    if content["format"] != FORMAT:
        raise UserError(f"{uri} has bundle format {content['format']}; this version of ssmttm reads format {FORMAT}")
    for part in ("config", "stage1", "codec", "text"):
        if not isinstance(content.get(part), dict):
            raise about.damaged(f"does not describe its {part}")
    for part in ("codec", "text"):
        if not isinstance(content[part].get("fingerprint"), str):
            raise about.damaged(f"has no fingerprint of its {part}")
    _check_costs(content.get("costs", {}), about)
    return listing, content


def _check_costs(costs: Any, about: File) -> None:
    known = {one.name for one in fields(TrainingCost)}
    for cost in costs.values() if isinstance(costs, dict) else [None]:
        if not isinstance(cost, dict) or not cost.keys() <= known or "hours" not in cost:
            raise about.damaged("does not say what its parts cost")
        for figure in cost.values():
            if figure is not None and (isinstance(figure, bool) or not isinstance(figure, int | float)):
                raise about.damaged("does not say what its parts cost")


def read_model_id(uri: str) -> str:
    """The name of a bundle's model.

    Raises:
        UserError: if there is no complete bundle at `uri`.
    """
    return str(open_bundle(uri)[0].content["model_id"])


def read_costs(uri: str) -> dict[str, TrainingCost]:
    """What the parts of the bundle in a folder cost, those that it knows of; none where the folder holds no bundle."""
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        return {}
    costs = open_bundle(uri)[1].get("costs", {})
    return {part: TrainingCost(**cost) for part, cost in costs.items()}


def read_codec_data(uri: str) -> dict[str, Any]:
    """What the codec of the bundle in a folder learned from, and its vocoder, by part; nothing where the folder holds
    no bundle, or one of before."""
    if not storage.exists(storage.join(uri, COMMIT_NAME)):
        return {}
    return open_bundle(uri)[1]["codec"].get("data", {})


@dataclass(frozen=True)
class Parts:
    """What lies in a bundle: `Bundle` without the text encoder. content: of `config.json`."""

    content: dict[str, Any]
    config: Config
    lm: MusicLM
    completer: LatentCompleter | None
    codec: Codec
    model_id: str


def read_parts(uri: str) -> Parts:
    """Read all of a bundle, which may be anyone's: nothing is read that it does not list, every file of a bundle's is
    compared with its digest, and every size with the weights before a model is made. On CPU, in evaluation mode.

    Raises:
        UserError: if it is missing, incomplete, damaged, or of another format.
    """
    listing, content = open_bundle(uri)
    about = listing.file(CONFIG_NAME)
    try:
        config = configuration.from_dict(content["config"])
    except UserError as error:
        raise about.damaged(f"has a bad configuration ({error})") from None
    _check_windows(config, about)
    _check_stages(config, content, about)
    lm = cast(MusicLM, weights.read_model("stage1", content["stage1"], listing.file("stage1.safetensors")))
    completer = None
    if "stage2" in content:
        completer = cast(
            LatentCompleter, weights.read_model("stage2", content["stage2"], listing.file("stage2.safetensors"))
        )
    codec = load_codec(uri, listing)
    _check_fit(lm, completer, codec, content, about)
    for name in TEXTS:
        listing.file(name).check(TEXT_BYTES)
    return Parts(content, config, lm, completer, codec, str(listing.content["model_id"]))


def _check_windows(config: Config, about: File) -> None:
    """Refuse windows of stage 2 that do not move on, which the engine would only find later."""
    settings = config.generation
    if settings.window_frames <= settings.context_frames + settings.lookahead_frames:
        raise about.damaged("has a bad configuration (generation.window_frames leaves no frame of its own)")


def _check_stages(config: Config, content: dict[str, Any], about: File) -> None:
    """Refuse a configuration that says other than what rebuilds the models."""
    for stage in (stage for stage in ("stage1", "stage2") if stage in content):
        told = content[stage].get("config") if isinstance(content[stage], dict) else None
        if not isinstance(told, dict):
            raise about.damaged(f"does not describe its {stage}")
        section = getattr(config, stage).model_dump(mode="json")
        for key in SECTIONS[stage].deciding("model"):
            if key in told and told[key] != section[key]:
                raise about.damaged(f"says two things of {stage}.{key}")
    if "stage2" in content and config.generation.steps is None:
        raise about.damaged("has a bad configuration (generation.steps=null beside a stage 2)")
    if ("stage2" in content) != (config.stage1.num_codebooks == 1):
        raise about.damaged("has a stage 2 beside several codebooks of stage 1, or one codebook and no stage 2")


def _check_fit(
    lm: MusicLM, completer: LatentCompleter | None, codec: Codec, content: dict[str, Any], about: File
) -> None:
    """Refuse parts that do not belong together."""
    if codec.fingerprint() != content["codec"]["fingerprint"]:
        raise about.damaged("names another codec than lies beside it")
    pairs = [(lm.codebook_size, codec.codebook_size)]
    if completer is not None:
        pairs += [(completer.coarse_dim, codec.coarse_dim), (completer.fine_dim, codec.fine_dim)]
    if any(one != other for one, other in pairs) or lm.config.num_codebooks > codec.num_codebooks:
        raise about.damaged("describes stages that do not fit its codec")


def load_bundle(uri: str, device: str | None = None) -> Bundle:
    """Load a bundle, checking every file against its digest. `device` defaults to CUDA where there is one.

    Raises:
        UserError: if it is missing, incomplete, damaged, of another format, or its text encoder is not at hand.
    """
    parts = read_parts(uri)
    text = parts.content["text"]
    try:
        encoder = load_text_encoder_from(text.get("reference"), text["fingerprint"])
    except UserError as error:
        raise UserError(f"{uri}: {error}") from None
    widths = {parts.lm.widths["text"]} | (set() if parts.completer is None else {parts.completer.widths["text"]})
    if widths != {encoder.dim}:
        raise UserError(
            f"{uri} is damaged: {CONFIG_NAME} names a text encoder of other dimensions than its models read"
        )
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Bundle(
        parts.config,
        parts.lm.requires_grad_(False).to(target),
        None if parts.completer is None else parts.completer.requires_grad_(False).to(target),
        parts.codec.requires_grad_(False).to(target),
        encoder,
        parts.model_id,
    )
