"""A small grammar that describes a piece in many shapes: tag lists, noun phrases, requests, sentences, scenes.

A caption is drawn in three steps: which facts it mentions (`facts`), which words stand for them (`vocabulary`,
`scenes`, `pictures`), and which frame (`frames`) they are put into. Facts come in random order wherever the frame
allows it.
"""

from __future__ import annotations

from random import Random

from ssmttm.composer.attributes import Attributes
from ssmttm.composer.facts import Facts
from ssmttm.composer.sentences import FRAMES, HINTS


def write_hint(rng: Random, piece: Attributes) -> str:
    """A caption that leaves the genre unsaid: one or two hints at it, and at times some of the other facts."""
    facts = Facts(rng, piece, complete=False)
    parts = [frame(rng, facts) for frame in rng.sample(HINTS, 1 if rng.random() < 0.65 else 2)]
    if rng.random() < 0.5:
        parts += facts.phrases(rng.choice(("tag", "post")))
    return ", ".join(dict.fromkeys(parts))


def write_caption(rng: Random, piece: Attributes, complete: bool) -> str:
    """One caption; a `complete` one names genre, lead, tempo in bpm, key with mode, and whether there are drums."""
    if not complete and rng.random() < 0.5:
        text = write_hint(rng, piece)
    else:
        text = ""
    while not text:  # a frame leaves out what does not fit it, at worst everything
        facts = Facts(rng, piece, complete)
        mentions = [facts.genre, facts.scene, facts.mood, facts.texture, *facts.fields]
        if facts.scene or sum(1 for fact in mentions if fact) >= 2:
            text = " ".join(rng.choice(FRAMES)(rng, facts).split())
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def write_captions(rng: Random, piece: Attributes, count: int) -> tuple[str, ...]:
    """`count` different captions. Every second is complete (see `write_caption`), so that tempo and key are learnt;
    of the others, half name no genre and speak in pictures, as people do."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions[write_caption(rng, piece, complete=len(captions) % 2 == 0)] = None
    return tuple(captions)
