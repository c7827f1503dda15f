"""The model card that travels in a bundle's README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

import ssmttm
from ssmttm.codec.registry import CODECS
from ssmttm.conditions.handles import words_of
from ssmttm.config import Config

OBJECTIVES = {"flow": "flow matching", "v": "v-prediction", "regression": "regression"}
ENCODER_LICENCES = {"minilm": "all-MiniLM-L6-v2 (sentence-transformers), Apache-2.0"}


@dataclass(frozen=True)
class TrainingCost:
    """What one part cost: hours of wall-clock time, and floating-point operations where they were counted. Whatever the
    weights cost that its training began with is part of both."""

    hours: float
    flops: float | None = None
    parameters: int | None = None

    def after(self, earlier: TrainingCost) -> TrainingCost:
        """This training's cost, and that of the weights it began with."""
        flops = None if self.flops is None or earlier.flops is None else self.flops + earlier.flops
        return TrainingCost(self.hours + earlier.hours, flops, self.parameters)


@dataclass(frozen=True)
class TrainingData:
    """A data set that a stage learned from.

    name: the beginning of its fingerprint. stages: who learned from it. seconds_by_licence: its audio, in seconds, by
    licence family. allow_licences: the families that were let in. rejects: number of tracks and segments refused.
    """

    name: str
    stages: tuple[str, ...]
    seconds_by_licence: dict[str, float]
    allow_licences: tuple[str, ...]
    rejects: int


@dataclass(frozen=True)
class CardFields:
    """What the card says besides the configuration.

    data: what was learned from. costs: by part ("codec", "stage1", "stage2").
    metrics: name to value, measured on held-out prompts.
    started_from: by stage, whose weights its training began with. uncounted: the stages for which nobody knows what
    these had cost. codec_data: the records of what codec and vocoder learned from (`ClipReader.record`), None where
    nobody wrote one; empty for a published codec. changes: by stage, a line about each setting that its training went
    on with another value of.
    """

    data: Sequence[TrainingData]
    costs: dict[str, TrainingCost]
    text_reference: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    started_from: dict[str, str] = field(default_factory=dict)
    uncounted: frozenset[str] = frozenset()
    codec_data: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | int | None, form: str) -> str:
    return "not recorded" if value is None else format(value, form)


def _hours(seconds_by_licence: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds / 3600, 3) for name, seconds in sorted(seconds_by_licence.items())}


def _metadata(card: CardFields) -> str:
    """The YAML header that the Hugging Face hub reads. The data's licences stand under a key of our own, because
    `license` is the weights', which is for those to choose who publish them."""
    values = {
        "library_name": "ssmttm",
        "pipeline_tag": "text-to-audio",
        "language": ["en"],
        "tags": ["music", "text-to-music", "state-space-model"],
        "training_data": [
            {
                "name": data.name,
                "stages": list(data.stages),
                "allow_licences": list(data.allow_licences),
                "hours_by_licence": _hours(data.seconds_by_licence),
                "rejects": data.rejects,
            }
            for data in card.data
        ],
        "codec_training_data": [
            {
                "part": part,
                "recordings": data["tracks"],
                "allow_licences": data["allow_licences"],
                "hours_by_licence": _hours(data["seconds_by_licence"]),
                "rejects": data["rejects"],
            }
            for part, data in card.codec_data.items()
            if data is not None
        ],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---"


def _training_data(config: Config, card: CardFields) -> list[str]:
    is_fitted = CODECS.find(config.codec.name).is_fitted
    parts = card.codec_data or ({"codec": None} if is_fitted else {})
    sets, codec = card.data, {part: data for part, data in parts.items() if data is not None}
    seconds = sum(sum(data.seconds_by_licence.values()) for data in sets)
    what = "A data set" if len(sets) == 1 else f"{len(sets)} data sets"
    by_licence = [(data.name, data.seconds_by_licence) for data in sets]
    by_licence += [(part, data["seconds_by_licence"]) for part, data in codec.items()]
    hours = [(name, family, f"{s / 3600:.2f}") for name, found in by_licence for family, s in sorted(found.items())]
    rules = [(data.name, ", ".join(data.stages), ", ".join(data.allow_licences), f"{data.rejects:,}") for data in sets]
    rules += [(part, part, ", ".join(data["allow_licences"]), f"{data['rejects']:,}") for part, data in codec.items()]
    return [
        f"{what} of {seconds / 3600:.2f} hours of recordings under the licences below, some of them held out for "
        "measuring. `ATTRIBUTION.csv` names every one of them.",
        *(_learned_by_codec(part, data) for part, data in parts.items()),
        *([] if parts else ["The codec is a published one; its own card says what it learned from."]),
        _table(("data", "licence", "hours"), hours),
        "Only recordings under a licence of a row's allow-list are let in, and what a row counts as refused, for this "
        "or another reason, was not learned from there.",
        _table(("data", "learned by", "allow-list", "refused"), rules),
    ]


def _learned_by_codec(part: str, data: dict[str, Any] | None) -> str:
    if data is None:
        return f"What the {part} learned from was not recorded when it was trained; nothing is claimed of it here."
    seconds = sum(data["seconds_by_licence"].values())
    return (
        f"The {part} learned from {data['tracks']:,} recordings ({seconds / 3600:.2f} hours) and refused "
        f"{data['rejects']:,}; those it learned from or was measured on are in `ATTRIBUTION.csv` too."
    )


def _stages(config: Config) -> str:
    stage1 = config.stage1
    begin = (
        f"- Stage 1, `{stage1.backbone}` ({stage1.layers} layers, width {stage1.width}): reads the prompt's text "
        "states as a prefix and writes "
    )
    if stage1.num_codebooks > 1:
        return (
            f"{begin}the first {stage1.num_codebooks} of the codec's {config.codec.num_codebooks} codebooks, with the "
            "delay pattern.\n- There is no stage 2: the fine latents are those codebooks' entries."
        )
    return (
        f"{begin}codebook 0 of the codec, frame by frame.\n"
        f"- Stage 2, {OBJECTIVES[config.stage2.objective]} with a `{config.stage2.denoiser}` denoiser: completes the "
        "fine latents."
    )


def _asked_by(controls: Sequence[str]) -> list[str]:
    words = words_of(controls)
    if not words:
        return ["It can be asked by text alone."]
    examples = {"prompt": "calm solo piano, slow", **words}
    rows = [(word, f"`{json.dumps(one)}`".replace("|", "\\|")) for word, one in examples.items()]  # no borders of cells
    return ["It can be asked by:", _table(("word", "example"), rows)]


def model_card(model_id: str, config: Config, card: CardFields, controls: Sequence[str] = ()) -> str:
    """Markdown: what the model is, what it learned from, what it cost, what it is for and where it fails.

    Args:
        controls: by frame, that stage 1 takes.
    """
    costs = _table(
        ("part", "parameters", "training FLOPs", "training hours"),
        [
            (part, _number(cost.parameters, ","), _number(cost.flops, ".2e"), f"{cost.hours:.2f}")
            for part, cost in card.costs.items()
        ],
    )
    flops = [cost.flops for cost in card.costs.values() if cost.flops is not None]
    hours = sum(cost.hours for cost in card.costs.values())
    kind = card.text_reference["encoder"]
    encoder = ENCODER_LICENCES.get(kind, f"{card.text_reference.get('path')}, under the licence of its own card")
    sections = [
        _metadata(card),
        f"# {model_id}",
        "Text to music: a prompt in English becomes a mono recording. Made with "
        f"ssmttm {ssmttm.__version__}, preset `{config.preset}`.",
        "## How it works",
        f"{_stages(config)}\n"
        f"- Codec `{config.codec.name}` at {config.codec.sample_rate} Hz turns latents into sound.\n"
        f"- Text encoder, frozen and not in this bundle: {encoder}.",
        "## Use",
        '```sh\nssmttm generate "calm solo piano, slow" --seconds 10 --out music.wav --bundle FOLDER\n```',
        *_asked_by(controls),
        "## Training data",
        *_training_data(config, card),
        *(
            f"{stage} did not begin with random weights but with those of `{name}`; what these had learned from is "
            "named in `ATTRIBUTION.csv` too, and their training is "
            f"{'not ' if stage in card.uncounted else ''}part of the cost below."
            for stage, name in card.started_from.items()
        ),
        *(
            f"{stage} was not trained in one way from end to end: {'; '.join(lines)}."
            for stage, lines in card.changes.items()
        ),
        "## Training cost",
        f"In all {_number(sum(flops) if flops else None, '.2e')} FLOPs and {hours:.2f} hours.",
        costs,
    ]
    if card.metrics:
        rows = [(name, f"{value:.3f}") for name, value in card.metrics.items()]
        sections += ["## Results on held-out prompts", _table(("measure", "value"), rows)]
    sections += [
        "## Intended use",
        "Research on text-to-music models, teaching, sketches and background music. Every file that ssmttm writes says "
        "in its metadata that it is AI-generated, with model, prompt and seed; keep that mark when you pass files on.",
        "## Limitations",
        "- The music can only be as varied as the training data above, and prompts far from its captions are followed "
        "loosely.\n"
        "- No vocals or lyrics; mono.\n"
        "- Rhythm, melody and harmony wander in long pieces: the model remembers the past in a state of fixed size.\n"
        "- Do not present its output as the work of a person, or as a recording of any artist named in a prompt.",
    ]
    return "\n\n".join(sections) + "\n"
