"""docs/layout.md: every room is listed, nothing is listed that is not there, and its layers are those of the tests."""

from __future__ import annotations

import re
from pathlib import Path

from test_layers import LAYERS

ROOT = Path(__file__).parent.parent
LAYOUT = (ROOT / "docs" / "layout.md").read_text()
OF_USERS = {
    "build",
    "data",
    "dist",
    "models",
    "runs",
}  # not of the repository: what builds and the guides' commands leave


def tree() -> set[str]:
    """Paths of the listing: lines are indented names, each followed by its purpose."""
    (listing,) = re.findall(r"^```text\n(ssmttm/.*?)^```", LAYOUT, flags=re.MULTILINE | re.DOTALL)
    found, folders = set(), []
    for line in listing.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        path = "/".join(folders)
        assert path not in found, f"docs/layout.md lists {path} twice"
        found.add(path)
        assert len(line.split()) > 1, f"{path} has no purpose beside it"
        assert (ROOT / path).is_dir() == name.endswith("/"), f"docs/layout.md lists {path}, which does not exist"
    return found


def names(paths: list[Path]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in paths if not path.name.startswith(("_", "."))}


def rooms(folder: Path) -> set[str]:
    """The folders directly below it that hold files of their own, as paths from the root."""
    return names([path for path in folder.iterdir() if path.is_dir() and any(one.is_file() for one in path.iterdir())])


def test_every_room_is_listed_and_exists() -> None:
    top = {path.relative_to(ROOT).parts[0] for pattern in ("*/*.py", "*/*.md") for path in ROOT.glob(pattern)}
    wanted = {name for name in top if not name.startswith(".")} - OF_USERS | rooms(ROOT / "ssmttm")
    missing = wanted - tree()
    assert not missing, f"docs/layout.md leaves out: {sorted(missing)}"


def test_every_entry_point_is_listed() -> None:
    commands = [path for path in (ROOT / "tuning").glob("*.py") if "__main__" in path.read_text()]
    missing = names([*(ROOT / "ssmttm").glob("*.py"), *(ROOT / "jobs").glob("*.py"), *commands]) - tree()
    assert not missing, f"docs/layout.md leaves out: {sorted(missing)}"


def test_tests_mirror_the_rooms() -> None:
    listed = tree()
    for folder in {path.parent for path in (ROOT / "tests").glob("*/test_*.py")}:
        homes = {folder.name, f"ssmttm/{folder.name}", f"tests/{folder.name}"}
        assert homes & listed, f"tests/{folder.name} mirrors no room; list it in docs/layout.md"


def test_the_layers_are_those_of_the_tests() -> None:
    stated: dict[str, int] = {}
    for number, cells in re.findall(r"^\| (\d) \| (.*) \|$", LAYOUT, flags=re.MULTILINE):
        for name in re.findall(r"`([^`*]+)`", cells):
            stated[name.replace("/", ".")] = int(number)
    rooms_held = {unit: layer for unit, layer in LAYERS.items() if (ROOT / unit.replace(".", "/")).is_dir()}
    del rooms_held["ssmttm"]
    assert stated == rooms_held
