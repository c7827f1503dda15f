"""Folders of audio: text sidecars, metadata tables, embedded tags, and what leads out of the folder."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig
from ssmttm.sources.manifest import Track, to_jsonl
from ssmttm.sources.readers import read_source, scan_source

CORPUS = CorpusConfig(tag_captions=0)


def write_audio(path: Path, form: str = "FLAC", **tags: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(str(path), "w", samplerate=44_100, channels=1, format=form) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(np.zeros(4410, dtype=np.float32))


def write_csv(path: Path, rows: list[list[str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    path.write_text(stream.getvalue())


def tracks_by_id(folder: Path) -> dict[str, Track]:
    return {track.id: track for track in read_source(str(folder), CORPUS)}


def test_both_text_sidecars_are_captions(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("slow piano\n")
    (tmp_path / "a.caption.txt").write_text("a slow piano piece\nslow piano\n")
    assert tracks_by_id(tmp_path)["a"].captions == ("slow piano", "a slow piano piece")


def test_csv_table_describes_files(tmp_path: Path) -> None:
    for name in ("a.wav", "sub/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_csv(
        tmp_path / "metadata.csv",
        [
            [
                "file_name",
                "text",
                "license",
                "artist",
                "title",
                "source_url",
                "split",
                "genre",
                "bpm",
                "duration_s",
                "x",
            ],
            [
                "a.wav",
                "soft, slow",
                "CC BY 4.0",
                "Ann",
                "1999",
                "https://e.org/a",
                "validation",
                "jazz",
                "90",
                "4.5",
                "?",
            ],
            ["sub/b.wav", "", "", "", "", "", "", "", "", "", ""],
        ],
    )
    found = tracks_by_id(tmp_path)
    a = found["a"]
    assert (a.captions, a.licence, a.artist, a.title) == (("soft, slow",), "CC BY 4.0", "Ann", "1999")
    assert (a.source_url, a.split, a.duration_s) == ("https://e.org/a", "val", 4.5)
    assert a.tags == {"genre": "jazz", "bpm": 90}
    assert (found["sub/b"].captions, found["sub/b"].tags) == ((), {})


def test_jsonl_table_describes_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.wav").touch()
    row = {"file_name": "a.wav", "captions": ["one", "two"], "tags": ["calm", "warm"], "duration_s": 2, "bpm": None}
    (tmp_path / "train/metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    track = tracks_by_id(tmp_path)["train/a"]
    assert track.captions == ("one", "two")
    assert track.tags == {"keywords": ["calm", "warm"]}
    assert track.duration_s == 2.0


def test_sidecar_before_table_before_embedded(tmp_path: Path) -> None:
    tags = {"title": "embedded title", "artist": "embedded artist", "genre": "embedded genre", "license": "CC0-1.0"}
    write_audio(tmp_path / "a.flac", **tags)
    row = {"file_name": "a.flac", "title": "table title", "artist": "table artist", "caption": "from the table"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    (tmp_path / "a.json").write_text(json.dumps({"name": "sidecar title", "moods": ["calm"]}))
    track = tracks_by_id(tmp_path)["a"]
    assert (track.title, track.artist, track.licence) == ("sidecar title", "table artist", "CC0-1.0")
    assert track.tags == {"genre": "embedded genre", "moods": ["calm"]}
    assert track.captions == ("from the table", "calm")  # the sidecar's attributes, joined, beside them
    (tmp_path / "a.txt").write_text("from the sidecar")
    assert tracks_by_id(tmp_path)["a"].captions == ("from the sidecar", "calm")


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_embedded_tags_fill_what_nothing_states(tmp_path: Path, form: str) -> None:
    write_audio(tmp_path / f"a.{form.lower()}", form, title="T", artist="A", genre="Jazz")
    track = tracks_by_id(tmp_path)["a"]
    assert (track.title, track.artist, track.tags) == ("T", "A", {"genre": "Jazz"})


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"license": "https://creativecommons.org/licenses/by/4.0/"}, "https://creativecommons.org/licenses/by/4.0/"),
        ({"license": "all rights reserved", "copyright": "CC BY-SA 4.0"}, "CC BY-SA 4.0"),
        ({"copyright": "(c) 2020 Ann"}, ""),
    ],
)
def test_embedded_licence_counts_only_if_recognised(tmp_path: Path, tags: dict[str, str], expected: str) -> None:
    write_audio(tmp_path / "a.flac", **tags)
    assert tracks_by_id(tmp_path)["a"].licence == expected


def test_files_that_state_all_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("ssmttm.sources.folder.read_embedded", lambda uri: opened.append(uri) or {})
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").touch()
    (tmp_path / "a.json").write_text(json.dumps({"title": "A", "artist": "B", "licence": "CC0", "genre": "rock"}))
    read_source(str(tmp_path), CORPUS)
    assert opened == [str(tmp_path / "b.wav")]


def test_bad_rows_are_rejects_and_lose_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    rows = [
        "file_name,title",
        "a.wav,A",
        "gone.wav,B",
        "../b.wav,C",
        "/etc/passwd,D",
        "s3://x/y.wav,E",
        ",F",
        "a.wav,G",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join([*rows, "a.wav"]))
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert [(track.id, track.title) for track in tracks] == [("a", "A")]
    assert [(reject.id, reject.reason) for reject in rejects] == [
        ("metadata.csv line 3", "bad-entry"),
        ("metadata.csv line 4", "outside-root"),
        ("metadata.csv line 5", "outside-root"),
        ("metadata.csv line 6", "outside-root"),
        ("metadata.csv line 7", "bad-entry"),
        ("metadata.csv line 8", "bad-entry"),
        ("metadata.csv line 9", "bad-entry"),
    ]


@pytest.mark.parametrize("content", [b"title\nA\n", b"", b"\xff\xfe", b'file_name\n"unclosed\x00'])
def test_a_table_that_is_none_is_one_reject(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "metadata.csv").write_bytes(content)
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert [track.id for track in tracks] == ["a"]
    assert {reject.reason for reject in rejects} == {"bad-entry"}
    assert "metadata.csv" in rejects[0].id


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "music"
    for place in (outside, folder):
        place.mkdir()
        (place / "a.wav").touch()
    (outside / "secret.txt").write_text("secret")
    (folder / "inside.wav").symlink_to("a.wav")
    (folder / "linked.wav").symlink_to(outside / "a.wav")
    (folder / "a.txt").symlink_to(outside / "secret.txt")
    (folder / "more").symlink_to(outside)
    tracks, rejects = scan_source(str(folder), CORPUS)
    assert [(track.id, track.captions) for track in tracks] == [("a", ()), ("inside", ())]
    assert [(reject.id, reject.reason) for reject in rejects] == [
        (name, "outside-root") for name in ("a.txt", "linked.wav", "more")
    ]
    os.symlink(folder, tmp_path / "alias")  # the folder itself may be reached through a link
    assert [track.id for track in scan_source(str(tmp_path / "alias"), CORPUS)[0]] == ["a", "inside"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("file_name", "caption", "license", "split", "tags", "bpm", "duration_s", "id", "genre", "title")


@given(rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON | st.just("a.wav")) | JSON, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_lines_are_tracks_or_rejects(tmp_path: Path, rows: list[Any]) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tracks, rejects = scan_source(str(tmp_path), CorpusConfig())
    assert len(tracks) + sum(reject.id == "a.wav" for reject in rejects) == 1
    json.dumps([track.tags for track in tracks])


@given(text=st.text(alphabet='file_nam,"\n\r\x00;a.wv/', max_size=60))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_csv_text_is_no_exception(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "metadata.csv").write_text("file_name,title\n" + text, newline="")
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert len(tracks) + sum(reject.id == "a.wav" for reject in rejects) == 1


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with open(os.fsencode(tmp_path) + b"/\xff.wav", "wb"):
        pass
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "\ud800.wav"}))
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert [track.id for track in tracks] == ["a"]
    assert [reject.reason for reject in rejects] == ["bad-entry", "bad-entry"]
    to_jsonl(rejects).encode()
