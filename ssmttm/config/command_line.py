"""The command line that all jobs share, what its help tells of keys, and paths that a job can rely on."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import textwrap
from typing import Any, Literal, get_args, get_origin

import yaml

from ssmttm import storage
from ssmttm.config.loading import from_dict, load, preset_names
from ssmttm.config.sections import SECTIONS, Config, Facts, JobName
from ssmttm.errors import UserError

MEANING_COLUMN = 36  # of the help's keys


def inside_ray_job() -> bool:
    """True when this process is the driver of a submitted Ray job (its folder is Ray's temporary copy)."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def with_absolute_paths(config: Config, job: JobName) -> Config:
    """Make relative paths absolute; inside a submitted Ray job, refuse those that `job` reads.

    Raises:
        UserError: naming the key, if such a path is relative inside a Ray job.
    """
    values = config.model_dump()
    for section, kind in SECTIONS.items():
        for name, facts in kind.facts().items():
            if facts.is_path:
                refuse = job in facts.jobs and inside_ray_job()
                values[section][name] = _absolute(values[section][name], f"{section}.{name}", facts, refuse)
    return from_dict(values)


def _absolute(value: Any, key: str, facts: Facts, refuse: bool) -> Any:
    """A key's value, a path or a table of paths, made absolute, or refused if it is not."""
    if isinstance(value, dict):
        return {name: _absolute(one, f"{key}.{name}", facts, refuse) for name, one in value.items()}
    if value is None or value in facts.words or not value.startswith(facts.scheme):
        return value
    path = value.removeprefix(facts.scheme)
    home = path.startswith("~/")  # a shell leaves it as it is behind KEY=
    absolute = facts.scheme + storage.absolute(os.path.expanduser(path) if home else path)
    if refuse and value != absolute:
        example = f"{facts.scheme}/shared/{path}" if facts.scheme else f"s3://bucket/{path}"
        raise UserError(
            f"{key}={value} is relative, and a Ray job runs in a temporary copy of the folder; "
            f"give {''.join(f'{word}, ' for word in facts.words)}an absolute path or URI, e.g. {key}={example}"
        )
    return absolute


def help_on_keys(job: JobName) -> str:
    """Every key that a job reads, with its default, meaning and choices, for a terminal of this width."""
    width = max(shutil.get_terminal_size().columns - 2, 2 * MEANING_COLUMN)
    lines = ["keys and their defaults, which presets change (--show: as they are then):"]
    for section, kind in SECTIONS.items():
        for name, facts in kind.facts().items():
            if job not in facts.jobs:
                continue
            field = kind.model_fields[name]
            default = field.default if isinstance(field.default, str) else json.dumps(field.default)
            head = f"  {section}.{name}={default}"
            if len(head) > MEANING_COLUMN - 2:
                lines.append(head)
                head = ""
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            text = facts.meaning + (f" [{', '.join(map(str, choices))}]" if choices else "")
            margin = " " * MEANING_COLUMN
            lines += textwrap.wrap(text, width, initial_indent=head.ljust(len(margin)), subsequent_indent=margin)
    return "\n".join(lines)


def parse_arguments(description: str, job: JobName, argv: list[str] | None = None) -> Config:
    """Command line shared by all jobs: `--preset NAME|FILE` and dotted overrides; paths come out absolute."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=help_on_keys(job).replace("%", "%%"),
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
