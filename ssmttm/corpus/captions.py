"""A small grammar that describes a piece in many shapes: tag lists, noun phrases, requests, sentences, scenes.

A caption is drawn in three steps: which facts it mentions, which words stand for them (`vocabulary`), and which
frame (`FRAMES`) they are put into. Facts come in random order wherever the frame allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ssmttm.corpus import templates
from ssmttm.corpus import vocabulary as words
from ssmttm.corpus.attributes import Attributes
from ssmttm.corpus.scenes import SCENES

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

        self.genre = rng.choice(self.vocabulary.names) if chance(0.78) else None
        self.scenes = SCENES[piece.genre]
        self.scene = rng.choice(self.scenes) if rng.random() < (0.2 if self.genre else 0.75) else None
        lead = rng.choice(words.LEAD_WORDS[piece.lead]) if chance(0.65) else None
        self.fields: dict[str, dict[str, tuple[str, ...]]] = {}
        self.values = {"mode": piece.mode, "Mode": piece.mode.capitalize(), "bpm": str(piece.bpm)}
        if lead is not None:
            self._add("lead", templates.LEAD_TAGS, templates.LEAD_POSTS, templates.LEAD_SENTENCES)
            bare = lead.endswith(("keys", "mallets", "vibes", "voices", "vocals"))
            a_lead = lead if bare else article(lead)
            self.values |= {"lead": lead, "a_lead": a_lead, "A_lead": a_lead[0].upper() + a_lead[1:]}
        word = tempo_word(rng, piece.bpm)
        self.values |= {"word": word, "a_word": article(word)}
        if chance(0.35):
            self._add("tempo", templates.BPM_TAGS, templates.BPM_POSTS, templates.BPM_SENTENCES)
        elif rng.random() < 0.5:
            self._add("tempo", templates.WORD_TAGS, templates.WORD_POSTS, templates.WORD_SENTENCES)
        self.values["key"] = rng.choice(words.KEY_WORDS.get(piece.key, (piece.key,)))
        if chance(0.3):
            self._add("key", templates.KEY_TAGS, templates.KEY_POSTS, templates.KEY_SENTENCES)
        elif rng.random() < 0.3:
            self._add("key", templates.MODE_TAGS, templates.MODE_POSTS, templates.MODE_SENTENCES)
        if chance(0.45):
            drums = piece.drums
            self._add("drums", templates.DRUM_TAGS[drums], templates.DRUM_POSTS[drums], templates.DRUM_SENTENCES[drums])
        self.mood = rng.choice(words.MOOD_WORDS[piece.mood]) if rng.random() < 0.45 else None
        self.texture = self._texture() if rng.random() < 0.25 else None

    def _texture(self) -> str:
        return self.rng.choice(self.vocabulary.textures + (self.vocabulary.drum_textures if self.drums else ()))

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
        """The noun a phrase is built on: `jazz tune`, or `tune` where no genre is named; mood and pace before it."""
        parts = [self.rng.choice(self.vocabulary.heads) if self.genre else self.rng.choice(("piece", "track", "tune"))]
        if self.genre:
            parts.insert(0, self.genre)
        if self.mood:
            parts.insert(0, self.mood)
        text = " ".join(parts)
        return f"{' '.join(parts[:-1])} tune" if stutters(text) else text

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
    rng.shuffle(tags)
    return rng.choice((", ", ", ", " | ", "; ", " / ", " - ")).join(tags)


def keyword_run(rng: Random, facts: Facts) -> str:
    tags = facts.phrases("tag") + [tag for tag in (facts.mood, facts.texture) if tag]
    rng.shuffle(tags)
    name = facts.genre or facts.scene or ""
    return " ".join([name, *tags] if rng.random() < 0.5 else [*tags, name])


def request(rng: Random, facts: Facts) -> str:
    return rng.choice(templates.ASKS).format(x=noun_phrase(rng, facts))


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
    if "lead" not in facts.fields:
        return noun_phrase(rng, facts)
    link = rng.choice(("over", "on top of", "leading", "soaring over", "in", "playing over", "in front of"))
    after = facts.phrases("post", without=("lead",)) + facts.loose()
    rng.shuffle(after)
    start = facts.values[rng.choice(("lead", "a_lead"))]
    return _join(rng, [f"{start} {link} {article(facts.head())}", *after])


def scene_first(rng: Random, facts: Facts) -> str:
    scene = facts.scene or rng.choice(facts.scenes)
    opening = rng.choice(("music", "something", "a soundtrack", "some music", "a tune", "background music"))
    named = [rng.choice((facts.head(), article(facts.head())))] if facts.genre or facts.mood else []
    rest = facts.phrases(rng.choice(("tag", "post"))) + named + ([facts.texture] if facts.texture else [])
    rng.shuffle(rest)
    return f"{opening} {scene}" + (rng.choice((": ", ", ", " - ")) + ", ".join(rest) if rest else "")


def labelled(rng: Random, facts: Facts) -> str:
    labels = [("genre", facts.genre), ("style", facts.texture), ("mood", facts.mood)]
    entries = [f"{label}: {value}" for label, value in labels if value] + facts.phrases("tag")
    rng.shuffle(entries)
    return rng.choice(("; ", ", ", ". ")).join(entries)


def adjectives_first(rng: Random, facts: Facts) -> str:
    """`slow, sad, drumless jazz tune in A minor`: everything that can stand before the noun does."""
    before = [facts.values["word"]] if "tempo" in facts.fields else []
    numeric = "tempo" in facts.fields and facts.fields["tempo"]["tag"] is templates.BPM_TAGS
    before += [f"{facts.values['bpm']} bpm"] if numeric else []
    if "drums" in facts.fields and not facts.drums:
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
    start = rng.choice(("some {x}", "{x}", "a bit of {x}", "{x}")).format(
        x=f"{facts.mood} {name}" if facts.mood else name
    )
    rest = facts.phrases("post") + facts.loose()
    rng.shuffle(rest)
    return _join(rng, [start, *rest])


FRAMES: tuple[Callable[[Random, Facts], str], ...] = (
    noun_phrase,
    tag_list,
    keyword_run,
    request,
    sentences,
    lead_first,
    scene_first,
    labelled,
    adjectives_first,
    afterthoughts,
    described,
    genre_with_music,
)


def write_caption(rng: Random, piece: Attributes, complete: bool) -> str:
    """One caption; a `complete` one names genre, lead, tempo in bpm, key with mode, and whether there are drums."""
    text = ""
    while not text:  # a frame leaves out what does not fit it, at worst everything
        facts = Facts(rng, piece, complete)
        mentions = [facts.genre, facts.scene, facts.mood, facts.texture, *facts.fields]
        if facts.scene or sum(1 for fact in mentions if fact) >= 2:
            text = " ".join(rng.choice(FRAMES)(rng, facts).split())
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def write_captions(rng: Random, piece: Attributes, count: int) -> tuple[str, ...]:
    """`count` different captions. Every fourth leaves facts out; the others are complete (see `write_caption`): a model
    that is mostly told everything learns to lean on the text."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions[write_caption(rng, piece, complete=len(captions) % 4 < 3)] = None
    return tuple(captions)
