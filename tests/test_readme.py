"""What the documents promise exists: targets, scripts, verbs, flags, configuration keys, links and the file tree."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ssmttm import config as configuration

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "cluster/*.md", "jobs/*.md", "serve/*.md", "tuning/*.md", "ssmttm/**/*.md")
    for path in ROOT.glob(pattern)
)
JOB_OF_SCRIPT: dict[str, Any] = {
    "jobs/preprocess.py": "preprocess",
    "jobs/train_codec.py": "codec",
    "jobs/train_stage1.py": "stage1",
    "jobs/train_stage2.py": "stage2",
    "jobs/evaluate.py": "evaluate",
}
NOT_OURS = {"source", "export", "pip", "git"}


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """Every command line of the document's shell blocks, in words; shell variables keep their names."""
    text = "\n".join(blocks(document, "bash")).replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in text.splitlines()]
    for words in found:
        while words and re.match(r"[A-Z_]+=", words[0]):  # a variable, alone or for one command
            del words[0]
    return [words for words in found if words]


def check_script(script: str, arguments: list[str]) -> None:
    assert (ROOT / script).is_file(), f"{script} does not exist"
    if script in JOB_OF_SCRIPT:
        preset = "mini"
        if "--preset" in arguments:
            position = arguments.index("--preset")
            preset = arguments[position + 1]
            arguments = arguments[:position] + arguments[position + 2 :]
        overrides = [word for word in arguments if word != "--show"]
        configuration.load(preset, overrides, JOB_OF_SCRIPT[script])
    elif script == "tuning/scaling_study.py":
        from tuning import scaling_study

        scaling_study.parse(arguments)
    elif script == "tuning/search.py":
        from tuning import search

        search.parse(arguments)
    elif script == "tuning/ablation.py":
        from tuning import ablation

        ablation.parse(arguments)
    elif script == "tuning/report.py":
        assert not [word for word in arguments[1:] if word.startswith("--") and word not in ("--out", "--rivals")]
    else:
        assert script == "jobs/demo.py", f"{script}: teach this test what it takes"
        assert not arguments


def check_verb(words: list[str]) -> None:
    from ssmttm.cli import app

    verb = []
    for word in words:
        if word.startswith("-") or not re.fullmatch(r"[a-z]+", word):
            break
        verb.append(word)
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, f"ssmttm {' '.join(verb)}: {result.output}"
    for flag in (word for word in words if word.startswith("--")):
        assert flag in result.output, f"ssmttm {' '.join(verb)} has no {flag}"


def check_request(words: list[str]) -> None:
    """A curl command: its route exists, and its body is a request that the service takes."""
    from serve.schema import MusicRequest

    (url,) = [word for word in words if word.startswith("http://")]
    route = "/" + url.split("/", 3)[3]
    assert f'"{route}"' in (ROOT / "serve" / "api.py").read_text(), f"no route {route}"
    if "-d" in words:
        MusicRequest.model_validate(json.loads(words[words.index("-d") + 1]))


def check(words: list[str]) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        for word in words[1:]:
            assert word in rules or re.match(r"[A-Z]+=", word), f"make {word}: no such target"
    elif program == "python":
        check_script(words[1], words[2:])
    elif program == "ssmttm":
        check_verb(words[1:])
    elif program == "ray" and words[1:3] == ["job", "submit"]:
        check(words[words.index("--") + 1 :])
        files = [words[place + 1] for place, word in enumerate(words) if word in ("--runtime-env", "--working-dir")]
        assert all((ROOT / name).exists() for name in files), files
    elif program == "serve" and words[1] == "run":
        module = words[2].partition(":")[0].replace(".", "/")
        assert (ROOT / f"{module}.py").is_file(), words
    elif program == "curl":
        check_request(words)
    elif program in ("ray", *NOT_OURS):
        pass
    else:
        assert (ROOT / program).is_file(), f"'{program}' is no command this test knows"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document: str) -> None:
    for words in commands(document):
        check(words)


def test_inline_make_targets_exist() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text()):
            check(["make", target])


def test_the_readme_shows_the_whole_surface() -> None:
    """Every target, job and verb of the command line appears in the README."""
    from ssmttm.cli import app

    text = (ROOT / "README.md").read_text()
    wanted = {f"make {name}" for name in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    wanted -= {"make help"}
    wanted |= {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("[a-z]*.py")} - {"jobs/demo.py"}
    wanted |= {f"ssmttm {command.name or command.callback.__name__}" for command in app.registered_commands}
    wanted |= {f"ssmttm {group.name}" for group in app.registered_groups}
    listed = tree("README.md")
    missing = sorted(name for name in wanted if name not in text and name not in listed)
    assert not missing, f"README.md does not mention: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / document).read_text()):
        if "://" not in target:
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_examples_compile(document: str) -> None:
    for example in blocks(document, "python"):
        compile(example, document, "exec")


def tree(document: str) -> set[str]:
    """Paths of the file tree: the text block whose lines are indented names, each followed by its purpose."""
    (listing,) = [block for block in blocks(document, "text") if block.startswith("ssmttm/")]
    found, folders = set(), []
    for line in listing.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        found.add("/".join(folders))
        assert len(line.split()) > 1, f"{name} has no purpose beside it"
    return found


def test_the_file_tree_matches_the_repository() -> None:
    listed = tree("README.md")
    for path in sorted(listed):
        assert (ROOT / path).exists(), f"README.md lists {path}, which does not exist"
    top = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[a-z]*/*.py")} - {"build", "runs"}
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "ssmttm").glob("*/*.py")}
    entry_points = {
        path.relative_to(ROOT).as_posix()
        for folder in ("ssmttm", "jobs", "serve", "tuning")
        for path in (ROOT / folder).glob("*.py")
        if not path.name.startswith("_") and (folder != "tuning" or "__main__" in path.read_text())
    }
    unlisted = (top | packages | entry_points | {"cluster", "ssmttm/config/presets"}) - listed
    assert not unlisted, f"README.md's tree leaves out: {sorted(unlisted)}"
