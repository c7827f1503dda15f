"""Figures of corpora and datasets, and what is found wrong with them."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from ssmttm import config, storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.readers import read_source
from ssmttm.tokens import check
from ssmttm.tokens.check import (
    LOUDNESS_SECONDS,
    census,
    histogram,
    length_and_loudness,
    read_inventory,
    write_scan,
)
from ssmttm.tokens.previews import previews
from ssmttm.tokens.schema import COMMIT_NAME

DEFAULTS = CorpusConfig()


def write_tone(path: Path, seconds: float = 1.0, level: float = 0.3, channels: int = 1, **sidecar: Any) -> None:
    time = np.arange(round(seconds * 16_000)) / 16_000
    tone = level * np.sin(2 * math.pi * 440 * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([tone] * channels, axis=1), 16_000)
    path.with_suffix(".json").write_text(json.dumps({"licence": "CC0-1.0", "split": "train", **sidecar}))


def figures_of(uri: str, **options: Any) -> dict[str, Any]:
    return census(read_inventory(uri, DEFAULTS, progress=False), progress=False, **options)


@pytest.fixture
def copied(tiny_tokens: str, tmp_path: Path) -> Path:
    """A dataset that a test may damage; its source stays where it was."""
    return Path(shutil.copytree(tiny_tokens, tmp_path / "tokens"))


def test_histogram_counts_every_value_once() -> None:
    random = np.random.default_rng(0)
    for values in (random.normal(-16, 3, 500).tolist(), random.integers(1, 700, 300).tolist(), [2.0], [3, 3, 4]):
        found = histogram(values, 0.5)
        assert found is not None
        edges, counts = found["edges"], found["counts"]
        assert len(edges) == len(counts) + 1 <= 31
        assert edges[0] <= min(values)
        assert edges[-1] > max(values)
        assert counts == [sum(low <= v < high for v in values) for low, high in pairwise(edges)]
        assert sum(counts) == found["number"] == len(values)
    assert histogram([]) is None


def test_histogram_of_whole_numbers_has_a_bar_for_each() -> None:
    found = histogram([1, 1, 4])
    assert found is not None
    assert (found["edges"], found["counts"], found["whole"]) == ([1, 2, 3, 4, 5], [2, 0, 0, 1], True)


def test_a_folder_is_counted(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 2.0, captions=["one two", "three"], genre="rock", bpm=120)
    write_tone(tmp_path / "b.wav", 3.0, captions=[], genre=["rock", "jazz"], bpm="fast", licence="CC BY-NC 4.0")
    write_tone(tmp_path / "c.wav", 1.0, captions=["four"], split="val", licence="")
    figures = figures_of(str(tmp_path))
    assert figures["problems"] == []
    assert (figures["kind"], figures["tracks"], figures["rows"], figures["seconds"]) == ("corpus", 3, None, 6.0)
    assert figures["by_split"] == {"train": {"entries": 2, "seconds": 5.0}, "val": {"entries": 1, "seconds": 1.0}}
    assert {name: group["seconds"] for name, group in figures["by_licence"].items()} == {
        "CC-BY-NC": 3.0,
        "CC0-1.0": 2.0,
        "none stated": 1.0,
    }
    assert {name: group["entries"] for name, group in figures["by_genre"].items()} == {"jazz": 1, "rock": 2}
    assert figures["outside_allow_list"] == 2
    assert figures["tempo"]["number"] == 1
    assert figures["captions_per_track"]["most"] == 3  # the two stated, and one of the tags
    assert figures["sample"]["files"] == figures["sample"]["seconds"]["number"] == 3
    assert figures["codebooks"] is None
    json.dumps(figures, allow_nan=False)


def test_figures_of_a_dataset_are_the_dataset_s(tiny_tokens: str) -> None:
    dataset = storage.read_commit(tiny_tokens, COMMIT_NAME)
    figures = figures_of(tiny_tokens)
    assert figures["problems"] == []
    assert (figures["rows"], figures["tracks"]) == (dataset["rows"], dataset["tracks"])
    for name in ("split", "licence"):
        seconds = {value: group["seconds"] for value, group in figures[f"by_{name}"].items()}
        assert seconds == dataset[f"seconds_by_{name}"]
    assert {split: group["entries"] for split, group in figures["by_split"].items()} == dataset["rows_by_split"]
    assert figures["allow_licences"] == dataset["allow_licences"]
    assert figures["rejects"] == dataset["rejects"]
    assert figures["sample"]["lufs"]["median"] == pytest.approx(-16, abs=3)


def test_codebook_usage(tiny_tokens: str) -> None:
    codes_KT = []
    for path in sorted(Path(tiny_tokens, "shards").iterdir()):
        for row in pq.read_table(path).to_pylist():
            codes_KT.append(np.frombuffer(row["codes"], np.int16).reshape(-1, row["frames"]))
    every_KT = np.concatenate(codes_KT, axis=1)
    found = figures_of(tiny_tokens, sample=0)["codebooks"]
    assert len(found["books"]) == len(every_KT)
    for book, codes_T in zip(found["books"], every_KT, strict=True):
        counts = np.unique(codes_T, return_counts=True)[1]
        shares = counts / counts.sum()
        assert book["used"] == pytest.approx(len(counts) / found["size"])
        assert book["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=0.01)
    assert found["counts_of_0"]["number"] == found["size"]
    assert found["counts_of_0"]["most"] == np.bincount(every_KT[0]).max()


def test_codebooks_that_say_nothing_are_a_problem_with_its_remedy(
    tiny_tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert figures_of(tiny_tokens, sample=0)["problems"] == []
    codes_of = check.codes_of
    dead = np.array([[1], [1], [0], [0]])
    monkeypatch.setattr(check, "codes_of", lambda row: codes_of(row) * dead[: len(codes_of(row))])
    (problem,) = figures_of(tiny_tokens, sample=0)["problems"]
    assert problem.startswith("codebooks 2, 3 of 4 use less than a tenth of their ")
    assert "more music" in problem
    assert "codec.num_codebooks=2" in problem


def test_the_sample_is_drawn_by_seed(tiny_tokens: str) -> None:
    first, again, *others = (figures_of(tiny_tokens, sample=3, seed=seed)["sample"] for seed in (1, 1, *range(2, 8)))
    assert first == again
    assert any(other != first for other in others)  # two samples may well have the same histograms
    assert (first["files"], first["of"]) == (3, 8)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "good.wav", captions=["x"])
    write_tone(tmp_path / "gone.wav", captions=["x"])
    write_tone(tmp_path / "broken.wav", captions=["x"])
    write_scan(str(tmp_path), f"{tmp_path}/manifest.jsonl", DEFAULTS, progress=False)
    (tmp_path / "gone.wav").unlink()
    (tmp_path / "broken.wav").write_text("no audio")
    problems = figures_of(str(tmp_path))["problems"]
    assert len(problems) == 2
    assert problems[0].startswith("not-audio: ")
    assert problems[0].endswith(f"({tmp_path}/broken.wav)")
    assert problems[1] == f"missing file: {tmp_path}/gone.wav"


def test_ids_that_repeat_are_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", captions=["x"])
    line = json.dumps({**json.loads((tmp_path / "a.json").read_text()), "id": "a", "audio": "a.wav", "duration_s": 1.0})
    entry = json.loads(line) | {"artist": "", "title": "", "source_url": ""}
    (tmp_path / "manifest.jsonl").write_text(f"{json.dumps(entry)}\n" * 2)
    (problem,) = figures_of(str(tmp_path))["problems"]
    assert "line 2: id 'a' occurs twice" in problem


def test_a_damaged_dataset_is_named_and_the_rest_counted(copied: Path) -> None:
    (copied / "README.md").unlink()
    shard = copied / "shards" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    figures = figures_of(str(copied), sample=0)
    assert figures["problems"] == [
        "missing file: README.md",
        "damaged file: shards/part-00000.parquet differs from its digest in dataset.json",
    ]
    assert figures["rows"] == 0
    assert figures["codebooks"]["books"] == []


def test_rows_that_repeat_are_named(copied: Path) -> None:
    shutil.copy(copied / "shards" / "part-00000.parquet", copied / "shards" / "part-00001.parquet")
    content = storage.read_json(str(copied / COMMIT_NAME))
    storage.write_commit(str(copied), COMMIT_NAME, {k: v for k, v in content.items() if k != "files"})
    problems = figures_of(str(copied), sample=0)["problems"]
    assert len(problems) == 8
    assert all("occurs more than once" in problem for problem in problems)


def test_rejects_by_reason_with_the_first_names(copied: Path) -> None:
    lines = [{"id": f"t{i}", "audio": "", "reason": "silent", "detail": ""} for i in range(7)]
    (copied / "rejects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = storage.read_json(str(copied / COMMIT_NAME))
    storage.write_commit(str(copied), COMMIT_NAME, {k: v for k, v in content.items() if k != "files"})
    figures = figures_of(str(copied), sample=0)
    assert figures["rejects_by_reason"] == {"silent": {"number": 7, "first": ["t0", "t1", "t2", "t3", "t4"]}}


def test_measuring_files(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 2.0, level=0.5, channels=2)
    write_tone(tmp_path / "many.wav", 1.0, channels=6)
    write_tone(tmp_path / "mute.wav", 1.0, level=0.0)
    write_tone(tmp_path / "brief.wav", 0.2)
    seconds, lufs = length_and_loudness(str(tmp_path / "tone.wav"))
    # A 440 Hz sine of amplitude 0.5 in two channels: -9 dB mean square and 3 dB for the second channel, K-weighted.
    assert (seconds, lufs) == (2.0, pytest.approx(-6.7, abs=0.5))
    assert length_and_loudness(str(tmp_path / "many.wav"))[1] is not None
    assert length_and_loudness(str(tmp_path / "mute.wav")) == (1.0, None)
    assert length_and_loudness(str(tmp_path / "brief.wav")) == (0.2, None)
    assert LOUDNESS_SECONDS >= 60


def test_lengths_are_those_of_the_files_and_a_false_claim_is_a_line(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 1.5)
    write_tone(tmp_path / "b.wav", 1.5, duration_s=9.0)
    (tmp_path / "c.wav").write_text("no audio")
    inventory = read_inventory(str(tmp_path), DEFAULTS, progress=False)
    assert {entry.track.id: entry.track.duration_s for entry in inventory.entries} == {"a": 1.5, "b": 1.5, "c": 0.0}
    (problem,) = inventory.problems
    assert problem.startswith("not-audio: ")
    assert problem.endswith(f"({tmp_path}/c.wav)")
    assert inventory.claims == ["b: 9.00 s are stated, 1.50 s are there and used"]


def test_a_scan_becomes_a_manifest_elsewhere_that_reads_the_same(tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "a.wav", 1.5, captions=["x"], artist="A")
    write_tone(tmp_path / "in" / "sub" / "b.wav", 1.0, captions=["y"])
    before = sorted((tmp_path / "in").rglob("*"))
    out = str(tmp_path / "runs" / "list.jsonl")
    inventory, manifest, new = write_scan(str(tmp_path / "in"), out, DEFAULTS, progress=False)
    assert (manifest, new) == (out, 2)
    assert sorted((tmp_path / "in").rglob("*")) == before
    assert read_source(manifest, DEFAULTS) == [entry.track for entry in inventory.entries]
    assert read_inventory(manifest, DEFAULTS, progress=False).problems == []
    with pytest.raises(UserError, match=r"lists the audio of .*in; give another --out"):
        write_scan(str(tmp_path / "in" / "sub"), out, DEFAULTS, progress=False)
    with pytest.raises(UserError, match=r"--out x must be a manifest, such as x\.jsonl"):
        write_scan(str(tmp_path / "in"), "x", DEFAULTS, progress=False)


@pytest.mark.parametrize("place", ["in/manifest.jsonl", "out.jsonl"])
def test_new_songs_are_told_and_added_and_edited_lines_stay(tmp_path: Path, place: str) -> None:
    music, out = tmp_path / "in", tmp_path / place
    write_tone(music / "a.wav", 1.5, captions=["x"], artist="A", split="val")
    write_tone(music / "b.wav", 1.0, captions=["y"])
    write_scan(str(music), str(out), DEFAULTS, progress=False)
    edited = out.read_text().replace('"x"', '"edited"').replace('"id": "b"', '"id": "new"')
    out.write_bytes(b"\xef\xbb\xbf" + edited.encode())
    write_tone(music / "new.wav", 1.25, captions=["z"], artist="a")
    (music / "new.json").write_text(json.dumps({"caption": "z", "artist": "a", "licence": "CC0-1.0"}))
    figures = figures_of(str(out))
    assert (figures["tracks"], figures["unlisted"]) == (2, {"number": 1, "first": ["new.wav"]})
    assert figures["problems"] == []
    for new in (1, 0):
        inventory, _, added = write_scan(str(music), str(out), DEFAULTS, progress=False)
        assert added == new
        assert out.read_text().startswith(edited)
        first, second, third = read_source(str(out), DEFAULTS)
        assert [entry.track for entry in inventory.entries] == [first, second, third]
        assert (first.captions, third.audio, third.duration_s) == (("edited",), f"{music}/new.wav", 1.25)
        assert (second.id, third.id, third.split) == ("new", "new (2)", "val")  # its artist is held out
    assert figures_of(str(out))["unlisted"]["number"] == 0


def test_a_manifest_in_a_folder_may_not_name_another(tmp_path: Path) -> None:
    write_tone(tmp_path / "mine" / "a.wav", captions=["x"])
    (tmp_path / "given").mkdir()
    write_scan(str(tmp_path / "mine"), str(tmp_path / "given" / "manifest.jsonl"), DEFAULTS, progress=False)
    with pytest.raises(UserError, match=r"give .*manifest\.jsonl itself as corpus\.source"):
        read_source(str(tmp_path / "given"), DEFAULTS)
    assert len(read_source(str(tmp_path / "given" / "manifest.jsonl"), DEFAULTS)) == 1


def test_too_few_tracks_to_hold_one_out_are_told(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", captions=["x"])
    assert figures_of(str(tmp_path))["held_out"].startswith("1 of 1 tracks can be used, but one must be learned from")
    write_tone(tmp_path / "b.wav", captions=["y"])
    assert figures_of(str(tmp_path))["held_out"] == "nothing was held out: 1 of 2 tracks are held out, b among them"
    (tmp_path / "a.json").write_text('{"split": "val"}')
    assert figures_of(str(tmp_path))["held_out"] == ""


def test_clips_come_from_the_source_from_tokens_or_say_why_not(
    tiny_tokens: str, tiny_config: config.Config, copied: Path, tmp_path: Path
) -> None:
    made = previews(read_inventory(tiny_tokens, DEFAULTS, progress=False), 3, progress=False)
    assert [clip.note for clip in made] == ["source audio"] * 3
    again = previews(read_inventory(tiny_tokens, DEFAULTS, progress=False), 3, progress=False)
    assert [clip.entry.track.id for clip in made] == [clip.entry.track.id for clip in again]

    content = storage.read_json(str(copied / COMMIT_NAME))
    content["config"]["corpus"]["source"] = str(tmp_path / "moved")
    storage.write_json(str(copied / COMMIT_NAME), content)
    decoded = previews(read_inventory(str(copied), DEFAULTS, progress=False), 3, progress=False)
    assert [clip.note for clip in decoded] == ["decoded from its tokens"] * 3
    for one, other in zip(made, decoded, strict=True):
        assert one.sound is not None
        assert other.sound is not None
        assert one.sound.seconds == pytest.approx(other.sound.seconds, abs=0.1)
        assert other.sound.samples.shape[0] == 1

    content["codec"]["fingerprint"] = "another"
    storage.write_json(str(copied / COMMIT_NAME), content)
    (silent,) = previews(read_inventory(str(copied), DEFAULTS, progress=False), 1, progress=False)
    assert silent.sound is None
    assert "is not the one that made the tokens" in silent.note

    content["codec"]["uri"] = str(tmp_path / "nowhere")
    storage.write_json(str(copied / COMMIT_NAME), content)
    (silent,) = previews(read_inventory(str(copied), DEFAULTS, progress=False), 1, progress=False)
    assert "no codec at" in silent.note


def test_a_source_on_storage_out_of_reach_is_a_source_not_at_hand(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = storage.read_json(str(copied / COMMIT_NAME))
    content["config"]["corpus"]["source"] = "nosuchprotocol://bucket/corpus"
    storage.write_json(str(copied / COMMIT_NAME), content)
    figures = figures_of(str(copied))
    assert figures["problems"] == []
    assert figures["sample"]["files"] == 0
    assert "cannot be listed" in capsys.readouterr().err
