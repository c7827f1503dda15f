"""From one run or two to a bundle: everything it needs is found through what the runs wrote about themselves."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

from ssmttm import storage
from ssmttm.bundle import initial
from ssmttm.bundle.card import CardFields, TrainingCost, TrainingData
from ssmttm.bundle.load import COMMIT_NAME, read_codec_data, read_costs, read_model_id
from ssmttm.bundle.save import ARCHITECTURE, write_bundle
from ssmttm.codec.store import load_codec
from ssmttm.conditions.encoders import is_same_text
from ssmttm.config import Config, from_dict
from ssmttm.errors import UserError
from ssmttm.lease import hold
from ssmttm.model import weights
from ssmttm.tokens.attribution import merged_attribution
from ssmttm.tokens.card import allow_list
from ssmttm.tokens.schema import ATTRIBUTION_NAME
from ssmttm.tracking.mlflow_run import read_note
from ssmttm.tracking.registry import register_bundle
from ssmttm.training.checkpoint import COMMIT, CheckpointStore, folder_of, load_checkpoint, under_current_names
from ssmttm.training.codec import REPORT_NAME
from ssmttm.training.progress import flops_per_token
from ssmttm.training.run import NAME_DIGITS, History, Run, learnt_from
from ssmttm.training.stage_task import StageName


def _resolved(descriptions: Mapping[StageName, dict[str, Any]]) -> Config:
    """Stage 1's configuration with stage 2's own section."""
    values = dict(descriptions["stage1"]["resolved_config"])
    if "stage2" in descriptions:
        values["stage2"] = descriptions["stage2"]["resolved_config"]["stage2"]
    return from_dict(values)


def _attribution(codec_uri: str, codec_data: Mapping[str, Any], runs: Mapping[StageName, Run], data: list[str]) -> str:
    """The attribution tables of all that codec and runs learned from, as one. codec_data: as `_codec_data` has it."""
    tables: list[tuple[str, Collection[str]]] = []
    uri = storage.join(codec_uri, ATTRIBUTION_NAME)
    if any(codec_data.values()) or (codec_data and storage.exists(uri)):  # who wrote a record wrote a table
        tables.append((storage.read_text(uri), codec_data))
    for (stage, run), dataset in zip(runs.items(), data, strict=True):
        tables += [(storage.read_text(uri), (stage,)) for uri in initial.attribution_of_run(run.uri, dataset)]
    return merged_attribution(tables)


def _codec_data(uri: str) -> dict[str, dict[str, Any] | None]:
    """What codec and vocoder learned from, as the report of their training or the bundle they lie in has it, None where
    nobody wrote it down; of a published codec nothing."""
    codec = load_codec(uri)
    if not codec.is_fitted:
        return {}
    report = storage.join(uri, REPORT_NAME)
    if storage.exists(report):
        fitted = storage.read_json(report)
        known = {"codec": fitted.get("data"), "vocoder": fitted.get("vocoder", {}).get("data")}
    else:
        known = read_codec_data(uri)
    parts = ("codec",) if codec.describe_vocoder() is None else ("codec", "vocoder")
    return {part: known.get(part) for part in parts}


def _training_data(runs: Mapping[StageName, Run]) -> list[TrainingData]:
    """What the runs, by stage, learned from. A data set that both read, even from two places, counts once."""
    known: dict[str, dict[str, Any]] = {}
    stages: dict[str, list[StageName]] = {}
    for stage, run in runs.items():
        for dataset in learnt_from(run):
            known.setdefault(dataset["fingerprint"], dataset)
            stages.setdefault(dataset["fingerprint"], []).append(stage)
    sets = []
    for fingerprint, names in stages.items():
        dataset = known[fingerprint]
        sets.append(
            TrainingData(
                fingerprint[:NAME_DIGITS],
                tuple(names),
                dataset["seconds_by_licence"],
                allow_list(dataset),
                dataset["rejects"],
            )
        )
    return sets


def _costs(
    codec_uri: str, runs: Mapping[StageName, Run], descriptions: Mapping[StageName, dict[str, Any]]
) -> tuple[dict[str, TrainingCost], frozenset[str]]:
    """By part, and the stages whose cost leaves out that of the weights they started from."""
    costs = {}
    report = storage.join(codec_uri, REPORT_NAME)
    if storage.exists(report):  # a codec that was not fitted here has none
        fitted = storage.read_json(report)
        costs["codec"] = TrainingCost(fitted["seconds"]["fit"] / 3600, fitted.get("flops"))
    elif "codec" in (known := read_costs(codec_uri)):
        costs["codec"] = known["codec"]
    uncounted = set()
    for stage, description in descriptions.items():
        costs[stage], is_all = initial.cost_of(runs[stage].uri, description)
        if not is_all:
            uncounted.add(stage)
    return costs, frozenset(uncounted)


def export_bundle(
    stage1_run: str,
    stage2_run: str | None,
    out: str,
    metrics: dict[str, float] | None = None,
    *,
    stage1_checkpoint: str | None = None,
    stage2_checkpoint: str | None = None,
    register: str | None = None,
    tracking_uri: str | None = None,
    half: bool = False,
) -> str:
    """Write the bundle of two runs, or of one that models more than codebook 0, and return its URI.

    Args:
        stage1_run, stage2_run: folders or URIs of the runs, finished unless a checkpoint is given; no second where
            stage 1 writes the codebooks that fine latents come from.
        out: folder or URI of the bundle; one that is there is replaced.
        metrics: measured on held-out prompts, for the model card.
        stage1_checkpoint, stage2_checkpoint: names of checkpoints (`step-000100`) to take in place of the last weights.
        register: name under which MLflow's registry gets the bundle as a model version.
        tracking_uri: of that registry; by default where stage 1 was tracked.
        half: store the models' matrices in float16.

    Raises:
        UserError: if a run is unfinished or of the other stage, if the two were not trained on the same codec and
            text encoder, if stage 1 models more than codebook 0 beside a stage 2 or no more without one, if the
            attribution of the data is gone, if another job writes there, or if the bundle cannot be written or
            registered.
    """
    storage.check_writable(storage.join(out, COMMIT_NAME))
    asked: dict[StageName, tuple[str, str | None]] = {"stage1": (stage1_run, stage1_checkpoint)}
    if stage2_run is not None:
        asked["stage2"] = (stage2_run, stage2_checkpoint)
    elif stage2_checkpoint is not None:
        raise UserError(f"checkpoint {stage2_checkpoint} of stage 2 needs its run; give that too")
    registry = _registry(Run(stage1_run), tracking_uri) if register else None
    with hold(out, "choose another --out"), tempfile.TemporaryDirectory() as folder:
        trained = {stage: _trained(run, stage, checkpoint, folder) for stage, (run, checkpoint) in asked.items()}
        descriptions = {stage: description for stage, (_, description, _) in trained.items()}
        _check_fit(stage1_run, stage2_run, descriptions)
        config, first = _resolved(descriptions), descriptions["stage1"]
        codec_uri, runs = first["codec"]["uri"], {stage: run for stage, (run, _, _) in trained.items()}
        costs, uncounted = _costs(codec_uri, runs, descriptions)
        codec_data = _codec_data(codec_uri)
        card = CardFields(
            _training_data(runs),
            costs,
            first["text"]["reference"],
            metrics or {},
            {stage: name for stage, run in runs.items() if (name := initial.started_from(run.uri))},
            uncounted,
            codec_data,
            {stage: changes for stage, run in runs.items() if (changes := History.of(run).changes)},
        )
        write_bundle(
            out,
            config,
            stage1_weights=trained["stage1"][2],
            stage2_weights=trained["stage2"][2] if "stage2" in trained else None,
            codec_uri=codec_uri,
            codec_fingerprint=first["codec"]["fingerprint"],
            text=first["text"],
            attribution=_attribution(
                codec_uri, codec_data, runs, [part["data"]["uri"] for part in descriptions.values()]
            ),
            card=card,
            half=half,
        )
    if register and registry:
        tags = _version_tags(out, config, card, descriptions)
        version = register_bundle(out, COMMIT_NAME, register, registry, tags)
        print(f"{register} version {version} in {registry}", flush=True)
    return out


def _trained(uri: str, stage: StageName, checkpoint: str | None, folder: str) -> tuple[Run, dict[str, Any], str]:
    """A run, the description of what it trained, and the folder of its weights."""
    run = Run(uri)
    if checkpoint is None:
        return run, _finished(run, stage), run.weights
    copy = storage.join(folder, stage)
    return run, _write_checkpoint_weights(run, stage, checkpoint, copy), copy


def _finished(run: Run, stage: StageName) -> dict[str, Any]:
    """The description of a finished run's weights, which lie in `run.weights`."""
    if not storage.exists(run.summary):
        raise UserError(f"{run.uri} is not a finished run (no summary.json); train it to the end, or give another")
    return weights.read_description(run.weights, stage)


def _write_checkpoint_weights(run: Run, stage: StageName, name: str, folder: str) -> dict[str, Any]:
    """Write the weights of the checkpoint `name` (the average, if one is kept) into a folder, as a finished run does,
    and return their description. The run need not be finished."""
    uri = storage.join(run.checkpoints, name)
    if not storage.exists(storage.join(uri, COMMIT)):
        steps = CheckpointStore(run.checkpoints, 1).committed()
        there = ", ".join(posixpath.basename(folder_of(run.checkpoints, step)) for step in steps) or "none"
        raise UserError(f"{run.uri} has no checkpoint {name}; it has: {there}")
    checkpoint = under_current_names(load_checkpoint(uri), stage)
    if checkpoint.task not in (None, stage):
        raise UserError(f"{uri} holds a {checkpoint.task} model; {stage} is needed here")
    state = checkpoint.model if checkpoint.average is None else checkpoint.average
    config, dataset = from_dict(storage.read_json(run.path("config.json"))), storage.read_json(run.path("dataset.json"))
    codec, section = load_codec(dataset["codec"]["uri"]), getattr(config, stage)
    known = {
        "config": section.model_dump(mode="json"),
        "codebook_size": codec.codebook_size,
        "fine_dim": codec.fine_dim,
        "coarse_dim": codec.coarse_dim,
        **weights.describe_widths({"text": dataset["text"]["dim"], **dataset.get("controls", {})}),
    }
    sizes = {key: known[key] for key in ARCHITECTURE[stage] if key in known}
    try:
        module = weights.BUILDERS[stage](sizes, state)
    except (RuntimeError, ValueError):  # a checkpoint that does not say whose it is, or not the whole of a model
        raise UserError(f"{uri} does not hold the {stage} model of {run.uri}") from None
    frames = dataset["frames_by_split"]["train"] / dataset["rows_by_split"]["train"]
    if section.crop_frames:
        frames = min(frames, section.crop_frames)
    progress = checkpoint.progress
    description = {
        **sizes,
        "codec": dataset["codec"],
        "text": dataset["text"],
        "training": {
            "steps": progress.step,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "flops": flops_per_token(config, stage, dataset, frames) * progress.tokens,
        },
        "data": {"uri": config.train.data, "rows": dataset["rows"]},
        "resolved_config": config.model_dump(mode="json"),
    }
    weights.save_model(folder, stage, state, description)
    return description


def _check_fit(stage1_run: str, stage2_run: str | None, descriptions: Mapping[StageName, dict[str, Any]]) -> None:
    """Refuse stages that do not belong together, and a stage 1 that leaves the fine latents to nobody."""
    first, codebooks = descriptions["stage1"], descriptions["stage1"]["config"]["num_codebooks"]
    if stage2_run is None:
        if codebooks == 1:
            raise UserError(
                f"{stage1_run} models codebook 0 alone, and nothing makes the fine latents; train stage 2 on the same "
                "token shards (jobs/train_stage2.py) and give its run too"
            )
        return
    second = descriptions["stage2"]
    for part in ("codec", "text"):
        is_same = is_same_text if part == "text" else str.__eq__
        if not is_same(first[part]["fingerprint"], second[part]["fingerprint"]):
            raise UserError(
                f"{stage1_run} and {stage2_run} were trained with different {part} encoders "
                f"({first[part]['fingerprint']}, {second[part]['fingerprint']}); train both on the same token shards"
            )
    if codebooks != 1:
        raise UserError(
            f"{stage1_run} models {codebooks} codebooks, but stage 2 continues codebook 0 alone; leave the stage-2 run "
            "out, or train stage 1 with stage1.num_codebooks=1"
        )


def _registry(run: Run, tracking_uri: str | None) -> str:
    """Where to register."""
    if tracking_uri is not None:
        return tracking_uri
    note = read_note(run.uri)
    if note is None:
        raise UserError(f"{run.uri} was not tracked by MLflow, so it names no registry; give --tracking-uri")
    return note["tracking_uri"]


def _version_tags(
    bundle: str, config: Config, card: CardFields, descriptions: Mapping[StageName, dict[str, Any]]
) -> dict[str, str]:
    """What the registry says of a bundle's version."""
    licences = sorted({name for data in card.data for name in data.seconds_by_licence})
    flops = [cost.flops for cost in card.costs.values() if cost.flops is not None]
    tags = {
        "model_id": read_model_id(bundle),
        "preset": config.preset,
        "licences": ", ".join(licences),
        "datasets": ", ".join(data.name for data in card.data),
        "training_flops": f"{sum(flops):.3e}",
        "training_hours": f"{sum(cost.hours for cost in card.costs.values()):.2f}",
    }
    for stage, description in descriptions.items():
        tags[f"{stage}_parameters"] = str(description["training"]["parameters"])
        tags[f"{stage}_steps"] = str(description["training"]["steps"])
    return tags
