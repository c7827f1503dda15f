"""A module imports only from lower layers or its own package, and no imports go round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Everything not named here, inside the `ssmttm` package, is an error of the test: a new module must be given a layer.
LAYERS = {
    "ssmttm": 0,
    "ssmttm.errors": 0,
    "ssmttm.storage": 0,
    "ssmttm.sections": 0,
    "ssmttm.config": 0,
    "ssmttm.audio": 0,
    "ssmttm.threads": 0,
    "ssmttm.model": 1,
    "ssmttm.codec": 1,
    "ssmttm.corpus": 2,
    "ssmttm.generation": 2,
    "ssmttm.evaluation": 2,
    "ssmttm.tracking": 2,
    "ssmttm.training": 3,
    "ssmttm.doctor": 3,
    "ssmttm.census_page": 3,
    "ssmttm.comparison": 3,
    "ssmttm.listen": 3,
    "serve": 3,
    "ssmttm.cli_corpus": 4,
    "ssmttm.cli": 5,
    "jobs": 4,
    "tuning": 4,
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


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported: neither functions nor blocks for type checking."""
    for node in body:
        is_type_checking = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        if not is_type_checking and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from statements([inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)])


def imported(path: Path, on_import: bool = False) -> set[str]:
    """Project modules that a file imports anywhere, or only those that importing the file brings in."""
    source = ast.parse(path.read_text())
    found = set()
    for node in statements(source.body) if on_import else ast.walk(source):
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
        allowed = other == own or LAYERS[other] < LAYERS[own] or {own, other} <= BASE
        assert allowed, f"{module} (layer {LAYERS[own]}) imports {target} (layer {LAYERS[other]})"


def test_no_import_cycles() -> None:
    """A factory may name its products inside a function; while modules load, none may wait for itself."""
    try:
        TopologicalSorter({module: imported(path, on_import=True) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another in a circle: {' -> '.join(error.args[1])}")
