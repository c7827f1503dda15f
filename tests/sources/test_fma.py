"""FMA in its published layout, on a few rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.licences import normalise
from ssmttm.sources.manifest import Track
from ssmttm.sources.readers import read_source, scan_source

CORPUS = CorpusConfig()
# Some of the published columns, in their order.
COLUMNS = [
    ("album", "information"),
    ("album", "title"),
    ("artist", "name"),
    ("set", "split"),
    ("set", "subset"),
    ("track", "duration"),
    ("track", "genre_top"),
    ("track", "genres"),
    ("track", "license"),
    ("track", "title"),
]
ROWS = {
    "2": [
        "<p>Two\nlines, quoted</p>",
        "AWOL",
        "AWOL",
        "training",
        "small",
        "168",
        "Hip-Hop",
        "[21]",
        "Attribution",
        "Food",
    ],
    "10": ["", "C", "Kurt Vile", "test", "medium", "161", "", "[10, 76]", "Attribution-NonCommercial 3.0", "Freeway"],
    "154321": [
        "x" * 200_000,
        "N",
        "Nicky Cook",
        "validation",
        "large",
        "20",
        "",
        "[]",
        "CC0 1.0 Universal",
        "Spiritual",
    ],
}


def write(root: Path, rows: dict[str, list[str]] = ROWS, audio: tuple[str, ...] = ("fma_full",)) -> Path:
    (root / "fma_metadata").mkdir(exist_ok=True)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["", *(first for first, _ in COLUMNS)])
    writer.writerow(["", *(second for _, second in COLUMNS)])
    writer.writerow(["track_id", *("" for _ in COLUMNS)])
    writer.writerows([number, *cells] for number, cells in rows.items())
    (root / "fma_metadata/tracks.csv").write_text(stream.getvalue(), newline="")
    for folder in audio:
        (root / folder).mkdir(exist_ok=True)
    return root


def read(root: Path) -> dict[str, Track]:
    return {track.id: track for track in read_source(str(root), CORPUS)}


def test_published_layout_is_recognised_and_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "fma_metadata/genres.csv").write_text(
        "genre_id,#tracks,parent,title,top_level\n10,1,0,Pop,10\n21,1,0,Hip-Hop,21\n76,1,10,Experimental Pop,10\n"
    )
    (tmp_path / "fma_metadata/raw_tracks.csv").write_text(
        "track_id,track_title,track_url\n2,Food,http://freemusicarchive.org/music/AWOL/food\n"
    )
    tracks = read(tmp_path)
    assert list(tracks) == ["fma_000002", "fma_000010", "fma_154321"]
    first = tracks["fma_000002"]
    assert first.audio == str(tmp_path / "fma_full/000/000002.mp3")
    assert (first.artist, first.title, first.duration_s) == ("AWOL", "Food", 168.0)
    assert first.source_url == "http://freemusicarchive.org/music/AWOL/food"
    assert first.tags == {"genre": ["Hip-Hop"]}
    assert first.captions
    assert tracks["fma_000010"].tags == {"genre": ["Pop", "Experimental Pop"]}
    assert tracks["fma_154321"].audio == str(tmp_path / "fma_full/154/154321.mp3")
    assert (tracks["fma_154321"].tags, tracks["fma_154321"].captions) == ({}, ())
    assert [track.split for track in tracks.values()] == ["train", "val", "val"]
    assert [normalise(track.licence) for track in tracks.values()] == ["CC-BY", "CC-BY-NC", "CC0-1.0"]


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        (("fma_small",), ["fma_000002"]),
        (("fma_small", "fma_medium"), ["fma_000002", "fma_000010"]),
        (("fma_large",), ["fma_000002", "fma_000010", "fma_154321"]),
    ],
)
def test_clips_are_those_of_the_largest_folder(tmp_path: Path, audio: tuple[str, ...], expected: list[str]) -> None:
    tracks = read(write(tmp_path, audio=audio))
    assert list(tracks) == expected
    assert all(track.audio.startswith(f"{tmp_path}/{audio[-1]}/") for track in tracks.values())
    assert tracks["fma_000002"].duration_s == 30.0
    if "fma_154321" in tracks:
        assert tracks["fma_154321"].duration_s == 20.0


@pytest.mark.parametrize(
    ("position", "value"), [(3, "fold3"), (4, "huge"), (5, "long"), (7, "rock"), (7, "21"), (7, '{"a": 1}')]
)
def test_bad_row_is_one_reject(tmp_path: Path, position: int, value: str) -> None:
    bad = list(ROWS["10"])
    bad[position] = value
    tracks, rejects = scan_source(str(write(tmp_path, {**ROWS, "10": bad})), CORPUS)
    assert [track.id for track in tracks] == ["fma_000002", "fma_154321"]
    assert [(reject.id, reject.reason) for reject in rejects] == [
        ("line 6", "bad-entry")
    ]  # the row before has two lines


def test_bad_ids_and_short_rows_are_rejects(tmp_path: Path) -> None:
    rows = {"2": ROWS["2"], "../3": ROWS["2"], "02": ROWS["2"], "5": ["short"]}
    tracks, rejects = scan_source(str(write(tmp_path, rows)), CORPUS)
    assert [track.id for track in tracks] == ["fma_000002"]
    assert [reject.reason for reject in rejects] == ["bad-entry"] * 3


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    named = CorpusConfig(format="fma")
    with pytest.raises(UserError, match=r"lacks fma_metadata/tracks\.csv and an audio folder \(fma_full"):
        read_source(str(tmp_path), named)
    write(tmp_path, audio=())
    with pytest.raises(UserError, match="lacks an audio folder"):
        read_source(str(tmp_path), named)
    (tmp_path / "fma_small").mkdir()
    (tmp_path / "fma_metadata/tracks.csv").write_text("track_id,title\n2,Food\n3,Other\n")
    with pytest.raises(UserError, match="header of three rows"):
        read_source(str(tmp_path), named)
    (tmp_path / "fma_metadata/tracks.csv").write_text(",track\n,title\ntrack_id,\n")
    with pytest.raises(UserError, match=r"lacks the columns \('set', 'split'\)"):
        read_source(str(tmp_path), named)


CELL = st.sampled_from(["training", "small", "[21]", "10", "nan", "[null]", "1e999"]) | st.text(
    alphabet=st.characters(codec="utf-8"), max_size=5
)


@given(rows=st.dictionaries(CELL, st.lists(CELL, min_size=9, max_size=10), max_size=4))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_are_tracks_or_rejects(tmp_path: Path, rows: dict[str, list[str]]) -> None:
    tracks, rejects = scan_source(str(write(tmp_path, {**rows, "999": ROWS["2"]})), CORPUS)
    assert "fma_000999" in [track.id for track in tracks]
    assert all(reject.reason == "bad-entry" for reject in rejects)
