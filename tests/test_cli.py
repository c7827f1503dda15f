from __future__ import annotations

import errno
import json
import os
import resource
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


@pytest.mark.parametrize(
    ("out", "arguments"),
    [
        ("a.wav", ["generate", PROMPT, "--bundle", "no/such/bundle", "--out"]),
        ("bundle/bundle.json", ["export", "no/run", "no/other", "--out"]),
        ("corpus", ["corpus", "compose", "--hours", "1000", "--out"]),
        ("page.html", ["corpus", "check", "no/corpus", "--html"]),
        ("answers.sqlite", ["listen", "no/folder", "no/other", "--answers"]),
        ("results.json", ["listen", "--answers", "no/answers", "--results"]),
    ],
)
@pytest.mark.parametrize("place", ["file", "x" * 300])
def test_outputs_are_looked_at_before_any_work(
    ssmttm: Command, tmp_path: Path, place: str, out: str, arguments: list[str]
) -> None:
    """The inputs are missing too, which is not even noticed."""
    (tmp_path / "file").write_bytes(b"content")
    given = out.split("/")[0].removesuffix(".json")
    code, printed, err = ssmttm(*arguments, f"{tmp_path}/{place}/{given}")
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/{place}/{out} cannot be written: ")
    assert err.count("\n") == 1
    assert printed == ""
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_manifest_is_looked_at_before_the_scan(ssmttm: Command, tmp_path: Path) -> None:
    code, _, err = ssmttm("corpus", "scan", str(tmp_path), "--out", f"{tmp_path}/{'x' * 300}.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "x.jsonl cannot be written: the name is too long; shorten it" in err


def test_a_folder_is_no_output(ssmttm: Command, tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    code, _, err = ssmttm("generate", PROMPT, "--out", str(tmp_path / "a.wav"), "--bundle", "no/such/bundle")
    assert (code, err) == (2, f"error: {tmp_path}/a.wav cannot be written: it is a folder; name a file\n")


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_a_disk_that_fills_up_leaves_one_line_and_the_old_file(
    ssmttm: Command, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / f"a.{extension}"
    out.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    code, printed, err = ssmttm("generate", PROMPT, "--out", str(out), "--seconds", "0.5", "--bundle", bundle)
    assert (code, printed) == (2, "")
    assert err == f"error: {out} cannot be written: the disk is full; make room there, or name another place\n"
    assert [*tmp_path.iterdir()] == [out]
    assert out.read_bytes() == b"old"


def test_too_little_room_is_known_before(
    ssmttm: Command, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssmttm.engine.generator import Rendering

    monkeypatch.setattr(Rendering, "render", lambda *_: pytest.fail("something was made"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, _, err = ssmttm(
            "generate", PROMPT, "--out", str(tmp_path / "a.wav"), "--seconds", "60", "--bundle", bundle
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert err.endswith("a.wav cannot be written: the file would be larger than this place allows\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["take.wav::2.wav", "#1.wav", "~tilde.wav", "50%.wav", "a[1].wav", "-.wav"])
def test_names_of_files_are_taken_as_they_stand(
    ssmttm: Command, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take.wav").write_bytes(b"old")
    code, printed, _ = ssmttm("generate", PROMPT, f"--out={name}", "--seconds", "0.2", "--bundle", bundle)
    assert (code, printed.split(": ")[0]) == (0, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "take.wav"])
    assert Path("take.wav").read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_without_utf8_hears_of_its_file(bundle: str, tmp_path: Path, environment: dict[str, str]) -> None:
    prompt, out = "静かなピアノ, flûte", tmp_path / "静か.wav"
    command = [sys.executable, "-c", "from ssmttm.cli import main; main()", "generate", prompt, "--seconds", "0.5"]
    done = subprocess.run(
        [*command, "--out", out, "--bundle", bundle], capture_output=True, env={**os.environ, **environment}, check=True
    )
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
    assert audio.read_metadata(out)["prompt"] == prompt


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
