"""MusicCaps and Song Describer in their published CSV layout."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmttm.errors import UserError
from ssmttm.evaluation.caption_sets import MUSICCAPS, SONG_DESCRIBER, Caption, read_captions

MUSICCAPS_TEXT = """ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,\
is_balanced_subset,is_audioset_eval
-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck,/m/04rlf","['low quality', 'sustained strings', ""70's""]","The low quality
recording features a ballad, ""slow"".",4,False,True
-0SdAVK79lg,30,40,/m/0155w,"['guitar song']",A song.,0,True,False
"""
SONG_DESCRIBER_TEXT = """caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration
859,1004034,"electronic tune, calm",True,0,368880,118196,34/1004034.mp3,202.5
860,1004034,a second caption,,1,368880,118196,34/1004034.mp3,202.5
"""


def test_musiccaps(tmp_path: Path) -> None:
    (tmp_path / "musiccaps-public.csv").write_text(MUSICCAPS_TEXT)
    first, second = read_captions(str(tmp_path / "musiccaps-public.csv"))
    assert first == Caption(
        id="-0Gj8-vB1q4",
        caption='The low quality\nrecording features a ballad, "slow".',
        audio="https://www.youtube.com/watch?v=-0Gj8-vB1q4",
        start_s=30.0,
        end_s=40.0,
        in_subset=False,
        aspects=("low quality", "sustained strings", "70's"),
    )
    assert second.in_subset


def test_song_describer(tmp_path: Path) -> None:
    (tmp_path / "song_describer.csv").write_text("\ufeff" + SONG_DESCRIBER_TEXT)
    first, second = read_captions(str(tmp_path / "song_describer.csv"))
    assert first == Caption("859", "electronic tune, calm", "34/1004034.mp3", 0.0, 202.5, True)
    assert (second.id, second.audio, second.in_subset) == ("860", "34/1004034.mp3", False)


def test_unknown_header_names_file_and_columns(tmp_path: Path) -> None:
    uri = str(tmp_path / "captions.csv")
    Path(uri).write_text("id,text\n1,a\n")
    with pytest.raises(UserError, match=r"captions\.csv has the columns id, text; expected ytid, .*caption_id, "):
        read_captions(uri)
    with pytest.raises(UserError, match="does not exist"):
        read_captions(uri + "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MUSICCAPS_TEXT.replace("-0SdAVK79lg", "-0Gj8-vB1q4"), "line 4: id '-0Gj8-vB1q4' occurs twice"),
        (MUSICCAPS_TEXT.replace("['guitar song']", "guitar song"), "line 4: aspect_list"),
        (MUSICCAPS_TEXT.replace("lg,30", "lg,half"), "line 4: start_s 'half'"),
        (MUSICCAPS_TEXT.replace("0,True,False", "0,yes,False"), "line 4: is_balanced_subset"),
        (SONG_DESCRIBER_TEXT.replace("a second caption", ""), "line 3: no id or no caption"),
        (SONG_DESCRIBER_TEXT.replace("a second caption,", ""), "line 3: 8 cells"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_captions(str(tmp_path / "set.csv"))


TEXT = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda text: text == text.strip()
)


@given(rows=st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3), st.booleans()), max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_captions_survive_csv(tmp_path: Path, rows: list[tuple[str, list[str], bool]]) -> None:
    for columns in (MUSICCAPS, SONG_DESCRIBER):
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(columns)
        for number, (caption, aspects, flag) in enumerate(rows):
            values = {"ytid": number, "caption_id": number, "caption": caption, "aspect_list": repr(aspects)}
            values |= {"start_s": 0, "end_s": 10, "duration": 10, "is_balanced_subset": flag, "is_valid_subset": flag}
            writer.writerow([values.get(name, "") for name in columns])
        (tmp_path / "set.csv").write_text(stream.getvalue(), newline="")
        read = read_captions(str(tmp_path / "set.csv"))
        assert [(entry.caption, entry.in_subset) for entry in read] == [(caption, flag) for caption, _, flag in rows]
