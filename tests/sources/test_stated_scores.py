"""What sidecars and tables state of a track's course becomes its score, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.beat import IN_BEAT, Beat
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Reject, Track, write_manifest
from ssmttm.sources.readers import scan_source
from ssmttm.sources.score import read_score

BEATS = [0.5, 1.0, 1.52, 2.0, 2.5]


def grids(**stated: Any) -> list[tuple[float, Any, Any, Any]]:
    """Time, tempo, metre and number of each beat that is stated."""
    timeline = read_score(stated)["beat"]
    assert timeline[-1] == [BEATS[-1], None]
    return [(time, round(value["bpm"], 1), value["meter"], value["beat"]) for time, value in timeline[:-1]]


def test_each_beat_has_its_own_length() -> None:
    assert grids(beats=BEATS) == [(0.5, 120, None, 1), (1.0, 115.4, None, 1), (1.52, 125, None, 1), (2.0, 120, None, 1)]


@pytest.mark.parametrize(
    ("stated", "bars"),
    [
        ({"meter": 3}, [(3, 1), (3, 2), (3, 3), (3, 1)]),
        ({"meter": "3/4"}, [(3, 1), (3, 2), (3, 3), (3, 1)]),
        ({"meter": "6/8"}, [("6/8", 1), ("6/8", 2), ("6/8", 1), ("6/8", 2)]),
        ({"downbeats": [1.0, 2.0]}, [(2, 2), (2, 1), (2, 2), (2, 1)]),
        ({"downbeats": [1.01, 2.49]}, [(3, 3), (3, 1), (3, 2), (3, 3)]),
        ({"downbeats": [0.5, 2.0], "meter": 4}, [(3, 1), (3, 2), (3, 3), (3, 1)]),  # what is stated in full counts
        ({"downbeats": [1.0]}, [(None, 1)] * 4),  # one bar line tells no length
        ({"downbeats": [0.5, 1.0]}, [(None, 1)] * 4),  # no metre has one beat
    ],
)
def test_bars_begin_at_downbeats_or_are_counted_from_the_first_beat(
    stated: dict[str, Any], bars: list[tuple[Any, int]]
) -> None:
    assert [(metre, beat) for _, _, metre, beat in grids(beats=BEATS, **stated)] == bars


def test_a_long_gap_between_beats_is_not_filled() -> None:
    assert read_score({"beats": [0, 1, 5, 6]})["beat"][1] == [1, None]


@settings(max_examples=30)
@given(st.lists(st.floats(0.2, 1.0), min_size=2, max_size=12), st.sampled_from([None, 2, 3, 4, "6/8"]))
def test_a_bump_stands_at_every_beat_that_is_stated(lengths: list[float], meter: Any) -> None:
    times = np.cumsum(lengths).round(3).tolist()
    written = Beat().read(read_score({"beats": times, "meter": meter})["beat"], "beat")
    np.testing.assert_allclose(Beat().at(written, np.array(times[:-1]))[4], 1, atol=1e-6)
    middle = [time + length / 8 for time, length in zip(times, np.diff(times), strict=False)]
    assert Beat().at(written, np.array(middle))[4].max() < 0.99
    assert Beat().at(written, np.array(times[:-1]))[4 : 4 + IN_BEAT].sum(axis=0).max() < 1.7


def test_keys_and_chords() -> None:
    assert read_score({"key": "A minor"}) == {"scale": "A minor"}
    assert read_score({"Key": "A", "mode": "minor"}) == {"scale": "A minor"}
    assert read_score({"keyscale": "F# major"}) == {"scale": "F# major"}
    assert read_score({"key": "8A"}) == read_score({"key": "A"}) == {}  # a tag as before
    assert read_score({"chords": "Am7"}) == {"chord": "Am7"}
    assert read_score({"chords": [[0, "Am"], [2, "F"]]}) == {"chord": [[0, "Am"], [2, "F"]]}


def test_a_tempo_alone_tells_no_beats() -> None:
    assert read_score({"bpm": 120, "tempo": 120, "meter": 4}) == {}


def test_a_whole_score_counts_before_other_fields() -> None:
    whole = {"chord": "C", "drums": [[0, True], [4, False]]}
    assert read_score({"score": whole, "chords": "Am", "key": "C major"}) == {**whole, "scale": "C major"}
    assert read_score({"score": 0.87}) == {}  # somebody's opinion of the track


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"beats": 120}, r"beats is 120; give a list of seconds"),
        ({"beats": [1]}, r"beats is \[1\]; give the seconds of two beats or more"),
        ({"beats": [1, 1]}, r"beats are not in the order of time"),
        ({"beats": [0, -1]}, r"beats\[1\] is -1; give a number from 0"),
        ({"beats": [0, 0.1]}, r"beats\[0\]\.bpm is 600.*; give a number from 20 to 400"),
        ({"beats": [0, 1], "downbeats": [0.5]}, r"downbeats name 0\.5 s, where no beat is"),
        ({"beats": [0, 1], "meter": 9}, r"meter is 9; give 2 to 7 or \"6/8\""),
        ({"chords": "H"}, r"chords is 'H'; give a chord symbol"),
        ({"chords": ["Am", "F"]}, r"chords\[0\] is 'Am'; give \[seconds, value\]"),
        ({"score": {"drums": 1}}, r"score\.drums is 1; give true or false"),
        ({"score": {"tuba": True}}, r"score\.tuba is no control that can be written down"),
    ],
)
def test_what_makes_no_sense_is_told_by_its_own_name(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_score(stated)


def scan(folder: Path) -> tuple[dict[str, Track], list[Reject]]:
    tracks, rejects = scan_source(str(folder), CorpusConfig(default_licence="CC0-1.0"))
    return {track.id: track for track in tracks}, rejects


def test_sidecars_and_tables_state_scores(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    (tmp_path / "a.json").write_text(json.dumps({"key": "A minor", "bpm": 120, "beats": [0, 0.5, 1]}))
    (tmp_path / "b.json").write_text(json.dumps({"title": "B", "chords": "nonsense", "key": "C major"}))
    (tmp_path / "metadata.csv").write_text('file_name,beats,chords\nc.wav,"[0, 0.5]",Am\na.wav,,F\n')
    tracks, rejects = scan(tmp_path)
    assert tracks["a"].score["scale"] == "A minor"
    assert tracks["a"].score["chord"] == "F"
    assert [time for time, _ in tracks["a"].score["beat"]] == [0, 0.5, 1]
    assert (tracks["a"].tags["bpm"], tracks["a"].tags["key"]) == (120, "A minor")  # as before
    assert tracks["c"].score["chord"] == "Am"
    assert tracks["b"].score == {}
    assert tracks["b"].title == "B"  # nothing else is lost
    (reject,) = rejects
    assert (reject.id, reject.reason) == ("b.wav", "bad-entry")
    assert reject.detail.startswith("chords is 'nonsense'; give a chord symbol")
    assert reject.detail.endswith("b.wav goes on without it")


def test_scores_of_sidecars_reach_the_manifest(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    (tmp_path / "a.json").write_text(json.dumps({"chords": [[0, "Am"]]}))
    write_manifest(str(tmp_path), scan(tmp_path)[0].values())
    assert scan(tmp_path)[0]["a"].score == {"chord": [[0, "Am"]]}
