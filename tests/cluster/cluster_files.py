"""The files of cluster/, read for the tests."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml
from kubernetes_models import PodSpec, RayClusterSpec, parse
from test_readme import JOB_OF_SCRIPT

from ssmttm import config as configuration

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
RAY_JOBS = [path for path in MANIFESTS if path.name.startswith("rayjob-")]
TARGETS = ("cpu", "cuda")
CODE_IN_IMAGE = "/opt/ssmttm/"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
README = (CLUSTER / "README.md").read_text()
PINNED = dict(
    re.fullmatch(r"([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", line).groups()  # type: ignore[union-attr]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if "==" in line
)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def ray_spec(path: Path) -> RayClusterSpec | None:
    """The Ray cluster that a manifest describes, if it does."""
    spec = getattr(parse(documents(path)[0]), "spec", None)
    if isinstance(spec, RayClusterSpec):
        return spec
    return getattr(spec, "rayClusterSpec", None) or getattr(spec, "rayClusterConfig", None)


RAY_MANIFESTS = [path for path in MANIFESTS if ray_spec(path)]


def pods(path: Path) -> list[PodSpec]:
    spec, found = getattr(parse(documents(path)[0]), "spec", None), []
    cluster = ray_spec(path)
    if cluster:
        groups = [cluster.headGroupSpec, *cluster.workerGroupSpecs]
        found = [group.template.spec for group in groups]
    if hasattr(spec, "submitterPodTemplate"):
        found.append(spec.submitterPodTemplate.spec)
    return found


def gigabytes(quantity: str) -> float:
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi")) * 2**30 / 1e9


def arguments_of(path: Path) -> tuple[str, list[str]]:
    """A RayJob's script, as in this repository, and its arguments."""
    python, script, *arguments = shlex.split(documents(path)[0]["spec"]["entrypoint"])
    assert python == "python"
    return script.removeprefix(CODE_IN_IMAGE), arguments


def settings_of(path: Path) -> configuration.Config:
    script, arguments = arguments_of(path)
    place = arguments.index("--preset")
    return configuration.load(arguments[place + 1], arguments[:place] + arguments[place + 2 :], JOB_OF_SCRIPT[script])


def check_ray_start(options: list[str]) -> None:
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {option.partition("=")[0] for option in options} - known
    assert not unknown, f"ray start has no {unknown}"
