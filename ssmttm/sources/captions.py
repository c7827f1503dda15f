"""Captions of tracks that bring tags instead, and captions rephrased elsewhere.

A caption from tags names some of genre, mood, instruments, tempo and key, in one of several shapes; draws are keyed by
the track's id, so that a track's captions are always the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ssmttm.composer.words import tempo_word
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.fields import tempo
from ssmttm.sources.manifest import Track, is_unicode
from ssmttm.sources.tables import read_table_text

logger = logging.getLogger(__name__)

ATTEMPTS = 12  # drawn for each caption wanted: few tags make few different captions
MAXIMUM = {"genre": 2, "mood": 2, "instrument": 3, "keyword": 3}  # of a kind in one caption
# MTG-Jamendo writes its tags without blanks.
SPELLED = {
    "acidjazz": "acid jazz",
    "acousticbassguitar": "acoustic bass guitar",
    "acousticguitar": "acoustic guitar",
    "alternativerock": "alternative rock",
    "bluesrock": "blues rock",
    "bossanova": "bossa nova",
    "celtic": "Celtic",
    "chillout": "chill-out",
    "classicalguitar": "classical guitar",
    "classicrock": "classic rock",
    "darkambient": "dark ambient",
    "darkwave": "dark wave",
    "deephouse": "deep house",
    "doublebass": "double bass",
    "drumandbass": "drum and bass",
    "drummachine": "drum machine",
    "drumnbass": "drum and bass",
    "easylistening": "easy-listening",
    "edm": "EDM",
    "electricguitar": "electric guitar",
    "electricpiano": "electric piano",
    "ethno": "ethnic",
    "frenchhorn": "French horn",
    "gothicmetal": "gothic metal",
    "hardrock": "hard rock",
    "heavymetal": "heavy metal",
    "hiphop": "hip-hop",
    "idm": "IDM",
    "indiepop": "indie pop",
    "indierock": "indie rock",
    "instrumentalpop": "instrumental pop",
    "instrumentalrock": "instrumental rock",
    "jazzfunk": "jazz-funk",
    "jazzfusion": "jazz fusion",
    "latin": "Latin",
    "lofi": "lo-fi",
    "minimaltechno": "minimal techno",
    "newage": "new-age",
    "newwave": "new wave",
    "pipeorgan": "pipe organ",
    "popfolk": "pop-folk",
    "poprock": "pop-rock",
    "popular": "pop",
    "postrock": "post-rock",
    "progressiverock": "progressive rock",
    "psytrance": "psytrance",
    "punkrock": "punk rock",
    "rhodes": "Rhodes piano",
    "rnb": "R&B",
    "rocknroll": "rock and roll",
    "singersongwriter": "singer-songwriter",
    "slapbass": "slap bass",
    "soul-rnb": "soul and R&B",
    "symphonicmetal": "symphonic metal",
    "synthpop": "synth-pop",
    "triphop": "trip-hop",
    "worldfusion": "world fusion",
}
# Mood tags that name what music is for or about, and so cannot stand before a noun as a mood does: the phrase that
# follows the noun instead.
OCCASIONS = {
    "action": "for action scenes",
    "adventure": "for an adventure",
    "advertising": "for advertising",
    "background": "for the background",
    "ballad": "in the manner of a ballad",
    "children": "for children",
    "christmas": "for Christmas",
    "commercial": "for a commercial",
    "corporate": "for a corporate video",
    "documentary": "for a documentary",
    "drama": "for a drama",
    "dream": "as in a dream",
    "film": "for a film",
    "fun": "for fun",
    "game": "for a game",
    "holiday": "for the holidays",
    "love": "about love",
    "movie": "for a movie",
    "nature": "about nature",
    "party": "for a party",
    "soundscape": "like a soundscape",
    "space": "about space",
    "sport": "for sport",
    "summer": "for summer",
    "trailer": "for a trailer",
    "travel": "for travel",
}
_NOT_VOWEL = re.compile(r"(uni(?![nm])|uk|eu|us[ae]|one)", re.IGNORECASE)
_LETTERS_WITH_VOWEL = re.compile(r"[AEFHILMNORSX](&|[A-Z])")  # spelt out: an R&B song, an MPB song
_NUMBER_WITH_VOWEL = re.compile(r"(8|11\b|18\b)")


def spell(tag: str) -> str:
    """A tag as one would write it in a sentence: `electricguitar` is `electric guitar`, `Hip-Hop` is `hip-hop`."""
    words = " ".join(tag.replace("_", " ").replace("/", " and ").split())
    return SPELLED.get(words.lower(), words if words.isupper() and len(words) <= 4 else words.lower())


def tag_words(*values: Any) -> list[str]:
    """The different words or phrases in tag values: texts, with commas or semicolons between several, or lists of
    them. Anything else is no word."""
    found: dict[str, None] = {}
    for value in values:
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, str):
                parts = entry.replace(";", ",").split(",")
                found |= dict.fromkeys(filter(None, map(spell, parts)))
    return list(found)


def with_article(phrase: str) -> str:
    """`phrase` with its indefinite article, by sound: a ukulele, an R&B song, an 80s hit."""
    if phrase[0].isdigit():
        vowel = bool(_NUMBER_WITH_VOWEL.match(phrase))
    elif re.match(r"[A-Z](&|[A-Z])", phrase):
        vowel = bool(_LETTERS_WITH_VOWEL.match(phrase))
    else:
        vowel = phrase[0].lower() in "aeiou" and not _NOT_VOWEL.match(phrase)
    return f"{'an' if vowel else 'a'} {phrase}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _key(tags: Mapping[str, Any]) -> str:
    key, mode = (" ".join(t.split()) if isinstance(t, str) else "" for t in (tags.get("key"), tags.get("mode")))
    return f"{key} {mode}" if key and mode and mode.lower() not in key.lower() else key


@dataclass(frozen=True)
class TagFacts:
    """What the tags of a track say. moods stand before a noun, occasions after it; no fact: empty or None."""

    genres: list[str]
    moods: list[str]
    occasions: list[str]
    instruments: list[str]
    keywords: list[str]
    bpm: int | None
    key: str

    def __len__(self) -> int:
        words = (self.genres, self.moods, self.occasions, self.instruments, self.keywords, self.key)
        return sum(map(bool, words)) + (self.bpm is not None)


def read_facts(tags: Mapping[str, Any]) -> TagFacts:
    """The facts in a track's tags; what has another shape than expected is none."""
    moods, bpm = tag_words(tags.get("mood"), tags.get("moods")), tempo(tags.get("bpm"))
    return TagFacts(
        genres=tag_words(tags.get("genre"), tags.get("genres")),
        moods=[mood for mood in moods if mood not in OCCASIONS],
        occasions=[OCCASIONS[mood] for mood in moods if mood in OCCASIONS],
        instruments=tag_words(tags.get("lead"), tags.get("instrument"), tags.get("instruments")),
        keywords=tag_words(tags.get("keywords")),
        bpm=round(bpm) if bpm is not None else None,
        key=_key(tags),
    )


def _some(rng: Random, words: list[str], kind: str) -> list[str]:
    return rng.sample(words, min(len(words), rng.randint(1, MAXIMUM[kind])))


def _draw(rng: Random, facts: TagFacts) -> TagFacts:
    """Some of the facts: about one in four is left out, but two are told if there are two."""
    keep = [rng.random() < 0.75 for _ in range(7)]
    drawn = TagFacts(
        genres=_some(rng, facts.genres, "genre") if keep[0] else [],
        moods=_some(rng, facts.moods, "mood") if keep[1] else [],
        occasions=[rng.choice(facts.occasions)] if keep[2] and facts.occasions else [],
        instruments=_some(rng, facts.instruments, "instrument") if keep[3] else [],
        keywords=_some(rng, facts.keywords, "keyword") if keep[4] else [],
        bpm=facts.bpm if keep[5] else None,
        key=facts.key if keep[6] else "",
    )
    return drawn if len(drawn) >= min(2, len(facts)) else _draw(rng, facts)


def _named(facts: TagFacts, noun: str) -> str:
    """`rock track`, but `soundtrack` rather than `soundtrack track`."""
    genre = _listed(facts.genres) if facts.genres else ""
    if genre.endswith(noun):
        return genre if len(facts.genres) == 1 or noun == "music" else f"{genre} piece"
    return f"{genre} {noun}".strip()


def _head(rng: Random, facts: TagFacts, noun: str) -> str:
    """`slow, sad rock track`: all that can stand before the noun."""
    before = list(facts.moods)
    if facts.bpm is not None and rng.random() < 0.4:
        before.insert(rng.randint(0, len(before)), tempo_word(rng, facts.bpm))
    return " ".join(filter(None, [", ".join(dict.fromkeys(before)), _named(facts, noun)]))


def _after(rng: Random, facts: TagFacts) -> str:
    """All that follows the noun, in random order."""
    phrases = list(facts.occasions)
    if facts.instruments:
        phrases.append(f"{rng.choice(('with', 'featuring', 'with the sound of'))} {_listed(facts.instruments)}")
    if facts.keywords:
        phrases.append(f"described as {_listed(facts.keywords)}")
    if facts.bpm is not None:
        phrases.append(rng.choice(("at {} bpm", "at a tempo of {} bpm", "at {} beats per minute")).format(facts.bpm))
    if facts.key:
        phrases.append(rng.choice(("in {}", "in the key of {}")).format(facts.key))
    rng.shuffle(phrases)
    return ", ".join(phrases)


def _noun_phrase(rng: Random, facts: TagFacts) -> str:
    head = with_article(_head(rng, facts, rng.choice(("track", "piece", "tune"))))
    return _capital(" ".join(filter(None, [head, _after(rng, facts)])))


def _music(rng: Random, facts: TagFacts) -> str:
    return " ".join(filter(None, [_head(rng, facts, "music"), _after(rng, facts)]))


def _tag_list(rng: Random, facts: TagFacts) -> str:
    tags = [*facts.genres, *facts.moods, *facts.instruments, *facts.keywords, *facts.occasions]
    tags += [f"{facts.bpm} bpm"] if facts.bpm is not None else []
    tags += [f"key of {facts.key}"] if facts.key else []
    rng.shuffle(tags)
    return ", ".join(dict.fromkeys(tags))


def _instruments_first(rng: Random, facts: TagFacts) -> str:
    if not facts.instruments:
        return _noun_phrase(rng, facts)
    rest = replace(facts, instruments=[])
    head = with_article(_head(rng, rest, rng.choice(("track", "piece"))))
    return _capital(" ".join(filter(None, [f"{_listed(facts.instruments)} in {head}", _after(rng, rest)])))


def _sentences(rng: Random, facts: TagFacts) -> str:
    head = _named(facts, rng.choice(("piece", "track")))
    opening = f"{rng.choice(('This is', 'Here is'))} {with_article(' '.join([head, *facts.occasions]))}."
    told = []
    if facts.moods:
        told.append(rng.choice(("The mood is {}.", "It feels {}.", "It sounds {}.")).format(_listed(facts.moods)))
    if facts.instruments:
        told.append(rng.choice(("It features {}.", "You can hear {}.")).format(_listed(facts.instruments)))
    if facts.keywords:
        told.append(f"It is described as {_listed(facts.keywords)}.")
    if facts.bpm is not None:
        bpm, word = facts.bpm, tempo_word(rng, facts.bpm)
        told.append(rng.choice((f"The tempo is {bpm} bpm.", f"It is {word}, at {bpm} bpm.", f"It moves at {bpm} bpm.")))
    if facts.key:
        told.append(rng.choice(("It is in {}.", "The key is {}.")).format(facts.key))
    rng.shuffle(told)
    return " ".join([opening, *told])


SHAPES: tuple[Callable[[Random, TagFacts], str], ...] = (
    _noun_phrase,
    _music,
    _tag_list,
    _instruments_first,
    _sentences,
)


def captions_from_tags(track_id: str, tags: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """`count` different captions, or as many as the tags give: none if they say nothing of the music."""
    facts = read_facts(tags)
    rng = Random(f"captions of {track_id}")
    captions: dict[str, None] = {}
    for _ in range(count * ATTEMPTS if facts else 0):
        captions[rng.choice(SHAPES)(rng, _draw(rng, facts))] = None
        if len(captions) == count:
            break
    return tuple(captions)


def _read_rephrased(uri: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_table_text(uri).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, captions = entry["id"], entry["captions"]
        except (ValueError, KeyError, TypeError):
            name = captions = None
        texts = [name, *captions] if isinstance(captions, list) else []
        if not texts or not all(isinstance(text, str) for text in texts) or not is_unicode(*map(str, texts)):
            raise UserError(f'corpus.rephrased={uri} line {number} is not {{"id": text, "captions": [texts]}}')
        found[name] = (*found.get(name, ()), *captions)
    return found


def complete_captions(tracks: Iterable[Track], corpus: CorpusConfig) -> list[Track]:
    """Tracks with `corpus.tag_captions` captions from their tags where they had none, and with those that
    `corpus.rephrased` adds to their own.

    Raises:
        UserError: if the rephrased captions are missing or malformed.
    """
    rephrased = _read_rephrased(corpus.rephrased) if corpus.rephrased else {}
    complete = []
    for track in tracks:
        own = [caption.strip() for caption in track.captions if caption.strip()]
        own = own or list(captions_from_tags(track.id, track.tags, corpus.tag_captions))
        added = [caption.strip() for caption in rephrased.pop(track.id, ()) if caption.strip()]
        complete.append(replace(track, captions=tuple(dict.fromkeys([*own, *added]))))
    if rephrased:
        logger.warning(
            "corpus.rephrased=%s: %d ids are of no track, such as %s",
            corpus.rephrased,
            len(rephrased),
            next(iter(rephrased)),
        )
    return complete
