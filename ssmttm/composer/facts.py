"""The facts one caption mentions, the words drawn for them, and how each is put in a list, behind a noun, or alone."""

from __future__ import annotations

from random import Random

from ssmttm.composer import templates
from ssmttm.composer import vocabulary as words
from ssmttm.composer.attributes import Attributes
from ssmttm.composer.metaphors import ADJECTIVES, LIKENESSES, PICTURES
from ssmttm.composer.scenes import PLACES, SCENES

Place = str  # "tag", "post" or "sentence"


def article(phrase: str) -> str:
    """`phrase` with its indefinite article."""
    first = phrase.split()[0]
    vowel = first[0].lower() in "aeiou" or first.startswith(("EDM", "808", "8"))
    return f"{'an' if vowel else 'a'} {phrase}"


def stutters(text: str) -> bool:
    """Whether one of the words this vocabulary tends to double occurs twice."""
    return any(text.lower().count(word) > 1 for word in ("lead", "tempo", "pace", "guitar", "instrumental", "solo"))


def tempo_word(rng: Random, bpm: int) -> str:
    """A word for a tempo in beats per minute."""
    return rng.choice(next(choices for limit, choices in words.TEMPO_WORDS if bpm <= limit))


class Facts:
    """The facts one caption mentions, each a word drawn for it or None, and their phrasings by place."""

    def __init__(self, rng: Random, piece: Attributes, complete: bool):
        self.rng = rng
        self.vocabulary = words.GENRE_WORDS[piece.genre]
        self.drums = piece.drums

        def chance(share: float) -> bool:
            return complete or rng.random() < share

        self.genre = rng.choice(self.vocabulary.names) if chance(0.7) else None
        self.meant = piece.genre
        self.scene = self.hint() if rng.random() < (0.25 if self.genre else 0.85) else None
        self.adjective = rng.choice(ADJECTIVES[piece.genre]) if rng.random() < (0.25 if self.genre else 0.5) else None
        self.picture = rng.choice(PICTURES[piece.genre]) if rng.random() < (0.2 if self.genre else 0.5) else None
        lead = rng.choice(words.LEAD_WORDS[piece.lead]) if chance(0.65) else None
        self.fields: dict[str, dict[str, tuple[str, ...]]] = {}
        self.values = {"mode": piece.mode, "Mode": piece.mode.capitalize(), "bpm": str(piece.bpm)}
        if lead is not None:
            self._add("lead", templates.LEAD_TAGS, templates.LEAD_POSTS, templates.LEAD_SENTENCES)
            bare = lead.endswith(("keys", "mallets", "bars", "voices", "vocals", "picking"))
            a_lead = lead if bare else article(lead)
            self.values |= {"lead": lead, "a_lead": a_lead, "A_lead": a_lead[0].upper() + a_lead[1:]}
        word = tempo_word(rng, piece.bpm)
        self.values |= {"word": word, "a_word": article(word)}
        if chance(0.35):
            self._add("tempo", templates.BPM_TAGS, templates.BPM_POSTS, templates.BPM_SENTENCES)
        elif rng.random() < 0.5:
            self._add("tempo", templates.WORD_TAGS, templates.WORD_POSTS, templates.WORD_SENTENCES)
        spellings = words.KEY_WORDS.get(piece.key, (piece.key,))
        symbol = rng.choice([spelling for spelling in spellings if len(spelling) <= 2])
        symbol += "m" if piece.mode == "minor" else " maj"
        self.values |= {"key": rng.choice(spellings), "symbol": symbol}
        if chance(0.3):
            self._add("key", templates.KEY_TAGS, templates.KEY_POSTS, templates.KEY_SENTENCES)
        elif rng.random() < 0.3:
            self._add("key", templates.MODE_TAGS, templates.MODE_POSTS, templates.MODE_SENTENCES)
        if chance(0.45):
            drums = piece.drums
            self._add("drums", templates.DRUM_TAGS[drums], templates.DRUM_POSTS[drums], templates.DRUM_SENTENCES[drums])
        self.mood = rng.choice(words.MOOD_WORDS[piece.mood]) if rng.random() < 0.45 else None
        self.texture = rng.choice(self.textures()) if rng.random() < 0.25 else None

    def hint(self) -> str:
        """A phrase that follows a noun and stands for the genre: a use, a place, or somebody it is like."""
        kind = self.rng.random()
        if kind < 0.6:
            return self.rng.choice(SCENES[self.meant])
        if kind < 0.8:
            link = self.rng.choice(("like you hear", "as played", "the way they play it"))
            return f"{link} {self.rng.choice(PLACES[self.meant])}"
        link = self.rng.choice(("in the style of", "in the vein of", "that sounds like", "for fans of"))
        return f"{link} {self.rng.choice(LIKENESSES[self.meant])}"

    def textures(self) -> tuple[str, ...]:
        """What sounds in pieces of this genre, with drums or without as this one has."""
        return self.vocabulary.textures + (self.vocabulary.drum_textures if self.drums else ())

    def _add(self, field: str, tags: tuple[str, ...], posts: tuple[str, ...], sentences: tuple[str, ...]) -> None:
        self.fields[field] = {"tag": tags, "post": posts, "sentence": sentences}

    def phrases(self, place: Place, without: tuple[str, ...] = ()) -> list[str]:
        """One phrase for each fact but genre, mood, scene and texture, in random order."""
        chosen = [field for field in self.fields if field not in without]
        self.rng.shuffle(chosen)
        return [self._phrase(self.fields[field][place]) for field in chosen]

    def _phrase(self, choices: tuple[str, ...]) -> str:
        """A template filled in, without stutters such as `lead synth lead` or `fast-paced pace`."""
        filled = [template.format(**self.values) for template in choices]
        return self.rng.choice([text for text in filled if not stutters(text)] or filled)

    def head(self) -> str:
        """The noun a phrase is built on: `jazz tune`, or `tune` if no genre is named; mood and adjective before it."""
        parts = [self.rng.choice(self.vocabulary.heads) if self.genre else self.rng.choice(("piece", "track", "tune"))]
        before = [word for word in (self.mood, self.adjective) if word]
        self.rng.shuffle(before)
        parts = [self.rng.choice((" ", ", ")).join(before)] * bool(before) + [self.genre] * bool(self.genre) + parts
        text = " ".join(parts)
        return f"{' '.join(parts[:-1])} tune" if stutters(text) else text

    def loose(self) -> list[str]:
        """Scene and texture as phrases that follow a noun."""
        found = [self.scene] if self.scene else []
        return [*found, f"with {self.texture}"] if self.texture else found
