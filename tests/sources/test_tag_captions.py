"""Captions from tags: the same every time, different from one another, grammatical; rephrased captions."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.captions import captions_from_tags, complete_captions, read_facts, spell, with_article
from ssmttm.sources.manifest import Track

TAGS = {
    "genre": ["hiphop", "80s"],
    "mood": ["uplifting", "sad", "film"],
    "instrument": ["electricguitar", "ukulele", "drums", "voice"],
    "bpm": 85,
    "key": "A",
    "mode": "minor",
}


def track(name: str, captions: tuple[str, ...] = (), tags: dict[str, Any] | None = None) -> Track:
    return Track(name, f"{name}.wav", captions, "train", "CC0", "", "", "", 1.0, tags or {})


def test_same_track_same_captions_whatever_the_others() -> None:
    corpus = CorpusConfig(tag_captions=5)
    alone = complete_captions([track("a", tags=TAGS)], corpus)[0].captions
    among = complete_captions([track("b", tags=TAGS), track("a", tags=TAGS)], corpus)
    assert among[1].captions == alone
    assert among[0].captions != alone
    assert len(set(alone)) == 5


def test_shapes_orders_and_omissions_differ() -> None:
    captions = captions_from_tags("a", TAGS, 200)
    assert len(captions) == 200
    assert {caption[0].isupper() for caption in captions} == {True, False}
    for word in ("hip-hop", "80s", "uplifting", "for a film", "electric guitar", "85", "A minor", "track", "music"):
        share = sum(word in caption for caption in captions) / len(captions)
        assert 0.03 < share < 0.97, word
    assert any(caption.find("85") < caption.find("A minor") for caption in captions if "A minor" in caption)
    assert any(-1 < caption.find("A minor") < caption.find("85") for caption in captions)


def test_captions_are_grammatical() -> None:
    for index in range(40):
        for caption in captions_from_tags(str(index), TAGS, 20):
            assert not re.search(
                r"\b[aA] (?:80s|uplifting|electric|epic)\b|\b[aA]n (?:ukulele|hip|sad|track)\b", caption
            )
            assert not re.search(r"  | [,.]|,,|\.\.|\{|\}|None|\[|\b(\w+) \1\b", caption), caption


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("ukulele tune", "a ukulele tune"),
        ("uplifting tune", "an uplifting tune"),
        ("uninhibited tune", "an uninhibited tune"),
        ("R&B song", "an R&B song"),
        ("EDM song", "an EDM song"),
        ("DJ set", "a DJ set"),
        ("80s hit", "an 80s hit"),
        ("90s hit", "a 90s hit"),
        ("118 bpm groove", "a 118 bpm groove"),
        ("European folk", "a European folk"),
        ("Latin piece", "a Latin piece"),
    ],
)
def test_articles_follow_the_sound(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected


@pytest.mark.parametrize(
    ("tag", "words"),
    [("drumandbass", "drum and bass"), ("Hip-Hop", "hip-hop"), ("EDM", "EDM"), ("Rock / Pop", "rock and pop")],
)
def test_tags_are_spelt_as_in_a_sentence(tag: str, words: str) -> None:
    assert spell(tag) == words


def test_own_captions_keep_tags_from_speaking() -> None:
    (kept,) = complete_captions([track("a", ("mine",), TAGS)], CorpusConfig())
    assert kept.captions == ("mine",)
    (without,) = complete_captions([track("a", (" ",), TAGS)], CorpusConfig(tag_captions=0))
    assert without.captions == ()


@pytest.mark.parametrize(
    "tags", [{}, {"soundfont": "x"}, {"genre": []}, {"genre": [{}], "bpm": "fast", "key": 3}, {"bpm": 0}]
)
def test_tags_that_say_nothing_give_no_caption(tags: dict[str, Any]) -> None:
    assert captions_from_tags("a", tags, 3) == ()


def test_few_tags_give_fewer_captions() -> None:
    captions = captions_from_tags("a", {"genre": "jazz"}, 100)
    assert 5 < len(captions) == len(set(captions)) < 100


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("genre", "genres", "mood", "moods", "instrument", "instruments", "lead", "keywords", "bpm", "key", "mode")


@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_any_tags_give_captions_or_none(tags: dict[str, Any], count: int) -> None:
    captions = captions_from_tags("a", tags, count)
    assert captions == captions_from_tags("a", tags, count)
    assert len(set(captions)) == len(captions) <= count
    assert all(caption.strip() for caption in captions)
    assert bool(captions) == (count > 0 and bool(read_facts(tags)))


def test_rephrased_captions_are_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        {"id": "a", "captions": ["again", "mine"]},
        {"id": "gone", "captions": ["x"]},
        {"id": "a", "captions": ["b"]},
    ]
    (tmp_path / "rephrased.jsonl").write_text(
        "\n".join(map(json.dumps, [*lines, {"id": "lost", "captions": []}])) + "\n"
    )
    corpus = CorpusConfig(rephrased=str(tmp_path / "rephrased.jsonl"))
    with caplog.at_level(logging.WARNING):
        first, second = complete_captions([track("a", ("mine",)), track("b", (), {"genre": "jazz"})], corpus)
    assert first.captions == ("mine", "again", "b")
    assert len(second.captions) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"corpus.rephrased={corpus.rephrased}: 2 ids are of no track, such as gone"
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "3",
        '{"id": "a"}',
        '{"id": 1, "captions": []}',
        '{"id": "a", "captions": [1]}',
        r'{"id": "\ud800", "captions": []}',
    ],
)
def test_malformed_rephrased_line_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "rephrased.jsonl").write_text('{"id": "a", "captions": ["x"]}\n\n' + bad)
    with pytest.raises(UserError, match=r"rephrased\.jsonl line 3 is not"):
        complete_captions([track("a")], CorpusConfig(rephrased=str(tmp_path / "rephrased.jsonl")))
