"""A module imports only from lower layers or its own package, and no imports go round in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Everything not named here, inside the `ssmttm` package, is an error of the test: a new module must be given a layer.
LAYERS = {
    "ssmttm": 0,
    "ssmttm.errors": 0,
    "ssmttm.storage": 0,
    "ssmttm.lease": 0,
    "ssmttm.cluster": 0,
    "ssmttm.licences": 0,
    "ssmttm.spreadsheet": 0,
    "ssmttm.registry": 0,
    "ssmttm.config": 0,
    "ssmttm.audio": 0,
    "ssmttm.opener": 0,
    "ssmttm.containers": 0,
    "ssmttm.tags": 0,
    "ssmttm.hardware": 0,
    "ssmttm.tensors": 0,
    "ssmttm.verified": 0,
    "ssmttm.conditions": 1,
    "ssmttm.codec": 1,
    "ssmttm.model": 1,
    "ssmttm.composer": 2,
    "ssmttm.sources": 2,
    "ssmttm.tokens": 2,
    "ssmttm.bundle": 2,
    "ssmttm.engine": 2,
    "ssmttm.tracking": 2,
    "ssmttm.training": 3,
    "ssmttm.evaluation": 3,
    "ssmttm.reports": 3,
    "serve": 3,
    "ssmttm.cli": 4,
    "ssmttm.cli_corpus": 4,
    "ssmttm.cli_doctor": 4,
    "ssmttm.cli_verify": 4,
    "jobs": 4,
    "tuning": 4,
}
# Inside a layer: what a room may use of its neighbours besides.
NEIGHBOURS = {
    "ssmttm.model": {"ssmttm.conditions"},
    "ssmttm.sources": {"ssmttm.composer"},
    "ssmttm.tokens": {"ssmttm.sources"},
    "ssmttm.bundle": {"ssmttm.tokens"},
    "ssmttm.engine": {"ssmttm.bundle"},
    "ssmttm.reports": {"ssmttm.evaluation"},
    "ssmttm.cli": {"ssmttm.cli_corpus", "ssmttm.cli_doctor", "ssmttm.cli_verify"},
}
BASE = {name for name, layer in LAYERS.items() if layer == 0}  # layer 0 is one unit: its files may use one another


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def project_modules() -> dict[str, Path]:
    folders = ("ssmttm", "serve", "jobs", "tuning")
    return {module_name(path): path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))}


MODULES = project_modules()


def unit_of(module: str) -> str:
    """The package, or single file of layer 0, 2 or 4, that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "ssmttm" else parts[0]


def imported(path: Path) -> set[str]:
    """Project modules that a file imports anywhere."""
    source = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; imports are absolute in this project"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in MODULES else str(node.module))
    return {module for module in found if module in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module: str) -> None:
    own = unit_of(module)
    assert own in LAYERS, f"{module} has no layer: add {own} to LAYERS"
    for target in imported(MODULES[module]):
        other = unit_of(target)
        allowed = (
            other == own or LAYERS[other] < LAYERS[own] or {own, other} <= BASE or other in NEIGHBOURS.get(own, ())
        )
        assert allowed, f"{module} (layer {LAYERS[own]}) imports {target} (layer {LAYERS[other]})"


def test_no_import_cycles() -> None:
    """Nor inside a package, a function or a block for type checking: a circle that is hidden is a circle."""
    try:
        TopologicalSorter({module: imported(path) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another in a circle: {' -> '.join(error.args[1])}")
