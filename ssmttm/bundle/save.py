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
from dataclasses import asdict
from typing import Any

from ssmttm import storage
from ssmttm.bundle.card import CardFields, model_card
from ssmttm.bundle.load import COMMIT_NAME, FORMAT
from ssmttm.codec.store import VOCODER_NAME, WEIGHTS_NAME, load_codec, save_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model import weights

# Only what generation needs: the other sections hold paths of the machine that trained the model.
SECTIONS = ("preset", "codec", "text", "generation")  # and those of the stages that there are

# What rebuilds each model; runs record more. `controls` is there only where the model takes some.
ARCHITECTURE = {
    "stage1": ("config", "codebook_size", "text_dim", "controls"),
    "stage2": ("config", "fine_dim", "coarse_dim", "text_dim", "controls"),
}


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
    save_codec(codec, out)
    descriptions = {}
    for kind, folder in stages.items():
        description = weights.read_description(folder, kind)
        descriptions[kind] = {key: description[key] for key in ARCHITECTURE[kind] if key in description}
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
        "codec": {"fingerprint": codec_fingerprint, "data": card.codec_data},
        "text": {"reference": text["reference"], "fingerprint": text["fingerprint"]},
        "costs": {part: asdict(cost) for part, cost in card.costs.items() if part not in card.uncounted},
    }
    storage.write_json(storage.join(out, "config.json"), content)
    storage.write_text(storage.join(out, "ATTRIBUTION.csv"), attribution)
    heard = [*(f"{kind}.safetensors" for kind in stages), WEIGHTS_NAME]
    if codec.describe_vocoder() is not None:
        heard.append(VOCODER_NAME)
    controls = list(descriptions["stage1"].get("controls", {}))
    model_id = _model_id(config.preset, [storage.digest(storage.join(out, name)) for name in heard])
    storage.write_text(storage.join(out, "README.md"), model_card(model_id, config, card, controls))
    storage.write_commit(out, COMMIT_NAME, {"model_id": model_id})
    return model_id
