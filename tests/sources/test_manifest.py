from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Reject, Track, write_manifest
from ssmttm.sources.readers import scan_source

TRACK = Track(
    id="a",
    audio="audio/00/a.flac",
    captions=("slow jazz", "Klavier und Geige – ruhig"),
    split="train",
    licence="CC0-1.0",
    artist="someone",
    title="A",
    source_url="https://example.org/a",
    duration_s=10.0,
    tags={"genre": "jazz", "bpm": 90, "drums": True},
)


def read_manifest(uri: str) -> list[Track]:
    tracks, rejects = scan_source(uri, CorpusConfig(format="manifest"))
    assert rejects == []
    return tracks


def refused(folder: Path) -> Reject:
    (reject,) = scan_source(str(folder), CorpusConfig(format="manifest"))[1]
    return reject


def _line(**changes: object) -> str:
    values = {**TRACK.__dict__, "captions": list(TRACK.captions), **changes}
    return json.dumps({name: value for name, value in values.items() if value is not None})


def test_round_trip_resolves_audio_against_the_folder(tmp_path: Path) -> None:
    folder = str(tmp_path)
    tracks = [TRACK, replace(TRACK, id="b", split="val", audio="audio/b.wav", tags={})]
    write_manifest(folder, tracks)
    by_folder, by_file = read_manifest(folder), read_manifest(f"{folder}/manifest.jsonl")
    assert by_folder == by_file
    assert by_folder == [replace(track, audio=f"{folder}/{track.audio}") for track in tracks]
    write_manifest(f"{folder}/manifest.jsonl", by_folder)  # resolved paths become relative again
    assert read_manifest(folder) == by_folder
    assert "Geige – ruhig" in (tmp_path / "manifest.jsonl").read_text()


def test_remote_manifest() -> None:
    write_manifest("memory://corpus-manifest-test", [TRACK])
    assert read_manifest("memory://corpus-manifest-test")[0].audio == "memory://corpus-manifest-test/audio/00/a.flac"


@pytest.mark.parametrize("audio", ["../a.flac", "/etc/a.flac", "x/../../a.flac", "s3://bucket/a.flac", ""])
def test_audio_outside_the_folder_is_refused(tmp_path: Path, audio: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(_line(audio=audio) + "\n")
    assert refused(tmp_path).reason == "outside-root"
    assert "inside" in refused(tmp_path).detail
    with pytest.raises(UserError, match="inside"):
        write_manifest(str(tmp_path), [replace(TRACK, audio=audio)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2 is not valid JSON"),
        ("[1, 2]", "JSON object"),
        (_line(licence=None), "lacks licence"),
        (_line(colour="red"), "unknown fields colour"),
        (_line(split="fold3"), "split must be one of train, "),
        (_line(audio=3), "audio must be text"),
        (_line(id="first"), "occurs twice"),
    ],
)
def test_malformed_lines_are_rejects_that_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(f"{_line(id='first')}\n{line}\n")
    reject = refused(tmp_path)
    assert (reject.id, reject.reason) == ("line 2", "bad-entry")
    assert message in reject.detail
    assert reject.detail.startswith("line 2")


def test_lines_that_people_and_programs_wrote_are_read_as_they_were_meant(tmp_path: Path) -> None:
    odd = {
        "title": 3,
        "captions": "slow  jazz",
        "tags": ["calm"],
        "duration_s": "ten",
        "split": "Test",
        "artist": ["A", "B"],
    }
    (tmp_path / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" + _line(audio="~b::c #1\\.flac", **odd).encode())
    (track,) = read_manifest(str(tmp_path))
    assert track.audio == f"{tmp_path}/~b::c #1\\.flac"
    assert (track.title, track.captions, track.artist) == ("3", ("slow jazz",), "A; B")
    assert (track.tags, track.duration_s, track.split) == ({"keywords": ["calm"]}, 0.0, "val")


def test_missing_or_empty_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(str(tmp_path))
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no tracks"):
        read_manifest(str(tmp_path))


SCORE = {"beat": [[0.25, {"bpm": 96.5, "meter": 4}], [8.0, None]]}


def test_a_score_comes_back_as_it_was_written(tmp_path: Path) -> None:
    scored = replace(TRACK, id="b", score=SCORE)
    write_manifest(str(tmp_path), [TRACK, scored])
    plain, other = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert "score" not in json.loads(plain)  # manifests of tracks without one are what they were
    assert json.loads(other)["score"] == SCORE
    assert [track.score for track in read_manifest(str(tmp_path))] == [{}, SCORE]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ([1], r"score is \[1\]; give an object"),
        ({"beats": [0.5]}, r"score\.beats is no control that can be written down; there are beat"),
        ({"text": "x"}, r"score\.text is no control"),
        ({"beat": [[0, {"bpm": 1}]]}, r"line 1: score\.beat\[0\]\.bpm is 1; give a number from 20 to 400"),
    ],
)
def test_a_score_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, score: object, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(_line(score=score))
    reject = refused(tmp_path)
    assert reject.reason == "bad-entry"
    assert re.search(message, reject.detail)
