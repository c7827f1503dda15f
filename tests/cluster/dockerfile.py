"""What can be said of a Dockerfile without building it: its stages, and rules that each of ours must keep."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path

# What only tests, checks and their tools need.
NOT_FOR_IMAGES = re.compile(r"\b(dev|pytest|moto|ruff|mypy|hypothesis)\b")


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]


def read_stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name; continued lines are joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, value = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            current = stages[name.strip()] = Stage(name.strip(), base.strip())
        else:
            assert current is not None, f"{line}: before the first FROM"
            current.steps.append((instruction, value.strip()))
    return stages


def is_sent(path: str, ignore: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build; the last rule that matches decides."""
    sent = True
    for rule in (line.strip() for line in ignore.splitlines()):
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").rstrip("/")
        parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        if any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(f"/{name}", pattern) for name in parents):
            sent = rule.startswith("!")
    return sent


def problems(text: str, root: Path, ignore: str, targets: tuple[str, ...]) -> list[str]:
    """What a Dockerfile does that it must not; `targets` are the stages that are built for use."""
    stages, found = read_stages(text), []
    for stage in stages.values():
        if stage.base not in stages:
            _, _, tag = stage.base.partition(":")
            if not re.search(r"\d+\.\d+\.\d+", tag):
                found.append(f"{stage.name}: {stage.base} is not pinned to a release")
        for value in stage.values("COPY"):
            *sources, _ = [word for word in value.split() if not word.startswith("--")]
            if origin := re.search(r"--from=(\S+)", value):
                if origin[1] not in stages:
                    found.append(f"{stage.name}: COPY from {origin[1]}, which is no stage")
                continue
            for source in sources:
                if not (root / source).exists():
                    found.append(f"{stage.name}: COPY {source}, which does not exist")
                elif not is_sent(source, ignore):
                    found.append(f"{stage.name}: COPY {source}, which .dockerignore leaves out")
        if stage.values("ADD"):
            found.append(f"{stage.name}: ADD fetches or unpacks; use COPY")
        for command in stage.values("RUN"):
            for install in re.findall(r"pip install ([^&;]*)", command):
                if bad := NOT_FOR_IMAGES.search(install):
                    found.append(f"{stage.name}: installs {bad[0]}, which is for tests")
        for value in [*stage.values("ENV"), *stage.values("ARG")]:
            if re.search(r"(TOKEN|SECRET|PASSWORD|KEY|KEY_ID)=\S", value):
                found.append(f"{stage.name}: a secret in the image: {value}")
    for target in targets:
        if target not in stages:
            found.append(f"there is no target {target}")
            continue
        users = [place for place, (name, _) in enumerate(stages[target].steps) if name == "USER"]
        if not users or stages[target].steps[users[-1]][1].split(":")[0] in ("0", "root"):
            found.append(f"{target}: runs as root")
        elif any(name in ("RUN", "COPY") for name, _ in stages[target].steps[users[-1] :]):
            found.append(f"{target}: changes the image after USER")
        if not stages[target].values("LABEL"):
            found.append(f"{target}: no labels")
    return found
