"""Typed, frozen configuration: presets are YAML data, overrides are dotted, unknown keys name the nearest valid one.

A preset may name another as its `base`, and hold a `jobs` table (`jobs.stage1.train.steps`): what one job changes in
the common sections. Order of precedence: defaults, base, preset, the preset's entry for this job, command-line
overrides.
"""

from __future__ import annotations

import argparse
import difflib
import os
from contextlib import suppress
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssmttm import storage
from ssmttm.errors import UserError

JobName = Literal["corpus", "codec", "preprocess", "stage1", "stage2", "evaluate"]


Backbone = Literal["prefix_simba", "prefix_mamba", "prefix_transformer", "cross_simba", "cross_transformer"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusConfig(Section):
    source: str = Field("runs/demo/corpus", description="folder or URI holding the audio and its manifest.jsonl")
    format: Literal["auto", "manifest", "folder", "mtg-jamendo", "fma"] = Field(
        "auto", description="layout of the source; auto recognises each"
    )
    out: str = Field("runs/demo/tokens", description="folder or URI for the token shards")
    default_licence: str | None = Field(None, description="licence of tracks that state none, e.g. own-work")
    allow_licences: tuple[str, ...] = Field(
        ("public-domain", "CC0-1.0", "CC-BY", "CC-BY-SA", "own-work"), description="licence families let in"
    )
    hours: float = Field(1.0, gt=0, description="hours to compose (demo corpus)")
    clip_seconds: float = Field(10.0, gt=0, description="length of a composed clip")
    segment_seconds: float = Field(10.0, gt=0, description="length of a training segment")
    segments: Literal["all", "middle"] = Field("all", description="all: cut at a fixed hop; middle: one of each track")
    hop_seconds: float | None = Field(None, gt=0, description="from one segment to the next; default: end to end")
    minimum_seconds: float = Field(1.0, gt=0, description="shorter segments are rejected")
    loudness: float | None = Field(
        None, lt=0, description="LUFS (ITU-R BS.1770) every segment is brought to; off: as is"
    )
    silence_dbfs: float = Field(-60.0, lt=0, description="segments whose peak lies below are rejected")
    maximum_clipped: float = Field(0.05, gt=0, le=1, description="share of samples at full scale a segment may have")
    duplicates: Literal["reject", "keep"] = Field("reject", description="the same audio under a second name")
    maximum_rejects: float = Field(1.0, ge=0, le=1, description="share of rejected tracks beyond which the job fails")
    vocals: Literal["keep", "remove"] = Field("keep", description="remove: separate them with demucs (extra: vocals)")
    captioner: str | None = Field(None, description="folder of an audio LLM (Qwen2-Audio) that captions what has none")
    rephrased: str | None = Field(None, description="JSON lines {id, captions} whose captions are added to the tracks'")
    tag_captions: int = Field(3, ge=0, description="captions written from the tags of a track that has none")
    actors: int | None = Field(None, gt=0, description="encoder processes; default: one per CPU, or per GPU if any")
    gpus_per_actor: float = Field(0.0, ge=0, description="share of a GPU that each encoder process takes")
    rows_per_shard: int = Field(128, gt=0)
    captions_per_track: int = Field(6, gt=0, description="captions composed for each piece (demo corpus)")
    seed: int = 0


class CodecConfig(Section):
    name: Literal["mini", "dac", "encodec"] = Field(
        "mini", description="mini: fitted here; dac, encodec: a published checkpoint"
    )
    path: str = Field("runs/demo/codec", description="folder of the fitted or downloaded codec")
    sample_rate: int = 24_000
    fft_size: int = 2048
    hop: int = Field(480, description="samples between mel frames (50 Hz at 24 kHz)")
    num_mels: int = 192
    pca_dim: int = 64
    stack: int = Field(2, description="mel frames per code frame")
    num_codebooks: int = 8
    codebook_size: int = 1024
    griffin_lim_iterations: int = 8
    fit_clips: int = Field(400, description="clips used to fit the codec")


class TextConfig(Section):
    encoder: Literal["minilm", "transformers"] = "minilm"
    path: str | None = Field(None, description="folder of a transformers text encoder (encoder=transformers)")
    dim: int | None = Field(None, description="dimensions of its states; an encoder with others is refused")
    max_tokens: int = Field(96, description="longer prompts are an error, never cut")


class Stage1Config(Section):
    """Prefix language model over codebook 0. Sizes follow Mamba-2's names (arXiv 2405.21060)."""

    backbone: Backbone = "prefix_simba"
    width: int = 256
    layers: int = 6
    state_size: int = 64
    head_dim: int = 64
    expand: int = 2
    conv_kernel: int = 4
    groups: int = 1
    chunk_size: int = 64
    mlp_ratio: float = 2.0
    dropout: float = 0.1
    token_dropout: float = Field(
        0.3, ge=0, lt=1, description="share of input codes hidden in training: leans on the text"
    )
    positions: Literal["none", "sinusoidal"] = "none"
    max_frames: int = Field(0, ge=0, description="longest piece that sinusoidal positions are trained for; 0: any")
    num_codebooks: int = Field(1, description="codebooks modelled by the language model, with the delay pattern")
    null_probability: float = Field(0.1, description="share of samples trained on the null prefix")
    pooled: bool = Field(True, description="add one text vector in every layer")
    pooled_init_std: float = 0.001
    pooled_lr_factor: float = Field(1.0, description="learning rate of the pooled path relative to the rest")
    tie_head: bool = Field(True, description="output head shares the token table")
    codebook_features: bool = Field(True, description="token table = learned + linear(codebook vector)")


class Stage2Config(Section):
    """Flow matching from coarse latents (and text) to fine latents."""

    denoiser: Literal["convnext"] = "convnext"
    width: int = 256
    layers: int = 8
    kernel_size: int = 7
    expand: int = 3
    null_probability: float = Field(0.15, description="share of samples trained without text")
    crop_frames: int = Field(0, description="train on random crops of this many frames; 0: the whole segment")


class TrainConfig(Section):
    data: str = Field("runs/demo/tokens", description="token shards")
    out: str = Field("runs", description="folder or URI that holds all runs")
    name: str | None = Field(None, description="run name; default: the job's")
    steps: int = Field(1000, gt=0, description="optimizer steps")
    launch: Literal["ray", "local"] = Field("ray", description="local: in process, plain torch, without Ray")
    workers: int = Field(1, gt=0)
    cpus_per_worker: float = Field(1, gt=0)
    use_gpu: bool = False
    global_batch: int = Field(16, gt=0, description="sequences per optimizer step over all workers")
    micro_batch: int = Field(8, gt=0, description="sequences per worker and forward pass, at most")
    zero: Literal[0, 1, 2, 3] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    lr: float = Field(2e-3, gt=0)
    min_lr_ratio: float = 0.02
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: none")
    seed: int = 0
    resume: str = Field("auto", description="auto, never, or the URI of a checkpoint")
    checkpoint_every: int = Field(200, description="optimizer steps between two checkpoints, at most")
    checkpoint_minutes: float | None = Field(None, gt=0, description="save also when the last is this old")
    keep_checkpoints: int = Field(2, description="how many of the newest stay")
    keep_best: bool = Field(False, description="keep the checkpoint of the lowest validation loss besides")
    validate_every: int = 200
    validation_rows: int = 64
    samples: int = Field(2, description="audio samples logged at the end of training")
    log_every: int = 10
    max_failures: int = 2
    max_skipped: int = Field(20, description="non-finite steps in a row before training gives up")


class TrackingConfig(Section):
    enabled: bool = True
    uri: str | None = Field(None, description="MLflow tracking URI; default: sqlite in train.out")
    experiment: str = "ssmttm"


class GenerationConfig(Section):
    """Defaults that travel with the bundle."""

    guidance: float = 2.5
    temperature: float = 1.0
    top_k: int = 250
    steps: int = Field(8, description="sampling steps of stage 2")
    stage2_guidance: float = 1.0
    window_frames: int = Field(100, description="code frames per stage-2 window, context included")
    context_frames: int = Field(24, description="of which finished frames on the left")
    lookahead_frames: int = Field(12, description="and coarse frames on the right")
    max_seconds: float = 600.0
    max_prompt_chars: int = 1000


class EvaluateConfig(Section):
    bundle: str = Field("runs/demo/bundle", description="folder of the model to evaluate")
    out: str = Field("runs/demo/evaluation", description="folder or URI for evaluation.json and the clips")
    clips: int = Field(96, gt=1, description="held-out prompts")
    shown: int = Field(8, gt=0, description="of which made one by one, timed, for the report")
    probe_clips: int = Field(800, gt=1, description="real training clips that the probes learn from")
    free_form: int = Field(32, gt=0, description="prompts in people's own words, of those there are")
    batch: int = Field(16, gt=0, description="clips made at once")
    seed: int = 0


class Config(Section):
    preset: str = "mini"
    corpus: CorpusConfig = CorpusConfig()
    codec: CodecConfig = CodecConfig()
    text: TextConfig = TextConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


PATH_FIELDS = (
    ("corpus", "source"),
    ("corpus", "out"),
    ("codec", "path"),
    ("text", "path"),
    ("train", "data"),
    ("train", "out"),
    ("evaluate", "bundle"),
    ("evaluate", "out"),
)
# What each job reads and writes; a submitted job must name these by absolute path, and no others.
PATHS_OF_JOB: dict[JobName, tuple[tuple[str, str], ...]] = {
    "corpus": (("corpus", "source"),),
    "codec": (("corpus", "source"), ("codec", "path"), ("train", "out")),
    "preprocess": (("corpus", "source"), ("corpus", "out"), ("codec", "path"), ("text", "path")),
    "stage1": (("train", "data"), ("train", "out")),
    "stage2": (("train", "data"), ("train", "out")),
    "evaluate": (("corpus", "source"), ("train", "data"), ("evaluate", "bundle"), ("evaluate", "out")),
}


def preset_names() -> list[str]:
    folder = resources.files("ssmttm") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_preset(name_or_file: str) -> dict[str, Any]:
    if name_or_file in preset_names():
        text = (resources.files("ssmttm") / "presets" / f"{name_or_file}.yaml").read_text()
    elif name_or_file.endswith((".yaml", ".yml")):
        text = storage.read_text(name_or_file)
    else:
        raise UserError(f"unknown preset '{name_or_file}'; use one of {', '.join(preset_names())} or a .yaml file")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"preset {name_or_file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"preset {name_or_file} must be a table of sections")
    base = values.pop("base", None)
    return {**_merge(_read_preset(base) if base else {}, values), "preset": name_or_file}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override_table(overrides: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise UserError(f"'{override}' is not an override; write section.key=value")
        parts = key.split(".")
        entry: Any = yaml.safe_load(value) if value else None
        if isinstance(entry, str):
            with suppress(ValueError):
                entry = float(entry)  # YAML reads 1e-3 as text
        for part in reversed(parts):
            entry = {part: entry}
        table = _merge(table, entry)
    return table


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    dotted = ".".join(location)
    if first["type"] != "extra_forbidden":
        return f"{dotted}: {first['msg']} (got {first['input']!r})"
    model: type[BaseModel] = Config
    for part in location[:-1]:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    valid = list(model.model_fields)
    nearest = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.0)[0]
    prefix = ".".join(location[:-1])
    return f"unknown key {dotted}; did you mean {prefix + '.' if prefix else ''}{nearest}?"


def from_dict(values: dict[str, Any]) -> Config:
    """Validate a resolved configuration.

    Raises:
        UserError: for an unknown key (naming the nearest valid one) or a bad value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def load(preset: str = "mini", overrides: list[str] | None = None, job: JobName | None = None) -> Config:
    """Resolve preset, the preset's entry for `job`, and dotted overrides into a `Config`.

    Raises:
        UserError: for an unknown preset, a malformed override, an unknown key or a bad value.
    """
    values = _read_preset(preset)
    for_job = values.pop("jobs", {})
    if job is not None:
        values = _merge(values, for_job.get(job, {}))
    return from_dict(_merge(values, _override_table(overrides or [])))


def inside_ray_job() -> bool:
    """True when this process is the driver of a submitted Ray job (its folder is Ray's temporary copy)."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def with_absolute_paths(config: Config, job: JobName | None = None) -> Config:
    """Make relative paths absolute; inside a submitted Ray job, refuse those that `job` uses (without one: all).

    Raises:
        UserError: naming the key, if such a path is relative inside a Ray job.
    """
    refused = () if not inside_ray_job() else PATH_FIELDS if job is None else PATHS_OF_JOB[job]
    values = config.model_dump()
    for section, field in PATH_FIELDS:
        uri = values[section][field]
        if uri is None:
            continue
        if (section, field) in refused and uri != storage.absolute(uri):
            raise UserError(
                f"{section}.{field}={uri} is relative, and a Ray job runs in a temporary copy of the folder; "
                f"give an absolute path or URI, e.g. {section}.{field}=s3://bucket/{uri}"
            )
        values[section][field] = storage.absolute(uri)
    return from_dict(values)


def parse_arguments(description: str, job: JobName, argv: list[str] | None = None) -> Config:
    """Command line shared by all jobs: `--preset NAME|FILE` and dotted overrides; paths come out absolute."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Keys: "
        + "; ".join(f"{name}.*" for name in Config.model_fields if name != "preset")
        + ". See ssmttm/config.py for every key, or pass --show to print the resolved configuration.",
    )
    parser.add_argument("--preset", default="mini", help=f"{', '.join(preset_names())} or a YAML file (default: mini)")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. train.steps=500")
    arguments = parser.parse_args(argv)
    config = load(arguments.preset, arguments.overrides, job)
    if arguments.show:
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        raise SystemExit(0)
    return with_absolute_paths(config, job)
