"""The Dockerfile keeps its rules, and every file names the image by the same name and version."""

from __future__ import annotations

import re
import tomllib

import pytest
from cluster_files import CLUSTER, DOCKERFILE, MANIFESTS, PINNED, README, ROOT, TARGETS
from dockerfile import problems, read_stages

import ssmttm


def test_dockerfile() -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    assert not problems(DOCKERFILE, ROOT, ignore, TARGETS)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "not pinned"),
        ("COPY jobs ", "COPY jobz ", "does not exist"),
        ("COPY jobs ", "COPY tests ", ".dockerignore leaves out"),
        ("--from=build-cpu", "--from=build-cpp", "no stage"),
        ("USER 1000:1000", "USER root", "runs as root"),
        ('CMD ["ssmttm", "doctor"]', "RUN chmod +x /bin/sh", "after USER"),
        ('".[${EXTRAS}]"', '".[dev]"', "for tests"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=abc", "a secret"),
        ("AS cuda", "AS gpu", "no target cuda"),
    ],
)
def test_dockerfile_rules_find(old: str, new: str, problem: str) -> None:
    assert old in DOCKERFILE
    found = problems(DOCKERFILE.replace(old, new), ROOT, (ROOT / ".dockerignore").read_text(), TARGETS)
    assert any(problem in one for one in found), found


def test_the_image_has_the_projects_versions() -> None:
    stages = read_stages(DOCKERFILE)
    installed = set(re.findall(r"torch==(\S+)", DOCKERFILE))
    assert installed == {PINNED["torch"]}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"EXTRAS=(\w+)", "\n".join(stages["build-cpu"].values("ARG")))) <= set(extras)
    for name in ("mamba-ssm", "causal-conv1d"):  # built by hand: the same as the extra wants
        (wanted,) = (one for one in extras["cuda"] if one.startswith(name))
        assert f'"{wanted}"' in DOCKERFILE
    for target in TARGETS:
        assert f'version="{ssmttm.__version__}"' in " ".join(stages[target].values("LABEL"))


def test_every_image_is_one_of_ours_at_this_version() -> None:
    text = "\n".join(path.read_text() for path in [*MANIFESTS, CLUSTER / "ray-cluster.yaml"])
    images = set(re.findall(r"^\s+(?:worker_)?image: (\S+)", text, flags=re.MULTILINE))
    assert images == {f"CHANGE-ME-REGISTRY/ssmttm:{ssmttm.__version__}-{target}" for target in TARGETS}
    for target in TARGETS:
        assert re.search(rf"--target {target}\s+-t \S+/ssmttm:{ssmttm.__version__}-{target} \.", README)
