"""The verbs `ssmttm corpus ...`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import Command

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.sources.manifest import Track, write_manifest
from ssmttm.sources.readers import read_source


@pytest.fixture
def ssmttm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def write_noise(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * seconds)), 16_000)


def make_corpus(folder: Path, tracks: int = 3) -> list[Track]:
    write_noise(folder / "audio" / "one.wav", 60.0)
    made = [
        Track(f"t{i}", "audio/one.wav", ("a caption",), "train", "CC0-1.0", "A", "T", "", 60.0, {"genre": "rock"})
        for i in range(tracks)
    ]
    write_manifest(str(folder / "manifest.jsonl"), made)
    return made


def test_check_counts(ssmttm: Command, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    code, out, _ = ssmttm("corpus", "check", str(tmp_path))
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["CC0-1.0", "3", "0.05"] in lines
    assert ["rock", "3", "0.05"] in lines
    assert "3 tracks, all files are there" in out
    assert not list(tmp_path.glob("*.html"))  # nothing is written unless it is asked for


def test_check_takes_the_manifest_itself(ssmttm: Command, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    assert ssmttm("corpus", "check", str(tmp_path / "manifest.jsonl"))[0] == 0


def test_check_finds_missing_files(ssmttm: Command, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    (tmp_path / "audio" / "one.wav").unlink()
    code, out, _ = ssmttm("corpus", "check", str(tmp_path))
    assert code == 1
    assert "missing file: " in out
    assert "3 problems" in out


def test_check_of_nothing(ssmttm: Command, tmp_path: Path) -> None:
    code, _, err = ssmttm("corpus", "check", str(tmp_path))
    assert code == 2
    assert "holds no tracks" in err
    code, _, err = ssmttm("corpus", "check", str(tmp_path / "nowhere"))
    assert code == 2
    assert "does not exist" in err
    code, _, err = ssmttm("corpus", "check", str(tmp_path), "--format", "vinyl")
    assert code == 2
    assert "corpus.format" in err


def test_check_of_a_dataset_with_page_and_figures(ssmttm: Command, tiny_tokens: str, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    code, out, _ = ssmttm("corpus", "check", tiny_tokens, "--html", str(page), "--json", "--sample", "2")
    figures = json.loads(out)
    assert code == 0
    assert figures["rows"] == 8
    assert figures["sample"]["files"] == 2
    assert page.read_text().startswith("<!doctype html>")
    code, out, _ = ssmttm("corpus", "check", tiny_tokens, "--sample", "0")
    assert "8 rows of 8 tracks, all files are there" in out
    assert "codebook" in out


def test_compose(ssmttm: Command, tmp_path: Path) -> None:
    out = str(tmp_path / "corpus")
    code, printed, _ = ssmttm(
        "corpus", "compose", "--out", out, "--hours", "0.004", "--clip-seconds", "3", "--seed", "1"
    )
    assert code == 0
    assert printed.startswith(f"{out}: ")
    assert ssmttm("corpus", "check", out)[0] == 0


def test_scan_writes_a_manifest_to_edit(ssmttm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    music = tmp_path / "my music"
    write_noise(music / "a.wav", 2.0)
    (music / "a.txt").write_text("a caption\n")
    write_noise(music / "b.wav")
    (music / "b.json").write_text("{")
    code, out, _ = ssmttm("corpus", "scan", str(music), "--licence", "own-work")
    assert code == 0
    manifest = f"{tmp_path}/runs/my music/manifest.jsonl"
    (track,) = read_source(manifest, CorpusConfig())
    assert (track.id, track.licence, track.duration_s, track.captions) == ("a", "own-work", 2.0, ("a caption",))
    assert "refused, bad-entry: 1 (b.wav)" in out
    assert "held out: 1 of 1 tracks can be used" in out
    assert f"{manifest}: 1 tracks, 1 of them new" in out
    assert sorted(path.name for path in music.iterdir()) == ["a.txt", "a.wav", "b.json", "b.wav"]
    write_noise(music / "two\nlines.wav")
    code, out, _ = ssmttm("corpus", "check", manifest)
    assert r"1 tracks, all files are there; 2 audio files are not listed (b.wav, two\nlines.wav)" in out
    code, out, _ = ssmttm("corpus", "scan", str(music))
    assert code == 0
    assert f"{manifest}: 2 tracks, 1 of them new" in out


def test_scan_of_object_storage(ssmttm: Command, tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav")
    remote = f"memory://scan-{tmp_path.name}"
    storage.write_bytes(f"{remote}/sub/a.wav", (tmp_path / "a.wav").read_bytes())
    assert ssmttm("corpus", "scan", remote, "--out", f"{remote}/manifest.jsonl")[0] == 0
    (track,) = read_source(remote, CorpusConfig())
    assert (track.audio, track.duration_s) == (f"{remote}/sub/a.wav", 1.0)


def test_trace(ssmttm: Command, tiny_tokens: str, tmp_path: Path) -> None:
    code, out, _ = ssmttm("corpus", "trace", tiny_tokens)
    assert code == 0
    assert out.splitlines()[-1].split() == ["chain", "complete"]
    row = out.split()[1]
    code, out, _ = ssmttm("corpus", "trace", tiny_tokens, row, "--json")
    assert json.loads(out)["row_id"] == row
    assert ssmttm("corpus", "trace", tiny_tokens, "nope")[0] == 2


def test_trace_of_an_incomplete_chain(ssmttm: Command, tiny_tokens: str, tmp_path: Path) -> None:
    for name in storage.list_files(tiny_tokens):
        if name != "ATTRIBUTION.csv":
            storage.write_bytes(str(tmp_path / name), Path(tiny_tokens, name).read_bytes())
    code, out, _ = ssmttm("corpus", "trace", str(tmp_path))
    assert code == 1
    assert "missing: line in ATTRIBUTION.csv" in out
