from __future__ import annotations

import re
from random import Random

import pytest

from ssmttm.corpus import vocabulary
from ssmttm.corpus.attributes import Attributes
from ssmttm.corpus.captions import FRAMES, Facts, article, write_captions
from ssmttm.corpus.composer import attributes_of
from ssmttm.corpus.genres import GENRES
from ssmttm.corpus.instruments import LEADS
from ssmttm.corpus.prompts import FREE_FORM_PROMPTS
from ssmttm.corpus.scenes import SCENES

PIECES = [attributes_of(7, index) for index in range(160)]


def _mentions(text: str, choices: tuple[str, ...]) -> bool:
    return any(choice.lower() in text.lower() for choice in choices)


def _states_drums(text: str, drums: bool) -> bool:
    without = re.search(
        r"(no|without|without any) (drums|percussion|beat)|drumless|minus the drums|nobody plays|drums: no", text
    )
    with_drums = re.search(r"drum|percussion", text)
    return bool(with_drums and not without) if drums else bool(without)


@pytest.mark.parametrize("piece", PIECES[:64])
def test_first_caption_names_everything(piece: Attributes) -> None:
    text = write_captions(Random(3), piece, 1)[0]
    assert _mentions(text, vocabulary.GENRE_WORDS[piece.genre].names), text
    assert _mentions(text, vocabulary.LEAD_WORDS[piece.lead]), text
    assert re.search(rf"\b{piece.bpm} ?(bpm|beats|,|\W|$)", text, re.IGNORECASE), text
    keys = vocabulary.KEY_WORDS.get(piece.key, (piece.key,))
    assert _mentions(text, tuple(f"{key} {piece.mode}" for key in keys)), text
    assert _states_drums(text.lower(), piece.drums), text


def test_captions_never_contradict_the_piece() -> None:
    for index, piece in enumerate(PIECES):
        other_mode = {"major": "minor", "minor": "major"}[piece.mode]
        for text in write_captions(Random(index), piece, 8):
            lower = text.lower()
            assert not re.search(rf"\b{other_mode}\b", lower), text
            for number in re.findall(r"(\d+) ?(?:bpm|beats)", lower):
                assert int(number) == piece.bpm, text
            if re.search(r"\bno (drums|beat|percussion)|without (drums|any)|drumless|drums: no", lower):
                assert not piece.drums, text


def test_same_seed_same_captions_and_no_doubles() -> None:
    for index, piece in enumerate(PIECES[:40]):
        captions = write_captions(Random(index), piece, 6)
        assert captions == write_captions(Random(index), piece, 6)
        assert len(set(captions)) == 6
        assert all(2 <= len(text) <= 300 and text == text.strip() and "{" not in text for text in captions)


def test_many_shapes() -> None:
    """Shapes with every number and word of content blotted out, so that only the phrasing counts."""
    content = {word for genre in vocabulary.GENRE_WORDS.values() for group in genre for word in group}
    content |= {scene for group in SCENES.values() for scene in group}
    content |= {word for group in (*vocabulary.LEAD_WORDS.values(), *vocabulary.MOOD_WORDS.values()) for word in group}
    content |= {word for _, group in vocabulary.TEMPO_WORDS for word in group}
    pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, content), key=len, reverse=True)) + r")\b|\d+", re.I)
    shapes = {
        pattern.sub("*", text).lower()
        for index, piece in enumerate(PIECES)
        for text in write_captions(Random(index), piece, 6)
    }
    assert len(FRAMES) >= 12
    assert len(shapes) > 600


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_keeps_complete_facts(frame) -> None:
    for index, piece in enumerate(PIECES[:40]):
        rng = Random(index)
        facts = Facts(rng, piece, complete=True)
        text = frame(rng, facts)
        assert facts.genre
        assert facts.genre in text
        assert facts.values["lead"] in text
        assert str(piece.bpm) in text
        assert facts.values["key"] in text


def test_vocabulary_covers_every_genre_and_lead() -> None:
    assert set(vocabulary.GENRE_WORDS) == set(SCENES) == set(GENRES)
    assert set(vocabulary.LEAD_WORDS) == set(LEADS)
    for name, genre in GENRES.items():
        assert set(genre.leads) <= set(LEADS), name
    assert [article(word) for word in ("organ", "jazz tune", "EDM track", "85 bpm groove", "up-tempo jam")] == [
        "an organ", "a jazz tune", "an EDM track", "an 85 bpm groove", "an up-tempo jam",
    ]  # fmt: skip


def test_free_form_prompts_are_balanced_and_share_no_phrase_with_the_grammar() -> None:
    genres = [genre for _, genre in FREE_FORM_PROMPTS]
    assert {genre: genres.count(genre) for genre in GENRES} == dict.fromkeys(GENRES, 8)
    assert len({prompt for prompt, _ in FREE_FORM_PROMPTS}) == 64

    def runs(text: str) -> set[str]:
        words = re.findall(r"[a-z0-9']+", text.lower())
        return {" ".join(words[start : start + 4]) for start in range(len(words) - 3)}

    seen: set[str] = set()
    for index, piece in enumerate(PIECES):
        for text in write_captions(Random(index), piece, 12):
            seen |= runs(text)
    for prompt, _ in FREE_FORM_PROMPTS:
        assert not runs(prompt) & seen, prompt
