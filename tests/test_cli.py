from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Command
from tiny_bundle import shared_bundle

from ssmttm import audio

CORPUS_VERBS = ("compose", "scan", "check", "trace")
PROMPT = "calm piano in a minor key, slow"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_bundle(tmp_path_factory)


@pytest.fixture
def ssmttm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    from transformers.utils import logging

    logging.disable_progress_bar()  # the command does so through the environment, which is read only once
    monkeypatch.delenv("SSMTTM_BUNDLE", raising=False)
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_the_same_seed_writes_the_same_file(ssmttm: Command, bundle: str, tmp_path: Path, extension: str) -> None:
    outs = [str(tmp_path / f"{name}.{extension}") for name in "ab"]
    for out in outs:
        code, printed, _ = ssmttm(
            "generate", PROMPT, "--out", out, "--seconds", "1.5", "--seed", "1", "--bundle", bundle
        )
        assert code == 0
        assert printed.startswith(f"{out}: 1.50 s, seed 1, ")
        assert printed.count("\n") == 1
    assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()
    assert audio.read_metadata(outs[0])["prompt"] == PROMPT
    assert abs(audio.read(outs[0]).seconds - 1.5) < 0.01


def test_a_drawn_seed_is_reported_and_works_again(ssmttm: Command, bundle: str, tmp_path: Path) -> None:
    out = str(tmp_path / "a.wav")
    _, printed, _ = ssmttm("generate", PROMPT, "--out", out, "--seconds", "1", "--bundle", bundle)
    seed = printed.split("seed ")[1].split(",")[0]
    first = Path(out).read_bytes()
    ssmttm("generate", PROMPT, "--out", out, "--seconds", "1", "--bundle", bundle, "--seed", seed)
    assert Path(out).read_bytes() == first


def test_the_bundle_may_come_from_the_environment(
    ssmttm: Command, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSMTTM_BUNDLE", bundle)
    assert ssmttm("generate", PROMPT, "--out", str(tmp_path / "a.wav"), "--seconds", "0.5")[0] == 0


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", [], "prompt is empty"),
        ("  ", [], "prompt is empty"),
        ("x" * 10_000, [], "10000 characters"),
        (PROMPT, ["--seconds", "0"], "seconds is 0"),
        (PROMPT, ["--seconds", "nan"], "seconds is nan"),
        (PROMPT, ["--seed", "-1"], "seed is -1"),
        (PROMPT, ["--steps", "0"], "steps is 0"),
        (PROMPT, ["--control", "beat=[1]"], "controls.beat"),
        (PROMPT, ["--control", "beat"], "give NAME=VALUE"),
        (PROMPT, ["--out", "x.mp4"], "cannot write x.mp4"),
        (PROMPT, ["--bundle", "no/such/place"], "no bundle at no/such/place"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(
    ssmttm: Command, bundle: str, tmp_path: Path, prompt: str, options: list[str], message: str
) -> None:
    defaults = ["--out", str(tmp_path / "a.wav"), "--bundle", bundle]
    code, _, err = ssmttm("generate", prompt, *defaults, *options)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.wav").exists()


def test_the_console_command_itself(bundle: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ssmttm.cli import main; main()"]
    arguments = ["generate", PROMPT, "--seconds", "0", "--bundle", bundle]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: seconds is 0; give a length above 0 and up to 600\n"
    assert result.stdout == ""


def test_help_is_quick_and_shows_an_example(ssmttm: Command) -> None:
    for verb in (["generate"], ["export"], ["doctor"], *(["corpus", verb] for verb in CORPUS_VERBS)):
        code, out, _ = ssmttm(*verb, "--help")
        assert code == 0
        assert f"Example: ssmttm {' '.join(verb)}" in " ".join(out.split())
    code = "import sys; import ssmttm.cli; assert not {'torch', 'numpy', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_doctor_says_what_is_there(ssmttm: Command) -> None:
    start = time.monotonic()
    code, out, _ = ssmttm("doctor", "--preset", "tiny", "--json")
    assert code == 0
    assert time.monotonic() - start < 60
    findings = json.loads(out)
    assert findings["versions"]["torch"]
    assert findings["machine"]["cores"] >= 1
    assert "soundfont" in findings["corpus"]
    assert findings["stage1"]["trainable_params"] > findings["stage2"]["trainable_params"] > 0
    assert findings["stage1"]["train_flops_total"] > 0
    code, out, _ = ssmttm("doctor", "--preset", "tiny")
    assert "versions:" in out


def test_doctor_counts_no_second_stage_where_there_is_none(ssmttm: Command, tmp_path: Path) -> None:
    preset = tmp_path / "single.yaml"
    preset.write_text("base: tiny\nstage1: {num_codebooks: 3}\n")
    code, out, _ = ssmttm("doctor", "--preset", str(preset), "--json")
    assert code == 0
    assert list(json.loads(out)["stage2"]) == ["none"]


def test_doctor_with_an_unknown_preset(ssmttm: Command) -> None:
    code, _, err = ssmttm("doctor", "--preset", "huge")
    assert code == 2
    assert "unknown preset 'huge'" in err


def test_export_of_nothing(ssmttm: Command, tmp_path: Path) -> None:
    code, _, err = ssmttm("export", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c"))
    assert code == 2
    assert "is not a finished run" in err
