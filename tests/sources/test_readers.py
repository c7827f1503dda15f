"""Sources: manifests, and folders with sidecars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Reject, Scan, Source, Track, relative_to_source, source_root
from ssmttm.sources.readers import SOURCES, read_source, scan_source

CORPUS = CorpusConfig()
ENTRY = {
    "id": "a",
    "audio": "audio/a.flac",
    "captions": ["slow piano"],
    "split": "val",
    "licence": "CC0-1.0",
    "artist": "Ann",
    "title": "A",
    "source_url": "https://example.org/a",
    "duration_s": 4.0,
    "tags": {"genre": "jazz"},
}


def write(folder: Path, name: str, content: object = "") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_manifest_is_read_from_folder_or_file(tmp_path: Path) -> None:
    write(tmp_path, "manifest.jsonl", ENTRY)
    for uri in (str(tmp_path), str(tmp_path / "manifest.jsonl")):
        (track,) = read_source(uri, CORPUS)
        assert track.audio == str(tmp_path / "audio/a.flac")
        assert track.captions == ("slow piano",)
        assert track.split == "val"
        assert relative_to_source(track.audio, source_root(uri)) == "audio/a.flac"


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        json.dumps({**ENTRY, "id": "b", "audio": "../../etc/passwd"}),
        json.dumps({**ENTRY, "id": "b", "audio": "/etc/passwd"}),
        json.dumps({**ENTRY, "id": "b", "split": "fold3"}),
        json.dumps(ENTRY),  # the same id again
        json.dumps({"id": "b"}),
        json.dumps({**ENTRY, "id": "b", "audio": "\ud800"}),
    ],
)
def test_bad_manifest_line_is_one_reject_and_loses_nothing_else(tmp_path: Path, bad: str) -> None:
    last = json.dumps({**ENTRY, "id": "c"})
    write(tmp_path, "manifest.jsonl", f"{json.dumps(ENTRY)}\n\n{bad}\n{last}\n")
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert [track.id for track in tracks] == ["a", "c"]
    reason = "outside-root" if "passwd" in bad else "bad-entry"
    assert [(reject.id, reject.reason) for reject in rejects] == [("line 3", reason)]


def test_folder_reads_sidecars(tmp_path: Path) -> None:
    write(tmp_path, "disc/one.flac")
    write(
        tmp_path,
        "disc/one.json",
        {"license": "CC-BY-4.0", "author": "Bo", "name": "One", "url": "https://example.org/1", "bpm": 90}
        | {"genre": "reggae", "moods": ["calm", "sunny"], "description": "an easy groove", "key": "A minor"},
    )
    write(tmp_path, "disc/one.txt", "reggae to relax\n\nan easy groove\n")
    write(tmp_path, "two.WAV")
    write(tmp_path, "notes.pdf")
    one, two = read_source(str(tmp_path), CORPUS)
    assert one.id == "disc/one"
    assert (one.licence, one.artist, one.title) == ("CC-BY-4.0", "Bo", "One")
    assert one.captions == ("an easy groove", "reggae to relax", "reggae, calm, sunny, 90 bpm, key of A minor")
    assert one.tags == {"genre": "reggae", "moods": ["calm", "sunny"], "bpm": 90, "key": "A minor"}
    assert one.duration_s == 0.0  # unknown until the file is opened
    assert (two.id, two.licence, two.captions) == ("two", "", ())


def test_default_licence_fills_only_gaps(tmp_path: Path) -> None:
    write(tmp_path, "a.wav")
    write(tmp_path, "b.wav")
    write(tmp_path, "b.json", {"licence": "CC0-1.0"})
    tracks = read_source(str(tmp_path), CorpusConfig(default_licence="own-work"))
    assert [track.licence for track in tracks] == ["own-work", "CC0-1.0"]


@pytest.mark.parametrize(
    "sidecar",
    [
        "{",
        "[1]",
        '{"split": "fold3"}',
    ],
)
def test_bad_sidecar_rejects_its_track_alone(tmp_path: Path, sidecar: str) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"{name}.wav")
    write(tmp_path, "a.json", sidecar)
    tracks, rejects = scan_source(str(tmp_path), CORPUS)
    assert [track.id for track in tracks] == ["b"]
    assert [(reject.id, reject.reason) for reject in rejects] == [("a.wav", "bad-entry")]


def test_same_name_with_two_extensions_gives_two_tracks(tmp_path: Path) -> None:
    write(tmp_path, "a.flac")
    write(tmp_path, "a.wav")
    assert [track.id for track in read_source(str(tmp_path), CORPUS)] == ["a", "a.wav"]


def test_folder_split_holds_out_a_stable_share(tmp_path: Path) -> None:
    for index in range(200):
        write(tmp_path, f"{index:03d}.wav")
    first = {track.id: track.split for track in read_source(str(tmp_path), CORPUS)}
    assert 2 <= list(first.values()).count("val") <= 25
    write(tmp_path, "new.wav")
    second = {track.id: track.split for track in read_source(str(tmp_path), CORPUS)}
    assert {name: second[name] for name in first} == first


def test_folder_split_follows_sidecars_and_never_leaves_validation_empty(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, f"{name}.wav")
    splits = [track.split for track in read_source(str(tmp_path), CORPUS)]
    assert splits.count("val") == 1
    write(tmp_path, "b.json", {"split": "val"})
    assert {track.id: track.split for track in read_source(str(tmp_path), CORPUS)}["b"] == "val"


def test_missing_and_empty_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_source(str(tmp_path / "nowhere"), CORPUS)
    with pytest.raises(UserError, match="holds no tracks"):
        read_source(str(tmp_path), CORPUS)


def test_format_overrules_what_would_be_recognised(tmp_path: Path) -> None:
    write(tmp_path, "manifest.jsonl", ENTRY)
    write(tmp_path, "b.wav")
    assert [track.id for track in read_source(str(tmp_path), CORPUS)] == ["a"]
    assert [track.id for track in read_source(str(tmp_path), CorpusConfig(format="folder"))] == ["b"]
    assert [track.id for track in read_source(str(tmp_path), CorpusConfig(format="manifest"))] == ["a"]


@pytest.mark.parametrize("layout", ["manifest", "mtg-jamendo", "fma"])
def test_a_format_that_is_not_there_is_named(tmp_path: Path, layout: str) -> None:
    write(tmp_path, "a.wav")
    with pytest.raises(UserError, match=f"corpus.format={layout}, but .*{tmp_path}"):
        read_source(str(tmp_path), CorpusConfig(format=layout))


def test_captions_are_completed_from_tags_in_every_format(tmp_path: Path) -> None:
    write(tmp_path, "manifest.jsonl", {**ENTRY, "captions": []})
    (track,) = read_source(str(tmp_path), CorpusConfig(tag_captions=4))
    assert len(track.captions) == 4
    assert all("jazz" in caption for caption in track.captions)


def test_an_unknown_format_names_the_nearest_or_those_that_are_known(tmp_path: Path) -> None:
    message = r"corpus\.format=jamendo is unknown; did you mean mtg-jamendo\?"
    with pytest.raises(UserError, match=message):
        read_source(str(tmp_path), CorpusConfig(format="jamendo"))
    with pytest.raises(
        UserError, match=r"corpus\.format=vinyl is unknown; there are fma, folder, manifest, mtg-jamendo"
    ):
        read_source(str(tmp_path), CorpusConfig(format="vinyl"))


class CueSheet(Source):
    """A toy layout: names of tracks, one a line."""

    def recognises(self, uri: str) -> bool:
        return storage.exists(storage.join(uri, "tracks.cue"))

    def read(self, uri: str) -> Scan:
        if not self.recognises(uri):
            raise UserError(f"corpus.format=cue, but {uri} lacks tracks.cue")
        names = storage.read_text(storage.join(uri, "tracks.cue")).split()
        tracks = [
            Track(name, storage.join(uri, name), (), "train", "", "", name, "", 1.0, {"genre": "jazz"})
            for name in names
            if name.endswith(".wav")
        ]
        rejects = [Reject(name, "", "bad-entry", "no wave file") for name in names if not name.endswith(".wav")]
        return tracks, rejects


def test_a_source_is_added_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "cue", CueSheet)
    write(tmp_path, "a.wav")
    with pytest.raises(UserError, match=r"corpus\.format=cue, but .* lacks tracks\.cue"):
        read_source(str(tmp_path), CorpusConfig(format="cue"))
    assert [track.title for track in read_source(str(tmp_path), CORPUS)] == [""]  # a folder, as before
    write(tmp_path, "tracks.cue", "b.wav\nc.wav\nd.txt\n")
    for layout in ("auto", "cue"):
        settings = CorpusConfig(format=layout, default_licence="own-work", tag_captions=2)
        tracks, rejects = scan_source(str(tmp_path), settings)
        assert [(track.id, track.licence, len(track.captions)) for track in tracks] == [
            ("b.wav", "own-work", 2),
            ("c.wav", "own-work", 2),
        ]
        assert [(reject.id, reject.reason) for reject in rejects] == [("d.txt", "bad-entry")]
