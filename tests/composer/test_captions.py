from __future__ import annotations

import re
from random import Random

import pytest

from ssmttm.composer.captions import SHAPES, Facts, article, write_captions
from ssmttm.composer.genres import GENRES, LEADS
from ssmttm.composer.harmony import KEYS
from ssmttm.composer.metres import METERS
from ssmttm.composer.pieces import Attributes, attributes_of
from ssmttm.composer.words import GENRE_WORDS, KEY_WORDS, LEAD_WORDS, METER_WORDS, MOOD_WORDS, TEMPO_WORDS
from ssmttm.conditions.encoders import load_text_encoder
from ssmttm.config import TextConfig
from ssmttm.evaluation.prompts import FREE_FORM_PROMPTS

HINTS = ("scenes", "places", "pictures", "likenesses", "adjectives")  # what stands for a genre
PIECES = [attributes_of(7, index) for index in range(160)]


def _mentions(text: str, choices: tuple[str, ...]) -> bool:
    return any(choice.lower() in text.lower() for choice in choices)


def _spellings(key: str, mode: str) -> tuple[str, ...]:
    names = KEY_WORDS.get(key, (key,))
    symbols = [f"{name}m" if mode == "minor" else f"{name} maj" for name in names if len(name) <= 2]
    return (*(f"{name} {mode}" for name in names), *symbols)


def _states_drums(text: str, drums: bool) -> bool:
    without = re.search(
        r"(no|zero|without|any) (drums|percussion|beat)|drumless|drum-free|minus the drums|nobody plays|drums: no",
        text,
    )
    with_drums = re.search(r"drum|percussion", text)
    return bool(with_drums and not without) if drums else bool(without)


@pytest.mark.parametrize("piece", PIECES[:64])
def test_first_caption_names_everything(piece: Attributes) -> None:
    text = write_captions(Random(3), piece, 1)[0]
    assert _mentions(text, GENRE_WORDS[piece.genre].names), text
    assert _mentions(text, LEAD_WORDS[piece.lead]), text
    assert re.search(rf"\b{round(piece.bpm)} ?(bpm|beats|,|\W|$)", text, re.IGNORECASE), text
    assert piece.modulates or _mentions(text, _spellings(piece.key, piece.mode)), text
    assert _states_drums(text.lower(), piece.drums), text


# Words that belong to one genre alone, and those of leads that no accompaniment plays.
OWN_NAMES = {
    "rock": "rock|grunge|metal|punk",
    "techno": "techno|edm|rave|trance|(?<!opera )house",
    "jazz": "jazz|bebop|swing",
    "classical": "classical|orchestral|symphonic|baroque",
    "reggae": "reggae|rocksteady|dub",
    "country": "country|bluegrass|americana|hillbilly",
    "ambient": "ambient|new age|drone",
    "hip hop": "hip hop|hip-hop|rap|boom bap|lofi",
}
OWN_LEADS = {
    "harmonica": "harmonica|mouth organ|blues harp",
    "banjo": "banjo",
    "violin": "violin|fiddle",
    "cello": "cello|violoncello",
    "trumpet": "trumpet|horn",
    "saxophone": "saxophone|sax",
    "clarinet": "clarinet",
    "flute": "flute",
    "vibraphone": "vibraphone|mallets",
    "choir": "choir|voices|vocals",
    "synth lead": "synth lead|saw synth|saw lead|lead synth",
}


def test_captions_never_contradict_the_piece() -> None:
    for index, piece in enumerate(PIECES):
        other_mode = {"major": "minor", "minor": "major"}[piece.mode]
        for text in write_captions(Random(index), piece, 8):
            lower = text.lower()
            assert not re.search(rf"\b{other_mode}\b", lower), text
            for number in re.findall(r"(\d+) ?(?:bpm|beats)", lower):
                assert int(number) == round(piece.bpm), text
            assert not (
                piece.drums and re.search(r"\b(no|zero|without|any) (drum|beat|perc)|drumless|drum-free", lower)
            ), text
            for key in KEYS:
                if key != piece.key or piece.modulates:
                    named = [rf"(?<![\w#]){re.escape(name)}(?![\w#])" for name in _spellings(key, piece.mode)]
                    assert not any(re.search(name, text) for name in named), text
            for meter in METERS:
                if meter != piece.meter:
                    named = "|".join(rf"\b{re.escape(name)}\b" for name in METER_WORDS[meter])
                    assert not re.search(named, lower), text
            for genre, names in OWN_NAMES.items():
                assert genre == piece.genre or not re.search(rf"\b({names})\b", lower), text
            for lead, pattern in OWN_LEADS.items():
                assert lead == piece.lead or not re.search(rf"\b({pattern})\b", lower), (lead, text)
            if piece.key != "A":  # the text encoder is uncased
                assert not re.search(r"\ba (minor|major)\b", lower), text


def test_same_seed_same_captions_and_no_doubles() -> None:
    for index, piece in enumerate(PIECES[:40]):
        captions = write_captions(Random(index), piece, 6)
        assert captions == write_captions(Random(index), piece, 6)
        assert len(set(captions)) == 6
        assert all(2 <= len(text) <= 300 and text == text.strip() and "{" not in text for text in captions)


def test_many_shapes() -> None:
    """Shapes with every number and word of content blotted out, so that only the phrasing counts."""
    content = {word for genre in GENRE_WORDS.values() for group in genre for word in group}
    content |= {word for group in (*LEAD_WORDS.values(), *MOOD_WORDS.values()) for word in group}
    content |= {word for group in TEMPO_WORDS.values() for word in group}
    pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, content), key=len, reverse=True)) + r")\b|\d+", re.I)
    shapes = {
        pattern.sub("*", text).lower()
        for index, piece in enumerate(PIECES)
        for text in write_captions(Random(index), piece, 6)
    }
    assert len(SHAPES) >= 13
    assert len(shapes) > 600


@pytest.mark.parametrize("frame", SHAPES)
def test_every_frame_keeps_complete_facts(frame) -> None:
    for index, piece in enumerate(PIECES[:40]):
        rng = Random(index)
        facts = Facts(rng, piece, complete=True)
        text = frame(rng, facts)
        assert facts.genre
        assert facts.genre in text
        assert facts.values["lead"] in text
        assert str(round(piece.bpm)) in text
        assert piece.modulates or facts.values["key"] in text or facts.values["symbol"] in text


def test_hints_hold_for_every_piece_of_their_genre() -> None:
    """They come with any lead, key and tempo, with drums and without."""
    forbidden = r"\b(drum\w*|snare|kick|cymbals?|bpm|fast|quick|rapid|brisk|major|minor)\b|[{};]|  "
    for genre, words in GENRE_WORDS.items():
        for group in (getattr(words, kind) for kind in HINTS):
            assert len(group) == len(set(group)) >= 12, genre
            for hint in group:
                assert not re.search(forbidden, hint), hint
                assert genre == "ambient" or not re.search(r"\bslow", hint), hint
                assert not re.search("|".join(rf"\b{pattern}\b" for pattern in OWN_LEADS.values()), hint), hint


def test_half_of_the_captions_are_complete_and_every_fourth_names_no_genre() -> None:
    captions = [(piece, text) for i, piece in enumerate(PIECES) for text in write_captions(Random(i), piece, 6)]
    complete = [
        bool(re.search(rf"\b{round(piece.bpm)}\b", text)) and _mentions(text, _spellings(piece.key, piece.mode))
        for piece, text in captions
        if not piece.modulates
    ]
    assert 0.5 < sum(complete) / len(complete) < 0.65
    unnamed = [not _mentions(text, GENRE_WORDS[piece.genre].names) for piece, text in captions]
    assert 0.15 < sum(unnamed) / len(captions) < 0.35


def test_captions_fit_the_default_encoder() -> None:
    encoder = load_text_encoder(TextConfig())
    captions = [text for i, piece in enumerate(PIECES) for text in write_captions(Random(i), piece, 12)]
    assert max(map(len, encoder.tokenize(captions))) <= encoder.max_tokens  # raises beyond


def test_vocabulary_covers_every_genre_and_lead() -> None:
    assert set(GENRE_WORDS) == set(GENRES)
    assert set(LEAD_WORDS) == set(LEADS)
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

    seen = {
        run for words in GENRE_WORDS.values() for kind in HINTS for hint in getattr(words, kind) for run in runs(hint)
    }
    for index, piece in enumerate(PIECES):
        for text in write_captions(Random(index), piece, 12):
            seen |= runs(text)
    for prompt, _ in FREE_FORM_PROMPTS:
        assert not runs(prompt) & seen, prompt
