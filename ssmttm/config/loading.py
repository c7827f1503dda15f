"""How a configuration is put together: defaults, base, preset, the preset's entry for this job, overrides, in that
order of precedence.

Presets are YAML data. One may name another as its `base`, and hold a `jobs` table (`jobs.stage1.train.steps`): what one
job changes in the common sections. Overrides are dotted; unknown keys name the nearest valid one.
"""

from __future__ import annotations

import difflib
from contextlib import suppress
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ssmttm import storage
from ssmttm.config.sections import Config, JobName
from ssmttm.errors import UserError

PRESETS = resources.files("ssmttm") / "config" / "presets"


def preset_names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in PRESETS.iterdir() if entry.name.endswith(".yaml"))


def _read_preset(name_or_file: str) -> dict[str, Any]:
    if name_or_file in preset_names():
        text = (PRESETS / f"{name_or_file}.yaml").read_text()
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
        if first["type"] == "value_error":  # a check of ours, which names what it was given
            return f"{dotted}: {first['ctx']['error']}"
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
