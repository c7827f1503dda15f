"""The shapes of captions: each frame puts the same facts into words its own way.

Frames of `FRAMES` use every fact but some of the genre's hints; those of `HINTS` name no genre, and speak in pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ssmttm.composer import templates
from ssmttm.composer.facts import Facts, article
from ssmttm.composer.metaphors import ADJECTIVES, LIKENESSES, PICTURES
from ssmttm.composer.scenes import PLACES, SCENES


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
    return rng.choice(templates.ASKS).format(x=noun_phrase(rng, facts))


def review(rng: Random, facts: Facts) -> str:
    return rng.choice(templates.REVIEWS).format(x=noun_phrase(rng, facts))


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
    name = " ".join(word for word in (facts.mood, facts.adjective, name) if word)
    start = rng.choice(("some {x}", "{x}", "a bit of {x}", "{x}", "proper {x}", "more {x}")).format(x=name)
    rest = facts.phrases("post") + facts.loose()
    rng.shuffle(rest)
    return _join(rng, [start, *rest])


def in_pictures(rng: Random, facts: Facts) -> str:
    a, b, c = rng.sample(PICTURES[facts.meant], 3)
    return rng.choice(templates.PICTURE_FRAMES).format(a=a, b=b, c=c)


def by_place(rng: Random, facts: Facts) -> str:
    return rng.choice(templates.PLACE_FRAMES).format(p=rng.choice(PLACES[facts.meant]))


def by_likeness(rng: Random, facts: Facts) -> str:
    who, other = rng.sample(LIKENESSES[facts.meant], 2)
    return rng.choice(templates.LIKENESS_FRAMES).format(who=who, other=other)


def by_use(rng: Random, facts: Facts) -> str:
    start = rng.choice(("", "", "music ", "something ", "the right thing ", "we want a track ", "sounds "))
    return start + rng.choice(SCENES[facts.meant])


def by_adjectives(rng: Random, facts: Facts) -> str:
    chosen = rng.sample(ADJECTIVES[facts.meant], rng.randint(2, 3))
    noun = rng.choice(("", "", " music", " piece", " track", " stuff", " sound", " feel"))
    return rng.choice((", ", " and ", " ", ", ")).join(chosen) + noun


def by_texture(rng: Random, facts: Facts) -> str:
    """What plays, told without a genre's name."""
    textures = rng.sample(facts.textures(), 2)
    adjective = rng.choice(ADJECTIVES[facts.meant])
    return rng.choice(("{a}, {b}", "{a} and {b}, {c}", "{c} with {a}", "{c}: {a}, {b}", "I hear {a} and {b}")).format(
        a=textures[0], b=textures[1], c=adjective
    )


FRAMES: tuple[Callable[[Random, Facts], str], ...] = (
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
