"""Tags in words: spelling that tag sets leave out, and which mood tags name an occasion."""

from __future__ import annotations

from typing import Any

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
_SEPARATORS = ",;"


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
                parts = entry.replace(_SEPARATORS[1], _SEPARATORS[0]).split(_SEPARATORS[0])
                found |= dict.fromkeys(filter(None, map(spell, parts)))
    return list(found)
