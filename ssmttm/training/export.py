"""From two finished runs to a bundle: everything it needs is found through what the runs wrote about themselves."""

from __future__ import annotations

import csv
import io
from typing import Any

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config
from ssmttm.corpus.dataset_card import ATTRIBUTION_NAME, allow_list
from ssmttm.errors import UserError
from ssmttm.generation.bundle import write_bundle
from ssmttm.generation.card import CardFields, TrainingCost, TrainingData
from ssmttm.model import weights
from ssmttm.training.codec import REPORT_NAME
from ssmttm.training.run import Run

NAME_DIGITS = 12  # of a data set's fingerprint: short, and unlike any other's


def _description(run: Run, stage: str) -> dict[str, Any]:
    if not storage.exists(run.summary):
        raise UserError(f"{run.uri} is not a finished run (no summary.json); train it to the end, or give another")
    return weights.read_description(run.weights, stage)


def _resolved(first: dict[str, Any], second: dict[str, Any]) -> Config:
    """Stage 1's configuration with stage 2's own section."""
    values = {**first["resolved_config"], "stage2": second["resolved_config"]["stage2"]}
    return configuration.from_dict(values)


def _attribution(datasets: list[str]) -> str:
    """The rows of all datasets' attribution tables, each once, under one head."""
    tables = [list(csv.reader(io.StringIO(storage.read_text(storage.join(uri, ATTRIBUTION_NAME))))) for uri in datasets]
    merged = io.StringIO()
    rows = dict.fromkeys(tuple(row) for table in tables for row in table)
    csv.writer(merged, lineterminator="\n").writerows(rows)
    return merged.getvalue()


def _training_data(runs: dict[str, Run]) -> list[TrainingData]:
    """What the runs, by stage, learned from. A data set that both read, even from two places, counts once."""
    known = {stage: storage.read_json(run.path("dataset.json")) for stage, run in runs.items()}
    stages: dict[str, list[str]] = {}
    for stage, dataset in known.items():
        stages.setdefault(dataset["fingerprint"], []).append(stage)
    sets = []
    for fingerprint, names in stages.items():
        dataset = known[names[0]]
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


def _costs(codec_uri: str, descriptions: dict[str, dict[str, Any]]) -> dict[str, TrainingCost]:
    costs = {}
    report = storage.join(codec_uri, REPORT_NAME)
    if storage.exists(report):  # a codec that was not fitted here has none
        costs["codec"] = TrainingCost(storage.read_json(report)["seconds"]["fit"] / 3600)
    for stage, description in descriptions.items():
        summary = description["training"]
        costs[stage] = TrainingCost(summary["seconds"] / 3600, summary["flops"], summary["parameters"])
    return costs


def export_bundle(stage1_run: str, stage2_run: str, out: str, metrics: dict[str, float] | None = None) -> str:
    """Write the bundle of two finished runs and return its URI.

    Args:
        stage1_run, stage2_run: folders or URIs of the runs.
        out: folder or URI of the bundle; one that is there is replaced.
        metrics: measured on held-out prompts, for the model card.

    Raises:
        UserError: if a run is unfinished or of the other stage, if the two were not trained on the same codec and
            text encoder, if stage 1 models more than codebook 0, or if the attribution of the data is gone.
    """
    first_run, second_run = Run(stage1_run), Run(stage2_run)
    first, second = _description(first_run, "stage1"), _description(second_run, "stage2")
    for part in ("codec", "text"):
        if first[part]["fingerprint"] != second[part]["fingerprint"]:
            raise UserError(
                f"{stage1_run} and {stage2_run} were trained with different {part} encoders "
                f"({first[part]['fingerprint']}, {second[part]['fingerprint']}); train both on the same token shards"
            )
    if first["config"]["num_codebooks"] != 1:
        raise UserError(
            f"{stage1_run} models {first['config']['num_codebooks']} codebooks, but stage 2 continues codebook 0 "
            "alone; train with stage1.num_codebooks=1"
        )
    config = _resolved(first, second)
    codec_uri = first["codec"]["uri"]
    card = CardFields(
        _training_data({"stage1": first_run, "stage2": second_run}),
        _costs(codec_uri, {"stage1": first, "stage2": second}),
        first["text"]["reference"],
        metrics or {},
    )
    write_bundle(
        out,
        config,
        stage1_weights=first_run.weights,
        stage2_weights=second_run.weights,
        codec_uri=codec_uri,
        codec_fingerprint=first["codec"]["fingerprint"],
        text=first["text"],
        attribution=_attribution(list(dict.fromkeys(part["data"]["uri"] for part in (first, second)))),
        card=card,
    )
    return out
