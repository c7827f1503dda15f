"""Templates that put a fact into words, by field and place: a tag in a list, an afterthought to a noun phrase (`post`),
a sentence of its own. Then the frames of requests, and of captions that name no genre."""

from __future__ import annotations

from ssmttm.composer.scenes import phrases

LEAD_TAGS = phrases("""
    {lead}; {lead} lead; lead: {lead}; {lead} melody; {lead} solo; featuring {lead}; lead instrument: {lead}; with
    {lead}; melody: {lead}
""")
LEAD_POSTS = phrases("""
    with {a_lead} playing the melody; with {lead} up front; led by {a_lead}; with {a_lead} melody; featuring {lead};
    with {a_lead} on lead; with {lead}; with {a_lead} solo; carried by {a_lead}; played on {lead}; with {a_lead}; with
    {a_lead} on top; with {a_lead} in the lead; starring {a_lead}; where {lead} sings the tune; built around {a_lead};
    with {a_lead} taking the solo; with the tune on {lead}; plus {a_lead} lead
""")
LEAD_SENTENCES = tuple(
    f"{sentence}."
    for sentence in phrases("""
        {A_lead} takes the lead; The melody is on {lead}; {A_lead} plays the tune; Lead instrument: {lead}; The main
        voice is {a_lead}; You hear {a_lead} on top; {A_lead} carries the melody; It features {a_lead}; {A_lead} is
        out in front; The lead is {a_lead}
    """)
)
BPM_TAGS = phrases("""
    {bpm} bpm; {bpm} BPM; {bpm}bpm; tempo {bpm}; {bpm} beats per minute; tempo: {bpm} bpm; bpm: {bpm}; at {bpm} bpm;
    around {bpm} bpm; {word}, {bpm} bpm; {bpm} bpm tempo
""")
BPM_POSTS = phrases("""
    at {bpm} bpm; at {bpm} bpm; at {bpm} BPM; at {bpm} beats per minute; at {a_word} {bpm} bpm; at a tempo of {bpm};
    around {bpm} bpm; around {bpm} beats per minute; running at {bpm} BPM; tempo {bpm}; going at {bpm} bpm; about
    {bpm} bpm; with a tempo of {bpm} bpm; clocked at {bpm} bpm; moving along at {bpm} bpm
""")
BPM_SENTENCES = tuple(
    f"{sentence}."
    for sentence in phrases("""
        The tempo is {bpm} bpm; It moves at {bpm} beats per minute; {bpm} bpm; Tempo: {word}, {bpm} bpm; Tempo {bpm};
        It runs at {bpm} BPM; The metronome says {bpm} bpm; Around {bpm} beats per minute; It is {word}, {bpm} bpm
    """)
)
WORD_TAGS = phrases("{word}; {word} tempo; tempo: {word}; {word}")
WORD_POSTS = phrases("""
    at {a_word} tempo; at {a_word} pace; with {a_word} pulse; going at {a_word} pace; that feels {word}; in {a_word}
    tempo
""")
WORD_SENTENCES = ("The tempo is {word}.", "The pace is {word}.", "It feels {word}.", "Tempo: {word}.")
# Never "in a minor key" for any minor key: the text encoder is uncased, and reads the key of A minor.
KEY_TAGS = phrases("""
    {key} {mode}; in {key} {mode}; key: {key} {mode}; key of {key} {mode}; {symbol}; {key} {mode} key; in {symbol};
    key {key} {mode}
""")
KEY_POSTS = phrases("""
    in {key} {mode}; in {key} {mode}; in the key of {key} {mode}; written in {key} {mode}; in {symbol}; key of {key}
    {mode}; played in {key} {mode}; centred on {key} {mode}; key: {key} {mode}
""")
KEY_SENTENCES = tuple(
    f"{sentence}."
    for sentence in phrases("""
        It is in {key} {mode}; Key: {key} {mode}; The key is {key} {mode}; It is played in {key} {mode}; The harmony
        is in {key} {mode}; Everything is in {symbol}; In the key of {key} {mode}
    """)
)
MODE_TAGS = phrases("{mode}; {mode} mode; {mode} harmony; {mode} tonality")
MODE_POSTS = phrases("with {mode} chords; in {mode}; in the {mode} mode; with {mode} harmony")
MODE_SENTENCES = ("The harmony is {mode}.", "{Mode} tonality.", "It is in {mode}.")
DRUM_TAGS = {
    True: phrases("drums; with drums; drum kit; drums: yes; drum beat; percussion; a drummer"),
    False: phrases("no drums; without drums; drumless; drums: no; no percussion; no beat; drum-free; zero drums"),
}
DRUM_POSTS = {
    True: phrases("""
        with drums; with a drum beat; over a drum groove; backed by drums; and drums; with a drummer; with percussion;
        and a drum kit; over drums; plus drums
    """),
    False: phrases("""
        without drums; with no drums; without any percussion; and no drums; but no drums; minus the drums; no drums;
        without any drums; drum-free
    """),
}
DRUM_SENTENCES = {
    True: phrases("There are drums.; Drums keep the beat.; With a drum kit.; A drummer keeps time.; The drums are in."),
    False: phrases("There are no drums.; No drums.; Nobody plays drums.; No percussion at all.; It is drumless."),
}
ASKS = phrases("""
    play me {x}; play {x}; give me {x}; I want {x}; I'd like to hear {x}; make {x}; create {x}; compose {x}; write
    {x}; generate {x}; can you make {x}; please play {x}; let me hear {x}; I need {x}; I'm looking for {x}; how about
    {x}; we need {x}; produce {x}; put on {x}; could I get {x}?; can you play {x}?; in the mood for {x}; make me {x};
    I feel like {x}; what about {x}?; any chance of {x}?; looking for {x}; need {x}; want {x}; {x}, please; surprise
    me with {x}; I could use {x} right now; how does {x} sound?; let's have {x}; my video needs {x}; something like
    {x}; got {x}?; imagine {x}; I'm after {x}
""")
REVIEWS = phrases("""
    {x}, and a good one; what {x}!; this is {x}; reminds me of {x}; {x}, nicely played; honestly just {x}; {x}, ten
    out of ten; could be {x}; pure and simple: {x}; turns out to be {x}; a fine example of {x}
""")
PICTURE_FRAMES = phrases("""
    {a}; {a}, {b}; {a}, {b}, {c}; {a} and {b}; music like {a}; think {a}; something with {a} in it; {a}, {b} - that
    feeling; it should feel like {a}, {b}; imagine {a}; the sound of {a}; {a}... {b}...; i want {a} and {b}; {a}
    vibes; {a} / {b} / {c}; mood: {a}, {b}; picture this: {a}, {b}; {a}. {b}. {c}.; give me {a}; all about {a}
""")
PLACE_FRAMES = phrases("""
    what you hear {p}; the kind of thing they play {p}; what they put on {p}; music you would find {p}; something
    you'd hear {p}; as if recorded {p}; sounds like being {p}; take me there: {p}; the band that plays {p}; it feels
    like being {p}; the stuff people listen to {p}; like a night {p}; i want to feel like i'm {p}; could be playing
    {p}
""")
LIKENESS_FRAMES = phrases("""
    like {who}; sounds like {who}; in the style of {who}; in the spirit of {who}; something {who} might have recorded;
    for fans of {who}; {who} vibes; {who} style; {who} meets {other}; think {who} or {other}; inspired by {who}; could
    pass for {who}; a bit like {who}; {who} could have made this; when {who} is on the stereo
""")
