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
from pydantic import BaseModel, ValidationError

from ssmttm import storage
from ssmttm.config.sections import (
    Backbone,
    CodecConfig,
    Config,
    CorpusConfig,
    EvaluateConfig,
    GenerationConfig,
    Section,
    Stage1Config,
    Stage2Config,
    TextConfig,
    TrackingConfig,
    TrainConfig,
    VocoderConfig,
)
from ssmttm.errors import UserError

__all__ = [
    "Backbone",
    "CodecConfig",
    "Config",
    "CorpusConfig",
    "EvaluateConfig",
    "GenerationConfig",
    "Section",
    "Stage1Config",
    "Stage2Config",
    "TextConfig",
    "TrackingConfig",
    "TrainConfig",
    "VocoderConfig",
    "from_dict",
    "inside_ray_job",
    "load",
    "parse_arguments",
    "preset_names",
    "with_absolute_paths",
    "with_overrides",
]

JobName = Literal["corpus", "codec", "preprocess", "stage1", "stage2", "evaluate"]

EVALUATION_INPUTS = ("audio", "reference", "training", "training_codes", "clap", "tagger", "embeddings")
PATH_FIELDS = (
    ("corpus", "source"),
    ("corpus", "out"),
    ("codec", "path"),
    ("text", "path"),
    ("train", "data"),
    ("train", "out"),
    ("train", "deepspeed"),
    ("train", "init"),
    ("evaluate", "bundle"),
    ("evaluate", "out"),
    *(("evaluate", name) for name in EVALUATION_INPUTS),
)
# What each job reads and writes; a submitted job must name these by absolute path, and no others.
PATHS_OF_JOB: dict[JobName, tuple[tuple[str, str], ...]] = {
    "corpus": (("corpus", "source"),),
    "codec": (("corpus", "source"), ("codec", "path"), ("train", "out")),
    "preprocess": (("corpus", "source"), ("corpus", "out"), ("codec", "path"), ("text", "path")),
    "stage1": (("train", "data"), ("train", "out"), ("train", "deepspeed"), ("train", "init")),
    "stage2": (("train", "data"), ("train", "out"), ("train", "deepspeed"), ("train", "init")),
    "evaluate": (
        ("corpus", "source"),
        ("train", "data"),
        ("evaluate", "bundle"),
        ("evaluate", "out"),
        *(("evaluate", name) for name in EVALUATION_INPUTS),
    ),
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


def with_overrides(config: Config, overrides: list[str]) -> Config:
    """A resolved configuration with some keys changed, `section.key=value` each.

    Raises:
        UserError: for a malformed override, an unknown key or a bad value.
    """
    return from_dict(_merge(config.model_dump(), _override_table(overrides)))


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

    def absolute(uri: str, key: str, is_refused: bool) -> str:
        if is_refused and uri != storage.absolute(uri):
            raise UserError(
                f"{key}={uri} is relative, and a Ray job runs in a temporary copy of the folder; "
                f"give an absolute path or URI, e.g. {key}=s3://bucket/{uri}"
            )
        return storage.absolute(uri)

    for section, field in PATH_FIELDS:
        if values[section][field] is not None:
            is_refused = (section, field) in refused
            values[section][field] = absolute(values[section][field], f"{section}.{field}", is_refused)
    systems = values["evaluate"]["systems"]
    values["evaluate"]["systems"] = {
        name: absolute(uri, f"evaluate.systems.{name}", bool(refused) and job in (None, "evaluate"))
        for name, uri in systems.items()
    }
    return from_dict(values)


def parse_arguments(description: str, job: JobName, argv: list[str] | None = None) -> Config:
    """Command line shared by all jobs: `--preset NAME|FILE` and dotted overrides; paths come out absolute."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Keys: "
        + "; ".join(f"{name}.*" for name in Config.model_fields if name != "preset")
        + ". See ssmttm/config/sections.py for every key, or pass --show to print the resolved configuration.",
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
