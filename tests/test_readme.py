"""What the documents promise exists: targets, scripts, verbs, flags, configuration keys, links; figures are those
measured or counted. The file tree of docs/layout.md is tested by test_layout.py."""

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
    for pattern in ("*.md", "cluster/*.md", "docs/*.md", "jobs/*.md", "serve/*.md", "tuning/**/*.md", "ssmttm/**/*.md")
    for path in ROOT.glob(pattern)
)
GENERATED = re.compile(r"tuning/results/.+/(report|ablation)\.md|ssmttm/weights/mini/README\.md")
JOB_OF_SCRIPT: dict[str, Any] = {
    "jobs/preprocess.py": "preprocess",
    "jobs/train_codec.py": "codec",
    "jobs/train_stage1.py": "stage1",
    "jobs/train_stage2.py": "stage2",
    "jobs/evaluate.py": "evaluate",
}
NOT_OURS = {"source", "export", "pip", "git", "tensorboard", "mlflow"}


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
    elif script.startswith("tests/benchmarks/"):
        source = (ROOT / script).read_text()
        for word in arguments:
            assert not word.startswith("--") or f'"{word}"' in source, f"{script} has no {word}"
    else:
        assert script == "jobs/demo.py", f"{script}: teach this test what it takes"
        assert not arguments


def check_verb(words: list[str]) -> None:
    from ssmttm.cli import app

    verb: list[str] = []
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
    from serve.schema import MusicForm

    (url,) = [word for word in words if word.startswith("http://")]
    route = "/" + url.split("/", 3)[3]
    assert f'"{route}"' in (ROOT / "serve" / "api.py").read_text(), f"no route {route}"
    if "-d" in words:
        MusicForm.model_validate(json.loads(words[words.index("-d") + 1]))


def check(words: list[str]) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        for word in words[1:]:
            assert word in rules or re.match(r"[A-Z]+=", word), f"make {word}: no such target"
    elif program == "python" and words[1:3] == ["-m", "serve"]:
        from serve.__main__ import read

        read(words[3:])
    elif program == "python":
        check_script(words[1], words[2:])
    elif program == "ssmttm":
        check_verb(words[1:])
    elif program == "ray" and words[1:3] == ["job", "submit"]:
        check(words[words.index("--") + 1 :])
        files = [words[place + 1] for place, word in enumerate(words) if word in ("--runtime-env", "--working-dir")]
        assert all((ROOT / name).exists() for name in files), files
    elif program == "serve" and words[1] == "run":
        from serve.app import Arguments

        assert words[2] == "serve.app:build", words
        for word in words[3:]:
            assert word.partition("=")[0] in Arguments.model_fields, f"serve.app:build takes no {word}"
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_inline_commands_exist(document: str) -> None:
    for code in re.findall(r"`((?:make|ssmttm|python) [^`]+)`", (ROOT / document).read_text()):
        words = code.split()
        if words[0] == "make":
            check(words[:2])
        elif words[0] == "ssmttm":
            check_verb(words[1:])
        elif words[1].endswith(".py") and "NAME" not in words[1]:
            assert (ROOT / words[1]).is_file(), f"{document}: {words[1]} does not exist"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_variables_are_set_where_they_are_used(document: str) -> None:
    """A block can be pasted as it stands: what it uses is set in it, or in one before it where the text says so."""
    of_shells = {"HOME", "PWD"}
    before: set[str] = set()
    for block in blocks(document, "bash"):
        known = set(re.findall(r"^(?:export )?([A-Z_]+)=", block, flags=re.MULTILINE))
        used = set(re.findall(r"\$([A-Z_]+)", block))
        before = before | known if document == "ssmttm/weights/README.md" else known
        assert used <= before | of_shells, f"{document}: {sorted(used - before - of_shells)} in\n{block}"


def test_the_surface_is_shown() -> None:
    """Every target, job and verb of the command line appears in docs/layout.md."""
    from ssmttm.cli import app

    text = (ROOT / "docs" / "layout.md").read_text()
    wanted = {f"make {name}" for name in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    wanted -= {"make help"}
    wanted |= {f"ssmttm {command.name or command.callback.__name__}" for command in app.registered_commands}
    wanted |= {f"ssmttm {group.name}" for group in app.registered_groups}
    missing = sorted(name for name in wanted if name not in text)
    assert not missing, f"docs/layout.md does not mention: {missing}"


def test_the_readme_is_short_and_in_order() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 12_000
    wanted = ["Hear it", "The page", "What it can and cannot do", "Your own music", "Demo", "In Python", "Scale out"]
    found = [title.partition(":")[0] for title in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)]
    assert found == [*wanted, "Numbers", "More"]
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 2
    assert all((ROOT / picture).stat().st_size < 150_000 for picture in pictures)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / document).read_text()):
        if "://" not in target:
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_examples_compile(document: str) -> None:
    for example in blocks(document, "python"):
        compile(example, document, "exec")


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if not GENERATED.fullmatch(name)])
def test_plain_english(document: str) -> None:
    """Words that readers stumble over, and figures without their zero."""
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", (ROOT / document).read_text(), flags=re.DOTALL)
    assert not re.findall(r"\b(?:lest|anew|told apart|as many as may)\b|(?<![\w.])\.\d+", prose)


def test_the_changelog_names_the_version() -> None:
    import ssmttm

    releases = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == ssmttm.__version__


def test_the_readmes_shares_are_those_measured() -> None:
    text = (ROOT / "README.md").read_text()
    heard = json.loads((ROOT / "tests/benchmarks/results/shipped_evaluation.json").read_text())["adherence"]
    for row, measure in (("Genre (", "genre"), ("Lead ", "lead"), ("Tempo,", "tempo"), ("Key,", "key")):
        (line,) = re.findall(rf"^\| {re.escape(row)}.*$", text, re.MULTILINE)
        _, _, share, most, shuffled, _ = (cell.strip() for cell in line.split("|"))
        low, high = wilson(heard[measure]["generated"], 200)
        assert share == f"{heard[measure]['generated']:.2f} [{low:.2f}, {high:.2f}]"
        assert [most, shuffled] == [f"{heard[measure][name]:.2f}" for name in ("completed", "shuffled")]
    low, high = wilson(heard["free_form"]["genre"], heard["free_form"]["n"])
    assert f"| {heard['free_form']['genre']:.2f} [{low:.2f}, {high:.2f}] |" in text


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share of n."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5 / (1 + z**2 / n)
    return centre - half, centre + half


def test_the_study_is_stated_as_its_report_does() -> None:
    """Of 18 comparisons one is significant, the others point the same way."""
    report = (ROOT / "tuning/results/backbones/report.md").read_text()
    differences = re.findall(r" beside \w+, \d layers: .*?, by ([-+.\d]+)(?: \[([-+.\d]+), ([-+.\d]+)\])?", report)
    assert len(differences) == 18
    assert all(float(difference) < 0 for difference, _, _ in differences)
    significant = [one for one in differences if one[2] and float(one[2]) < 0]
    assert len(significant) == 1
    science = (ROOT / "docs" / "science.md").read_text()
    assert "Of 18 comparisons" in science
    assert "{} [{}, {}] nats".format(*significant[0]) in science


def test_the_arithmetic_of_states() -> None:
    """docs/science.md: what the state of `paper` moves beside a cache shaped as MusicGen-small's."""
    from ssmttm.model import costs

    science = (ROOT / "docs" / "science.md").read_text()
    frame_rate = 44_100 / 512
    stage1 = configuration.load("paper", job="stage1").stage1
    state = costs.decode_costs(stage1, costs.Shape(codebook_size=1024, text_dim=768, coarse_dim=8), 0).state_bytes
    moved = 2 * 2 * state  # two rows, each read and written
    cached = 2 * 2 * 24 * 1024 * 2  # two rows, keys and values of 24 layers of width 1024, in bf16: of one frame
    for figure in (
        f"| State of one row | {state / 1e6:.0f} MB |",
        f"{moved / 1e6:.0f} MB per frame |",
        f"{moved * frame_rate / 1e9:.0f} GB per second",
        f"{cached / 1e6:.3f} MB read",
        f"about {moved / cached / frame_rate:.0f} s |",
    ):
        assert figure in science, figure
    assert moved * frame_rate / (cached * 50) / 50 == pytest.approx(70, abs=5)


@pytest.mark.slow
def test_the_sizes_are_counted() -> None:
    from ssmttm.cli_doctor import examine

    rows = re.findall(
        r"^\| `(paper[^`]*)` \| ([\d.]+) M \| (.+) \|$", (ROOT / "docs/science.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 5
    for preset, parameters, rest in rows:
        counted = examine(preset)["stage1"]
        held, moved, flops, share = (cell.split()[0].replace(",", "") for cell in rest.split(" | "))
        assert float(parameters) == pytest.approx(counted["trainable_params"] / 1e6, abs=0.06)
        assert float(held) == pytest.approx(counted["state_bytes_per_stream"] / 1e6, abs=0.6)
        assert float(moved) == pytest.approx(counted["decode_bytes_per_frame_guided"] / 1e6, abs=0.6)
        assert float(flops) == pytest.approx(counted["train_flops_total"], rel=0.01)
        assert float(share) == pytest.approx(100 * counted["train_flops_share_of_musicgen_small"], abs=0.06)
