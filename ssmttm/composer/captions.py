"""A small grammar that describes a piece in many shapes: tag lists, noun phrases, requests, sentences, scenes.

A caption is drawn in three steps: which facts it mentions and which words stand for them (`Facts`), and which shape
they are put into. Facts come in random order wherever the shape allows it. `SHAPES` use every fact but some of the
genre's hints; `HINTS` name no genre and speak in pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ssmttm.composer.pieces import Attributes
from ssmttm.composer.words import (
    FRAMES,
    GENRE_WORDS,
    KEY_WORDS,
    LEAD_WORDS,
    METER_WORDS,
    MOOD_WORDS,
    PHRASINGS,
    Phrasing,
    tempo_word,
)


def article(phrase: str) -> str:
    """`phrase` with its indefinite article."""
    first = phrase.split()[0]
    vowel = first[0].lower() in "aeiou" or first.startswith(("EDM", "808", "8"))
    return f"{'an' if vowel else 'a'} {phrase}"


def stutters(text: str) -> bool:
    """Whether one of the words this vocabulary tends to double occurs twice."""
    return any(text.lower().count(word) > 1 for word in ("lead", "tempo", "pace", "guitar", "instrumental", "solo"))


class Facts:
    """The facts one caption mentions, each a word drawn for it or None, and their phrasings by place."""

    def __init__(self, rng: Random, piece: Attributes, complete: bool):
        self.rng = rng
        self.vocabulary = GENRE_WORDS[piece.genre]
        self.drums = piece.drums

        def chance(share: float) -> bool:
            return complete or rng.random() < share

        self.genre = rng.choice(self.vocabulary.names) if chance(0.7) else None
        self.scene = self.hint() if rng.random() < (0.25 if self.genre else 0.85) else None
        self.adjective = (
            rng.choice(self.vocabulary.adjectives) if rng.random() < (0.25 if self.genre else 0.5) else None
        )
        self.picture = rng.choice(self.vocabulary.pictures) if rng.random() < (0.2 if self.genre else 0.5) else None
        lead = rng.choice(LEAD_WORDS[piece.lead]) if chance(0.65) else None
        self.phrasings: dict[str, Phrasing] = {}
        self.values = {"mode": piece.mode, "Mode": piece.mode.capitalize(), "bpm": str(round(piece.bpm))}
        if lead is not None:
            self.phrasings["lead"] = PHRASINGS["lead"]
            bare = lead.endswith(("keys", "mallets", "bars", "voices", "vocals", "picking"))
            a_lead = lead if bare else article(lead)
            self.values |= {"lead": lead, "a_lead": a_lead, "A_lead": a_lead[0].upper() + a_lead[1:]}
        word = tempo_word(rng, piece.bpm)
        self.values |= {"word": word, "a_word": article(word)}
        if chance(0.35):
            self.phrasings["tempo"] = PHRASINGS["bpm"]
        elif rng.random() < 0.5:
            self.phrasings["tempo"] = PHRASINGS["tempo"]
        spellings = KEY_WORDS.get(piece.key, (piece.key,))
        symbol = rng.choice([spelling for spelling in spellings if len(spelling) <= 2])
        symbol += "m" if piece.mode == "minor" else " maj"
        self.values |= {"key": rng.choice(spellings), "symbol": symbol}
        if piece.modulates:  # captions stand beside any part of a piece, and of no key is all of it
            pass
        elif chance(0.3):
            self.phrasings["key"] = PHRASINGS["key"]
        elif rng.random() < 0.3:
            self.phrasings["key"] = PHRASINGS["mode"]
        self.values["meter"] = rng.choice(METER_WORDS[piece.meter])
        if rng.random() < (0.05 if piece.meter == "4/4" else 0.35):
            self.phrasings["meter"] = PHRASINGS["meter"]
        if chance(0.45):
            self.phrasings["drums"] = PHRASINGS["drums" if piece.drums else "no drums"]
        self.mood = rng.choice(MOOD_WORDS[piece.mood]) if rng.random() < 0.45 else None
        self.texture = rng.choice(self.textures()) if rng.random() < 0.25 else None

    def hint(self) -> str:
        """A phrase that follows a noun and stands for the genre: a use, a place, or somebody it is like."""
        kind = self.rng.random()
        if kind < 0.6:
            return self.rng.choice(self.vocabulary.scenes)
        if kind < 0.8:
            link = self.rng.choice(("like you hear", "as played", "the way they play it"))
            return f"{link} {self.rng.choice(self.vocabulary.places)}"
        link = self.rng.choice(("in the style of", "in the vein of", "that sounds like", "for fans of"))
        return f"{link} {self.rng.choice(self.vocabulary.likenesses)}"

    def textures(self) -> tuple[str, ...]:
        """What sounds in pieces of this genre, with drums or without as this one has."""
        return self.vocabulary.textures + (self.vocabulary.drum_textures if self.drums else ())

    def phrases(self, place: str, without: tuple[str, ...] = ()) -> list[str]:
        """One phrase for each fact but genre, mood, scene and texture, in random order, as `Phrasing` has them."""
        chosen = [field for field in self.phrasings if field not in without]
        self.rng.shuffle(chosen)
        return [self._phrase(self.phrasings[field][place]) for field in chosen]

    def _phrase(self, choices: tuple[str, ...]) -> str:
        """A template filled in, without stutters such as `lead synth lead` or `fast-paced pace`."""
        filled = [template.format(**self.values) for template in choices]
        return self.rng.choice([text for text in filled if not stutters(text)] or filled)

    def head(self) -> str:
        """The noun a phrase is built on: `jazz tune`, or `tune` if no genre is named; mood and adjective before it."""
        noun = self.rng.choice(self.vocabulary.heads if self.genre else ("piece", "track", "tune"))
        before = [word for word in (self.mood, self.adjective) if word]
        self.rng.shuffle(before)
        words = [word for word in (self.rng.choice((" ", ", ")).join(before), self.genre) if word]
        text = " ".join([*words, noun])
        return " ".join([*words, "tune"]) if stutters(text) else text

    def loose(self) -> list[str]:
        """Scene and texture as phrases that follow a noun."""
        found = [self.scene] if self.scene else []
        return [*found, f"with {self.texture}"] if self.texture else found


def _join(rng: Random, phrases: list[str]) -> str:
    """Run phrases together as people do: commas, or nothing between the first ones."""
    text = ""
    for place, phrase in enumerate(phrases):
        text += phrase if not place else (" " if rng.random() < 0.4 and place < 3 else ", ") + phrase
    return text


def noun_phrase(rng: Random, facts: Facts) -> str:
    after = facts.phrases("post") + facts.loose()
    rng.shuffle(after)
    return _join(rng, [article(facts.head()), *after])


def tag_list(rng: Random, facts: Facts) -> str:
    tags = facts.phrases("tag") + [tag for tag in (facts.genre, facts.mood, facts.texture, facts.scene) if tag]
    tags += [tag for tag in (facts.adjective, facts.picture) if tag]
    rng.shuffle(tags)
    return rng.choice((", ", ", ", " | ", "; ", " / ", " - ")).join(tags)


def keyword_run(rng: Random, facts: Facts) -> str:
    tags = facts.phrases("tag") + [tag for tag in (facts.mood, facts.adjective, facts.picture, facts.texture) if tag]
    rng.shuffle(tags)
    name = facts.genre or facts.scene or ""
    return " ".join([name, *tags] if rng.random() < 0.5 else [*tags, name])


def request(rng: Random, facts: Facts) -> str:
    return rng.choice(FRAMES["asks"]).format(x=noun_phrase(rng, facts))


def review(rng: Random, facts: Facts) -> str:
    return rng.choice(FRAMES["reviews"]).format(x=noun_phrase(rng, facts))


def sentences(rng: Random, facts: Facts) -> str:
    opening = rng.choice(("This is {x}.", "{X}.", "It's {x}.", "We hear {x}.", "Here is {x}."))
    head = article(facts.head())
    told = facts.phrases("sentence")
    told += [f"You can hear {facts.texture}."] if facts.texture else []
    told += [f"It is music {facts.scene}."] if facts.scene else []
    rng.shuffle(told)
    told.insert(rng.choice((0, 0, len(told))), opening.format(x=head, X=head[0].upper() + head[1:]))
    return " ".join(told)


def lead_first(rng: Random, facts: Facts) -> str:
    if "lead" not in facts.phrasings:
        return noun_phrase(rng, facts)
    link = rng.choice(("over", "on top of", "leading", "soaring over", "in", "playing over", "in front of"))
    after = facts.phrases("post", without=("lead",)) + facts.loose()
    rng.shuffle(after)
    start = facts.values[rng.choice(("lead", "a_lead"))]
    return _join(rng, [f"{start} {link} {article(facts.head())}", *after])


def scene_first(rng: Random, facts: Facts) -> str:
    scene = facts.scene or facts.hint()
    opening = rng.choice(("music", "something", "a soundtrack", "some music", "a tune", "background music"))
    named = [rng.choice((facts.head(), article(facts.head())))] if facts.genre or facts.mood else []
    rest = facts.phrases(rng.choice(("tag", "post"))) + named + ([facts.texture] if facts.texture else [])
    rng.shuffle(rest)
    return f"{opening} {scene}" + (rng.choice((": ", ", ", " - ")) + ", ".join(rest) if rest else "")


def labelled(rng: Random, facts: Facts) -> str:
    labels = [("genre", facts.genre), ("sound", facts.texture), ("mood", facts.mood), ("style", facts.adjective)]
    labels += [("feel", facts.picture)]
    entries = [f"{label}: {value}" for label, value in labels if value] + facts.phrases("tag")
    rng.shuffle(entries)
    return rng.choice(("; ", ", ", ". ")).join(entries)


def adjectives_first(rng: Random, facts: Facts) -> str:
    """`slow, sad, drumless jazz tune in A minor`: everything that can stand before the noun does."""
    before = [facts.values["word"]] if "tempo" in facts.phrasings else []
    numeric = facts.phrasings.get("tempo") is PHRASINGS["bpm"]
    before += [f"{facts.values['bpm']} bpm"] if numeric else []
    if "drums" in facts.phrasings and not facts.drums:
        before.append("drumless")
    rng.shuffle(before)
    without = ("tempo",) if facts.drums else ("tempo", "drums")
    after = facts.phrases("post", without) + facts.loose()
    rng.shuffle(after)
    head = f"{rng.choice((' ', ', ')).join(before)} {facts.head()}" if before else facts.head()
    return _join(rng, [rng.choice((head, article(head))), *after])


def afterthoughts(rng: Random, facts: Facts) -> str:
    """The essentials first, then the rest in a second breath."""
    after = facts.phrases("post") + facts.loose()
    rng.shuffle(after)
    cut = rng.randint(0, len(after))
    first, second = [article(facts.head()), *after[:cut]], after[cut:]
    link = rng.choice((". Make it ", " ... ", ", please, ", " -- ", ", and "))
    return _join(rng, first) + (link + ", ".join(second) if second else "")


def described(rng: Random, facts: Facts) -> str:
    """From the listener's side: what it sounds like."""
    opening = rng.choice(
        ("sounds like {x}", "think {x}", "in the style of {x}", "reminds me of {x}", "the feel of {x}", "kind of {x}")
    )
    rest = facts.phrases("post") + facts.loose()
    rng.shuffle(rest)
    return _join(rng, [opening.format(x=article(facts.head())), *rest])


def genre_with_music(rng: Random, facts: Facts) -> str:
    """`techno with a synth lead`, `some jazz at 120 bpm`: the genre's name alone as the noun."""
    name = f"{facts.genre} music" if facts.genre and rng.random() < 0.6 else facts.genre or "music"
    name = " ".join(word for word in (facts.mood, facts.adjective, name) if word)
    start = rng.choice(("some {x}", "{x}", "a bit of {x}", "{x}", "proper {x}", "more {x}")).format(x=name)
    rest = facts.phrases("post") + facts.loose()
    rng.shuffle(rest)
    return _join(rng, [start, *rest])


def in_pictures(rng: Random, facts: Facts) -> str:
    a, b, c = rng.sample(facts.vocabulary.pictures, 3)
    return rng.choice(FRAMES["pictures"]).format(a=a, b=b, c=c)


def by_place(rng: Random, facts: Facts) -> str:
    return rng.choice(FRAMES["places"]).format(p=rng.choice(facts.vocabulary.places))


def by_likeness(rng: Random, facts: Facts) -> str:
    who, other = rng.sample(facts.vocabulary.likenesses, 2)
    return rng.choice(FRAMES["likenesses"]).format(who=who, other=other)


def by_use(rng: Random, facts: Facts) -> str:
    start = rng.choice(("", "", "music ", "something ", "the right thing ", "we want a track ", "sounds "))
    return start + rng.choice(facts.vocabulary.scenes)


def by_adjectives(rng: Random, facts: Facts) -> str:
    chosen = rng.sample(facts.vocabulary.adjectives, rng.randint(2, 3))
    noun = rng.choice(("", "", " music", " piece", " track", " stuff", " sound", " feel"))
    return rng.choice((", ", " and ", " ", ", ")).join(chosen) + noun


def by_texture(rng: Random, facts: Facts) -> str:
    """What plays, told without a genre's name."""
    textures = rng.sample(facts.textures(), 2)
    adjective = rng.choice(facts.vocabulary.adjectives)
    return rng.choice(("{a}, {b}", "{a} and {b}, {c}", "{c} with {a}", "{c}: {a}, {b}", "I hear {a} and {b}")).format(
        a=textures[0], b=textures[1], c=adjective
    )


SHAPES: tuple[Callable[[Random, Facts], str], ...] = (
    noun_phrase,
    tag_list,
    keyword_run,
    request,
    review,
    sentences,
    lead_first,
    scene_first,
    labelled,
    adjectives_first,
    afterthoughts,
    described,
    genre_with_music,
)

HINTS: tuple[Callable[[Random, Facts], str], ...] = (
    in_pictures,
    in_pictures,
    by_place,
    by_likeness,
    by_use,
    by_use,
    by_adjectives,
    by_texture,
)


def write_hint(rng: Random, piece: Attributes) -> str:
    """A caption that leaves the genre unsaid: one or two hints at it, and at times some of the other facts."""
    facts = Facts(rng, piece, complete=False)
    parts = [frame(rng, facts) for frame in rng.sample(HINTS, 1 if rng.random() < 0.65 else 2)]
    if rng.random() < 0.5:
        parts += facts.phrases(rng.choice(("tag", "post")))
    return ", ".join(dict.fromkeys(parts))


def write_caption(rng: Random, piece: Attributes, complete: bool) -> str:
    """One caption; a `complete` one names genre, lead, tempo in bpm, key with mode unless it changes, and whether there
    are drums."""
    if not complete and rng.random() < 0.5:
        text = write_hint(rng, piece)
    else:
        text = ""
    while not text:  # a frame leaves out what does not fit it, at worst everything
        facts = Facts(rng, piece, complete)
        mentions = [facts.genre, facts.scene, facts.mood, facts.texture, *facts.phrasings]
        if facts.scene or sum(1 for fact in mentions if fact) >= 2:
            text = " ".join(rng.choice(SHAPES)(rng, facts).split())
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def write_captions(rng: Random, piece: Attributes, count: int) -> tuple[str, ...]:
    """`count` different captions. Every second is complete (see `write_caption`), so that tempo and key are learnt;
    of the others, half name no genre and speak in pictures, as people do."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions[write_caption(rng, piece, complete=len(captions) % 2 == 0)] = None
    return tuple(captions)
