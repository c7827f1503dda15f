"""The words captions are made of: synonyms for genres, scenes, textures, instruments, moods, tempi and keys.

Every genre has names (before a head noun or alone), heads, and textures (things heard in it; the second group only in
pieces with drums); see also `scenes`.
"""

from __future__ import annotations

from typing import NamedTuple


class GenreWords(NamedTuple):
    names: tuple[str, ...]
    heads: tuple[str, ...]
    textures: tuple[str, ...]
    drum_textures: tuple[str, ...]


GENRE_WORDS: dict[str, GenreWords] = {
    "rock": GenreWords(
        ("rock", "rock", "hard rock", "guitar rock", "indie rock", "alternative rock", "garage rock", "rock and roll"),
        ("song", "track", "tune", "anthem", "jam", "number", "instrumental"),
        ("power chords", "crunchy rhythm guitars", "overdriven guitars", "driving eighth-note bass", "loud amps"),
        ("a hard-hitting backbeat", "a big drum kit", "crashing cymbals", "a straight rock beat"),
    ),
    "techno": GenreWords(
        (
            "techno",
            "techno",
            "electronic dance",
            "EDM",
            "club techno",
            "dance",
            "electronic",
            "house",
            "trance",
            "rave",
        ),
        ("track", "tune", "banger", "cut", "loop", "anthem"),
        ("pulsing off-beat bass", "synth stabs", "a hypnotic sequence", "repeating synth chords", "electronic bass"),
        (
            "a four-on-the-floor kick",
            "a thumping kick drum",
            "a pounding club beat",
            "off-beat open hats",
            "a drum machine",
        ),
    ),
    "jazz": GenreWords(
        ("jazz", "jazz", "swing", "bebop", "cool jazz", "swinging jazz", "lounge jazz", "jazzy", "jazz combo"),
        ("tune", "number", "standard", "piece", "track", "instrumental"),
        ("a walking double bass", "seventh chords", "ii-V-I changes", "an upright bass", "sparse comping chords"),
        ("a swinging ride cymbal", "brushed drums", "a swing beat", "a jazz drummer keeping time"),
    ),
    "classical": GenreWords(
        (
            "classical",
            "classical",
            "orchestral",
            "chamber music",
            "symphonic",
            "baroque",
            "romantic-era classical",
        ),
        ("piece", "work", "movement", "sonata", "serenade", "composition"),
        (
            "Alberti figures",
            "a string section",
            "broken chords",
            "sustained strings",
            "a low string bass",
            "orchestral strings",
        ),
        (),
    ),
    "reggae": GenreWords(
        (
            "reggae",
            "reggae",
            "roots reggae",
            "dub",
            "Jamaican reggae",
            "rocksteady",
            "island reggae",
            "laid-back reggae",
        ),
        ("groove", "tune", "track", "song", "riddim", "jam"),
        (
            "off-beat guitar chops",
            "a skanking guitar",
            "a bubbling organ",
            "a deep melodic bass line",
            "chords on the off-beat",
        ),
        ("a one-drop beat", "a one-drop groove on the drums", "rim shots on the third beat"),
    ),
    "country": GenreWords(
        (
            "country",
            "country",
            "bluegrass",
            "country and western",
            "Nashville country",
            "Americana",
            "hillbilly",
            "folk country",
        ),
        ("tune", "song", "number", "track", "hoedown", "ballad", "instrumental"),
        ("a boom-chick bass", "strummed acoustic guitar", "alternating bass notes", "a strummed steel-string guitar"),
        ("a train beat", "a brushed train-beat snare", "a simple country drum beat"),
    ),
    "ambient": GenreWords(
        ("ambient", "ambient", "atmospheric", "new age", "meditative", "drone", "chill-out", "space ambient"),
        ("soundscape", "piece", "track", "texture", "drift", "background"),
        ("warm synth pads", "long evolving pads", "lots of reverb", "slow washes of sound", "soft bell-like arpeggios"),
        ("a soft distant kick", "a very sparse beat", "a quiet shaker"),
    ),
    "hip hop": GenreWords(
        (
            "hip hop",
            "hip hop",
            "hip-hop",
            "boom bap",
            "rap",
            "lo-fi hip hop",
            "lofi",
            "old school hip hop",
            "instrumental rap",
        ),
        ("beat", "track", "instrumental", "loop", "groove", "joint", "tune"),
        ("a deep 808 bass", "a looped chord sample", "mellow sampled chords", "sub bass", "a looped melody"),
        ("a boom-bap drum beat", "head-nodding drums", "a dusty kick and snare", "a hard snare on two and four"),
    ),
}

LEAD_WORDS: dict[str, tuple[str, ...]] = {
    "piano": ("piano", "piano", "grand piano", "acoustic piano", "piano keys"),
    "electric piano": ("electric piano", "electric piano", "Rhodes", "Rhodes piano", "e-piano", "Fender Rhodes"),
    "organ": ("organ", "organ", "Hammond organ", "drawbar organ", "electric organ"),
    "harmonica": ("harmonica", "harmonica", "mouth organ", "blues harp"),
    "acoustic guitar": (
        "acoustic guitar",
        "acoustic guitar",
        "steel-string guitar",
        "unplugged guitar",
        "fingerpicked guitar",
    ),
    "electric guitar": (
        "electric guitar",
        "electric guitar",
        "distorted guitar",
        "lead guitar",
        "overdriven electric guitar",
    ),
    "banjo": ("banjo", "banjo", "five-string banjo", "plucked banjo"),
    "violin": ("violin", "violin", "fiddle", "solo violin", "bowed violin"),
    "cello": ("cello", "cello", "solo cello", "violoncello", "bowed cello"),
    "trumpet": ("trumpet", "trumpet", "solo trumpet", "brass trumpet", "horn"),
    "saxophone": ("saxophone", "saxophone", "sax", "alto sax", "alto saxophone"),
    "clarinet": ("clarinet", "clarinet", "solo clarinet", "woodwind clarinet"),
    "flute": ("flute", "flute", "concert flute", "solo flute", "airy flute"),
    "vibraphone": ("vibraphone", "vibraphone", "vibes", "mallets", "vibraphone mallets"),
    "choir": ("choir", "choir", "choir voices", "wordless vocals", "singing voices", "vocal choir"),
    "synth lead": ("synth lead", "synth lead", "synthesizer", "saw lead", "saw synth", "lead synth", "sawtooth synth"),
}

MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "happy": ("happy", "cheerful", "joyful", "bright", "sunny", "uplifting", "feel-good", "merry", "optimistic"),
    "calm": ("calm", "peaceful", "gentle", "relaxed", "mellow", "soothing", "serene", "easygoing", "tranquil"),
    "dark": ("dark", "tense", "intense", "dramatic", "brooding", "menacing", "moody", "serious", "stormy"),
    "sad": ("sad", "melancholic", "wistful", "sorrowful", "somber", "gloomy", "lonely", "mournful", "melancholy"),
}

TEMPO_WORDS: tuple[tuple[int, tuple[str, ...]], ...] = (  # words for tempi up to this many beats per minute
    (83, ("slow", "unhurried", "leisurely", "slow-paced", "slowly moving", "low-tempo")),
    (113, ("mid-tempo", "medium-paced", "moderately paced", "steady", "moderate")),
    (139, ("brisk", "upbeat", "lively", "quick", "spirited", "driving")),
    (999, ("fast", "very fast", "rapid", "racing", "fast-paced", "high-speed", "up-tempo")),
)

KEY_WORDS: dict[str, tuple[str, ...]] = {
    "C#": ("C#", "C sharp", "Db", "D flat"),
    "Eb": ("Eb", "E flat", "E-flat", "D#"),
    "F#": ("F#", "F sharp", "F-sharp", "Gb"),
    "Ab": ("Ab", "A flat", "A-flat", "G#"),
    "Bb": ("Bb", "B flat", "B-flat", "A#"),
}
