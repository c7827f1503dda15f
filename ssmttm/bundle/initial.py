"""Trained weights that a run starts from (`train.init`): a bundle's, or another run's. Fine-tuning, in other words.

What the weights learned from stays named: the run keeps their attribution, and an export passes it on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmttm import storage
from ssmttm.bundle.card import TrainingCost
from ssmttm.bundle.load import COMMIT_NAME, open_bundle, read_costs, read_model_id
from ssmttm.conditions.encoders import is_same_text
from ssmttm.conditions.numbers import PLACES, fingerprint_with_numbers
from ssmttm.config import SECTIONS, Config
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.tokens.attribution import merged_attribution
from ssmttm.tokens.schema import ATTRIBUTION_NAME

NOTE, ATTRIBUTION = "initial.json", "initial.csv"


@dataclass(frozen=True)
class Initial:
    """One stage's weights.

    name: of the model; a run has its folder's, as cards travel. section: its `stage1` or `stage2` settings.
    codec, text: fingerprints. tensors: URI of the safetensors file.
    sources: URIs of the attribution tables of all that the weights learned from.
    cost: of all their training, None if that is not known.
    """

    name: str
    section: dict[str, Any]
    codec: str
    text: str
    tensors: str
    sources: tuple[str, ...]
    cost: TrainingCost | None


def find(uri: str, stage: str) -> Initial:
    """The weights of a stage in a bundle or a finished run.

    Raises:
        UserError: if there are none.
    """
    if storage.exists(storage.join(uri, COMMIT_NAME)):
        listing, content = open_bundle(uri)
        for name in (f"{stage}.safetensors", ATTRIBUTION_NAME):
            if name in listing.files:
                listing.file(name).check()
        if stage not in content:
            raise UserError(f"train.init={uri} is of a single stage and has no {stage}; start {stage} without it")
        section, name = content[stage]["config"], read_model_id(uri)
        tensors = storage.join(uri, f"{stage}.safetensors")
        sources: tuple[str, ...] = (storage.join(uri, ATTRIBUTION_NAME),)
        cost = read_costs(uri).get(stage)
    else:
        folder = storage.join(uri, "weights")
        if not storage.exists(storage.join(folder, weights.DESCRIPTION)):
            raise UserError(f"train.init={uri} holds no trained model; give a bundle or the folder of a finished run")
        content = weights.read_description(folder, stage)
        section, tensors = content["config"], storage.join(folder, weights.TENSORS)
        name = uri.rstrip("/").rsplit("/", 1)[-1]
        sources = attribution_of_run(uri, content["data"]["uri"])
        counted, is_all = cost_of(uri, content)
        cost = counted if is_all else None
    # Keys that are newer than the weights have their defaults.
    whole = SECTIONS[stage](**section).model_dump(mode="json")
    return Initial(name, whole, content["codec"]["fingerprint"], content["text"]["fingerprint"], tensors, sources, cost)


def attribution_of_run(folder: str, data: str) -> tuple[str, ...]:
    """URIs of the attribution tables of all that a run learned from: its own, which runs of before had not, that of its
    data, and that of what it started from. Its own or its data's must be there."""
    own, of_data, earlier = (
        storage.join(folder, ATTRIBUTION_NAME),
        storage.join(data, ATTRIBUTION_NAME),
        storage.join(folder, ATTRIBUTION),
    )
    there = tuple(uri for uri in (own, of_data, earlier) if storage.exists(uri))
    return there if own in there or of_data in there else (of_data, *there)


def hand_on(earlier: str, folder: str) -> None:
    """Let a run that goes on from a checkpoint of another know what that one started from."""
    for name in (NOTE, ATTRIBUTION):
        if storage.exists(uri := storage.join(earlier, name)):
            storage.write_bytes(storage.join(folder, name), storage.read_bytes(uri))


def check(config: Config, stage: str, dataset: dict[str, Any]) -> Initial:
    """The weights that `train.init` names, which must fit the configuration and the token shards.

    Raises:
        UserError: saying what does not fit, and what to do.
    """
    uri = config.train.init
    assert uri is not None
    initial = find(uri, stage)
    asked = getattr(config, stage).model_dump(mode="json")
    for key in SECTIONS[stage].deciding("model"):
        if asked[key] != initial.section[key]:
            setting = f"{stage}.{key}={initial.section[key]}"
            raise UserError(f"train.init={uri} has {setting}, this run {asked[key]}; set {setting}")
    if initial.codec != dataset["codec"]["fingerprint"]:
        raise UserError(
            f"train.init={uri} speaks another codec's codes than {config.train.data} holds; preprocess the corpus "
            f"with its codec (a bundle holds it: codec.path={uri})"
        )
    text = dataset["text"]["fingerprint"]
    if not any(is_same_text(text, known) for known in (initial.text, fingerprint_with_numbers(initial.text))):
        raise UserError(
            f"train.init={uri} reads another text encoder's states than {config.train.data} holds; preprocess the "
            "corpus with its text encoder"
        )
    return initial


def keep(initial: Initial, stage: str, folder: str) -> None:
    """Note in a run's folder what it started from, and what that had learned from."""
    tables = [(storage.read_text(uri), (stage,)) for uri in initial.sources]
    storage.write_text(storage.join(folder, ATTRIBUTION), merged_attribution(tables))
    cost = None if initial.cost is None else asdict(initial.cost)
    storage.write_json(storage.join(folder, NOTE), {"name": initial.name, "cost": cost})


def load(model: nn.Module, config: Config, stage: str) -> None:
    """Give a freshly built model the weights that `train.init` names, but for those of `train.init_without`.

    Raises:
        UserError: if a name of `train.init_without` is none of the model's, or the weights are not what they should be.
    """
    uri, without = config.train.init, config.train.init_without
    if uri is None:
        return
    fresh = model.state_dict()
    stored = weights.current_names(stage, weights.load_tensors(find(uri, stage).tensors))
    # Input layers of conditions that the weights never heard of begin at zero, as built.
    known = {name: tensor for name, tensor in fresh.items() if "inputs." in name and name not in stored}
    known |= {name: _widened(tensor, fresh[name]) for name, tensor in stored.items()}
    for name in (weights.current_name(stage, given) for given in without):
        matching = {key: value for key, value in fresh.items() if key == name or key.startswith(f"{name}.")}
        if not matching:
            # Of what reads the conditions the single layers, of the rest the whole.
            parts = (key.split(".") for key in fresh)
            choices = ", ".join(
                dict.fromkeys(".".join(part[:3] if "inputs" in part[:1] else part[:1]) for part in parts)
            )
            raise UserError(f"train.init_without={name} names nothing in {stage}; its modules: {choices}")
        known |= matching
    for name in fresh.keys() | known.keys():
        if name not in fresh or name not in known or fresh[name].shape != known[name].shape:
            raise UserError(
                f"train.init={uri} has other weights than its configuration says ({name!r}); fetch it again"
            )
    model.load_state_dict(known)


def _widened(known: Tensor, fresh: Tensor) -> Tensor:
    """A tensor that reads text, as it must be once numbers stand beside the text's states (`check` lets no other
    difference in): its weights for them are zero, and their statistics those of the data."""
    if known.shape == fresh.shape:
        return known
    more = fresh[..., -PLACES:].to(known.dtype)
    return torch.cat([known, more if fresh.ndim == 1 else torch.zeros_like(more)], dim=-1)


def started_from(folder: str) -> str | None:
    """The name of what a run started from, None if from nothing."""
    note = storage.join(folder, NOTE)
    return str(storage.read_json(note)["name"]) if storage.exists(note) else None


def cost_of(folder: str, description: dict[str, Any]) -> tuple[TrainingCost, bool]:
    """What a run's weights cost by their description, those included that the run started from; and whether that is
    all, as nobody may know what those had cost."""
    training, note = description["training"], storage.join(folder, NOTE)
    cost = TrainingCost(training["seconds"] / 3600, training["flops"], training["parameters"])
    if not storage.exists(note):
        return cost, True
    earlier = storage.read_json(note).get("cost")
    return (cost, False) if earlier is None else (cost.after(TrainingCost(**earlier)), True)
