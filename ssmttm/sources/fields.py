"""What people and programs state about music, under the names of many data sets and in whatever shape, as plain values
under ours.

What is plain is made plain (`"120 BPM"` is 120, a title `1979` is text), what says nothing is left out (NaN, `None`, an
object where words are expected): no track is lost for a field that is not needed. Only what decides whether and where a
track may be used, its licence and its split, is never left out.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ssmttm.errors import UserError

# What data sets call their parts. Ours has two: what a published split tests on is never trained on.
SPLIT_NAMES: dict[str, Literal["train", "val"]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"), "val"),
}
# All of these are captions, and every one of them is taken, in this order.
CAPTION_NAMES = ("captions", "caption", "text", "texts", "prompt", "prompts", "description", "descriptions")
# Of these the first that says something counts.
ALIASES = {
    "id": ("id",),
    "licence": ("licence", "license", "licence_url", "license_url"),
    "artist": ("artist", "artists", "artist_name", "author", "creator"),
    "title": ("title", "name", "track_title", "track_name"),
    "source_url": ("source_url", "url"),
    "split": ("split",),
    "duration_s": ("duration_s",),
    "album": ("album", "album_title", "album_name"),
    "genre": ("genre", "genres"),
    "bpm": ("bpm", "tempo"),
    "key": ("key", "keyscale", "key_scale"),
    "keywords": ("keywords", "tag"),
}
# Fields that describe the music: kept as tags, and those of a sidecar joined into one caption in this order.
ATTRIBUTE_FIELDS = ("genre", "moods", "mood", "instrument", "instruments", "lead", "keywords", "bpm", "key", "mode")
MAXIMUM_BPM = 999  # where the words for tempi end
_SAYS_NOTHING = frozenset({"nan", "none", "null", "n/a", "na", "undefined"})
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff]+")  # control characters, spaces without width
_HALVES = re.compile(r"[\ud800-\udfff]")  # of surrogate pairs, which are no characters
_NUMBER = re.compile(r"(?<![\d.,])-?\d+(?:[.,]\d+)?(?![.,]?\d)")
_NAMED_NUMBER = re.compile(_NUMBER.pattern + r"(?=\s*(?:bpm|b\.p\.m|beats))")
_FRACTION = re.compile(r"\b\d{1,2}\s*/\s*\d{1,2}\b")  # a time signature or a note's length
_RANGE = re.compile(r"\d\s*(?:[-~\u2010-\u2015]|to)\s*\d")


def same_name(name: str) -> str:
    """What names have in common that differ in Unicode form or letter case alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def field_name(name: str) -> str:
    """A field's name whatever its letter case, with `_` between words."""
    return re.sub(r"[\s_-]+", "_", clean(same_name(name)))


def clean(text: str) -> str:
    """Text in one Unicode form (NFC), without control characters, with single blanks."""
    return " ".join(_UNSEEN.sub(" ", _HALVES.sub("", unicodedata.normalize("NFC", text))).split())


def number_text(value: float) -> str:
    """A number as one would write it: 1979.0 is 1979."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_nothing(value: Any) -> bool:
    """Whether a value stands for none being stated: null, NaN, blank text, nothing in a list."""
    if isinstance(value, str):
        return not clean(value) or clean(value).casefold() == "nan"
    if isinstance(value, float):
        return not math.isfinite(value)
    return value is None or (isinstance(value, list | dict) and not value)


def _entries(value: Any) -> Iterator[str | int | float]:
    """The texts and finite numbers in a value, lists in it taken apart."""
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _entries(entry)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and not is_nothing(value):
        yield value


def texts(value: Any) -> list[str]:
    """The texts in a value, numbers among them."""
    return [clean(one) if isinstance(one, str) else number_text(one) for one in _entries(value)]


def words(value: Any) -> list[str]:
    """The texts in a value that say something: with a letter, and not `None`."""
    return [text for text in texts(value) if re.search(r"[^\W\d_]", text) and text.casefold() not in _SAYS_NOTHING]


def captions(value: Any) -> list[str]:
    """The captions in a value: texts that say something, as `words`; numbers alone do not."""
    return words([one for one in _entries(value) if isinstance(one, str)])


def tempo(value: Any) -> float | None:
    """Beats per minute in 1-`MAXIMUM_BPM`, from a number or a text that holds one (`120 BPM`, `ca. 118,5`); None for
    anything else: two numbers or a range are no tempo."""
    found = list(_entries(value))
    if len(found) != 1:
        return None
    bpm = found[0]
    if isinstance(bpm, str):
        text = _FRACTION.sub("", unicodedata.normalize("NFKC", bpm).casefold())
        numbers = _NAMED_NUMBER.findall(text) or _NUMBER.findall(text)
        if len(numbers) != 1 or _RANGE.search(text):
            return None
        bpm = float(numbers[0].replace(",", "."))
    if not 1 <= bpm <= MAXIMUM_BPM:
        return None
    return int(bpm) if float(bpm).is_integer() else bpm


def seconds(value: Any) -> float:
    """A length in seconds from a number or its text; 0 where none is stated or it is none, to be measured."""
    try:
        length = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return length if 0 <= length < math.inf else 0.0


def split_of(value: Any) -> Literal["train", "val"]:
    """The part of a data set that a value names.

    Raises:
        UserError: if it is none that is known: where it belongs is not guessed.
    """
    named = texts(value)
    split = SPLIT_NAMES.get(named[0].casefold()) if len(named) == 1 else None
    if split is None:
        raise UserError(f"split must be one of {', '.join(SPLIT_NAMES)}, got {value!r}")
    return split


def licence_text(value: Any) -> str:
    """A licence as stated. What is no text is kept as JSON: terms that cannot be read must not pass for none."""
    named = texts(value)
    return "; ".join(named) if named and not isinstance(value, dict) else clean(json.dumps(value, default=str))


def storable(value: Any) -> Any:
    """A JSON value without numbers that are none, and with characters alone in its texts."""
    if isinstance(value, str):
        return _HALVES.sub("", value)
    if isinstance(value, dict):
        kept = {storable(str(name)): storable(entry) for name, entry in value.items()}
        return {name: entry for name, entry in kept.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [storable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _attribute(name: str, value: Any) -> Any:
    """An attribute as it is kept: a tempo as number, words as text or, where several were listed, as list."""
    if name == "bpm":
        return tempo(value)
    found = texts(value) if name == "keywords" else words(value)
    found = [word for word in found if word.casefold() not in _SAYS_NOTHING]
    if name in ("key", "mode"):
        return found[0] if len(found) == 1 else None  # which of several?
    return found if isinstance(value, list | tuple) else next(iter(found), None)


def tags_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tags: attributes as `read_fields` makes them, everything else as it is, as far as it can be stored."""
    ours = {name: alias for alias, names in ALIASES.items() for name in names if alias in ATTRIBUTE_FIELDS}
    tags: dict[str, Any] = {}
    for name, value in values.items():
        plain = field_name(str(name))
        plain = ours.get(plain, plain)
        if plain in ATTRIBUTE_FIELDS:
            attribute = _attribute(plain, value)
            if attribute not in (None, []):
                tags.setdefault(plain, attribute)
        elif (kept := storable(value)) is not None:
            tags[storable(str(name))] = kept
    return tags


def read_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an object or a table's row states, under our names; nothing stands under a name that it says nothing of.

    `captions` is a list of texts, `duration_s` seconds, `split` one of ours, `tags` an object of everything that
    describes the music (`ATTRIBUTE_FIELDS`), the album among it; other fields are text. Tags that are words, not an
    object with named fields, become keywords.

    Raises:
        UserError: if the split that it states is unknown.
    """
    stated: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(name, str) and not is_nothing(value):
            stated.setdefault(field_name(name), value)
    found: dict[str, Any] = {}
    if told := [text for name in CAPTION_NAMES for text in captions(stated.get(name))]:
        found["captions"] = list(dict.fromkeys(told))
    for ours, names in ALIASES.items():
        given = [stated[name] for name in names if name in stated]
        if not given:
            continue
        if ours == "licence":
            found[ours] = licence_text(given[0])
        elif ours == "split":
            found[ours] = split_of(given[0])
        elif ours == "duration_s":
            found[ours] = next(filter(None, map(seconds, given)), 0.0)
        elif ours not in ATTRIBUTE_FIELDS:
            joined = ("; " if ours == "artist" else ", ").join
            if text := next(filter(None, (joined(texts(value)) for value in given)), ""):
                found[ours] = text
    inner = stated.get("tags")
    if isinstance(inner, str):
        inner = inner.split(",")
    if isinstance(inner, list) and "keywords" not in stated:
        stated["keywords"] = inner
    attributes = [name for ours in ATTRIBUTE_FIELDS for name in ALIASES.get(ours, (ours,))]
    tags = tags_of({name: stated[name] for name in attributes if name in stated})
    if album := found.pop("album", ""):
        tags["album"] = album
    if isinstance(inner, dict):
        tags |= tags_of(inner)
    return {**found, "tags": tags} if tags else found
