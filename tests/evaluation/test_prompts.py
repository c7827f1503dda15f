"""Sets of prompts: the demo's, MusicCaps and Song Describer in their published CSV layout, and plain tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmttm import config
from ssmttm.errors import UserError
from ssmttm.evaluation.prompts import (
    FREE_FORM_PROMPTS,
    MUSICCAPS,
    SONG_DESCRIBER,
    Caption,
    Prompt,
    by_rounds,
    choose,
    held_out_tracks,
    read_captions,
    read_prompts,
    segments,
)


def test_the_demos_prompts_have_ids() -> None:
    prompts = read_prompts("demo")
    assert len(prompts) == len(FREE_FORM_PROMPTS)
    assert prompts[0] == Prompt("demo-000", FREE_FORM_PROMPTS[0][0])


def test_published_sets_and_their_subsets(tmp_path: Path) -> None:
    caps = tmp_path / "musiccaps.csv"
    rows = [f"id{i},30,40,/m/1,\"['a']\",caption {i},1,{i == 1},True" for i in range(3)]
    caps.write_text("\n".join([",".join(MUSICCAPS), *rows]))
    assert read_prompts(str(caps))[2] == Prompt("id2", "caption 2")
    assert read_prompts(str(caps), only_subset=True) == [Prompt("id1", "caption 1")]
    describer = tmp_path / "sdd.csv"
    describer.write_text(f"{','.join(SONG_DESCRIBER)}\n7,1,calm harp,True,0,2,3,00/1.mp3,120\n")
    assert read_prompts(str(describer)) == [Prompt("7", "calm harp")]


def test_plain_tables(tmp_path: Path) -> None:
    table, lines, texts = (tmp_path / f"prompts.{end}" for end in ("csv", "jsonl", "txt"))
    table.write_text('id,genre,prompt\nx,jazz,"slow, calm"\n,rock,loud\n')
    assert read_prompts(str(table)) == [Prompt("x", "slow, calm"), Prompt("0001", "loud")]
    lines.write_text(json.dumps({"caption": "slow", "id": 4}) + "\n\n" + json.dumps({"prompt": "loud"}))
    assert read_prompts(str(lines)) == [Prompt("4", "slow"), Prompt("0001", "loud")]
    texts.write_text("slow\n\nloud\n")
    assert read_prompts(str(texts)) == [Prompt("0000", "slow"), Prompt("0001", "loud")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,genre\n1,jazz\n", "columns id, genre; it needs 'prompt' or 'caption'"),
        ("a.csv", "id,prompt\n1\n", "line 2: 1 cells, the header has 2"),
        ("a.csv", "id,prompt\n1,x\n1,y\n", "id '1' occurs twice"),
        ("a.csv", "id,prompt\n1,\n", "has no text"),
        ("a.csv", "id,prompt\n", "holds no prompts"),
        ("a.jsonl", "[1]\n", "line 1 needs a text"),
        ("a.jsonl", "{\n", "line 1 is not valid JSON"),
        ("a.xml", "", "give 'demo' or a .csv"),
    ],
)
def test_malformed_sets_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))


def test_only_published_sets_have_subsets() -> None:
    with pytest.raises(UserError, match="no published subset"):
        read_prompts("demo", only_subset=True)


def test_a_choice_is_the_seeds_and_in_order() -> None:
    prompts = read_prompts("demo")
    chosen = choose(prompts, 5, 0)
    assert len(chosen) == 5
    assert chosen == choose(prompts, 5, 0) == sorted(chosen, key=prompts.index)
    assert chosen != choose(prompts, 5, 1)
    assert choose(prompts, 1000, 0) == prompts


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


def test_clips_of_other_genres_come_first() -> None:
    assert by_rounds(["a", "a", "b", "a", "c", "b"]) == [0, 2, 4, 1, 5, 3]


def test_rows_without_tags_are_refused(
    tiny_config: config.Config, tiny_tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmttm.tokens.read.TokenDataset.tags", lambda *_: {"genre": "rock"})
    with pytest.raises(UserError, match="has no tag 'lead'; evaluation needs genre, lead, drums"):
        segments(tiny_config)


def test_held_out_captions_lie_beside_their_recordings(tiny_config: config.Config, tiny_tokens: str) -> None:
    training, held_out = segments(tiny_config)
    assert [prompt.id for prompt in held_out] == ["held-out-000", "held-out-001"]
    assert (len(training), len(held_out_tracks(tiny_config))) == (6, 2)
    for prompt in held_out:
        assert prompt.recording is not None
        assert prompt.codes_KT is not None
        assert prompt.recording.read(24_000).seconds == tiny_config.corpus.segment_seconds
