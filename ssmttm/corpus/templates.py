"""Templates that put a fact into words, by field and place: a tag in a list, an afterthought to a noun phrase (`post`),
a sentence of its own."""

from __future__ import annotations

LEAD_TAGS = ("{lead}", "{lead} lead", "lead: {lead}", "{lead} melody", "{lead} solo", "featuring {lead}")
LEAD_POSTS = (
    "with {a_lead} playing the melody",
    "with {lead} up front",
    "led by {a_lead}",
    "with {a_lead} melody",
    "featuring {lead}",
    "with {a_lead} on lead",
    "with {lead}",
    "with {a_lead} solo",
    "carried by {a_lead}",
    "played on {lead}",
)
LEAD_SENTENCES = (
    "{A_lead} takes the lead.",
    "The melody is on {lead}.",
    "{A_lead} plays the tune.",
    "Lead instrument: {lead}.",
    "The main voice is {a_lead}.",
    "You hear {a_lead} on top.",
)
BPM_TAGS = ("{bpm} bpm", "{bpm} BPM", "{bpm}bpm", "tempo {bpm}", "{bpm} beats per minute", "tempo: {bpm} bpm")
BPM_POSTS = (
    "at {bpm} bpm",
    "at {bpm} beats per minute",
    "at {a_word} {bpm} bpm",
    "at a tempo of {bpm}",
    "around {bpm} bpm",
    "running at {bpm} BPM",
)
BPM_SENTENCES = (
    "The tempo is {bpm} bpm.",
    "It moves at {bpm} beats per minute.",
    "{bpm} bpm.",
    "Tempo: {word}, {bpm} bpm.",
)
WORD_TAGS = ("{word}", "{word} tempo", "tempo: {word}")
WORD_POSTS = ("at {a_word} tempo", "at {a_word} pace", "with {a_word} pulse")
WORD_SENTENCES = ("The tempo is {word}.", "The pace is {word}.", "It feels {word}.")
KEY_TAGS = ("{key} {mode}", "in {key} {mode}", "key: {key} {mode}", "key of {key} {mode}")
KEY_POSTS = ("in {key} {mode}", "in the key of {key} {mode}", "written in {key} {mode}")
KEY_SENTENCES = ("It is in {key} {mode}.", "Key: {key} {mode}.", "The key is {key} {mode}.")
MODE_TAGS = ("{mode}", "{mode} key")
MODE_POSTS = ("in a {mode} key", "in {mode}")
MODE_SENTENCES = ("It is in a {mode} key.", "{Mode} key.")
DRUM_TAGS = {
    True: ("drums", "with drums", "drum kit", "drums: yes", "drum beat", "percussion"),
    False: ("no drums", "without drums", "drumless", "drums: no", "no percussion", "no beat"),
}
DRUM_POSTS = {
    True: ("with drums", "with a drum beat", "over a drum groove", "backed by drums", "and drums", "with a drummer"),
    False: (
        "without drums",
        "with no drums",
        "without any percussion",
        "and no drums",
        "but no drums",
        "minus the drums",
    ),
}
DRUM_SENTENCES = {
    True: ("There are drums.", "Drums keep the beat.", "With a drum kit.", "A drummer keeps time."),
    False: ("There are no drums.", "No drums.", "Nobody plays drums.", "No percussion at all."),
}
ASKS = (
    "play me {x}",
    "play {x}",
    "give me {x}",
    "I want {x}",
    "I'd like to hear {x}",
    "make {x}",
    "create {x}",
    "compose {x}",
    "write {x}",
    "generate {x}",
    "can you make {x}",
    "please play {x}",
    "let me hear {x}",
    "I need {x}",
    "I'm looking for {x}",
    "how about {x}",
    "we need {x}",
    "produce {x}",
    "put on {x}",
)
