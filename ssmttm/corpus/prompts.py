"""Prompts as people might type them, each with the genre its author had in mind. Held out: the caption grammar cannot
produce them, so a model's genre rate on these says how far it understands words it was not trained on."""

from __future__ import annotations

FREE_FORM_PROMPTS: tuple[tuple[str, str], ...] = (
    ("loud guitars and a screaming solo, something to headbang to", "rock"),
    ("the kind of riff that opens a saturday night gig in a sweaty pub", "rock"),
    ("teenage rebellion, everything turned up to eleven", "rock"),
    ("punchy four-piece with lots of distortion, like the radio in the nineties", "rock"),
    ("berlin basement at dawn, nothing but the machines and the bass", "techno"),
    ("make my feet move, relentless electronic stuff without any breaks", "techno"),
    ("robotic and repetitive, the bit just before everybody throws their hands up", "techno"),
    ("something synthetic that keeps a hangar full of ravers jumping until sunrise", "techno"),
    ("an old sax player telling a story in a half-empty bar", "jazz"),
    ("improvised and swinging, the bassist strolls and nobody is in a hurry", "jazz"),
    ("what they'd play after dinner on a steamboat near New Orleans", "jazz"),
    ("blue notes and clever chords for a rainy evening in Paris", "jazz"),
    ("like a violin concerto written two hundred years ago", "classical"),
    ("powdered wigs, polite applause, everyone curtsies", "classical"),
    ("what the queen would listen to with her tea", "classical"),
    ("could be Beethoven, maybe the slow part of a symphony", "classical"),
    ("Bob Marley vibes, sun is out, no worries", "reggae"),
    ("guitar chopping on the upbeats, big round bass, very chilled islanders", "reggae"),
    ("one love, dreadlocks, a cold drink and the sea", "reggae"),
    ("lazy tropical rhythm where the chords land between the beats", "reggae"),
    ("a lonesome cowboy riding home across the prairie", "country"),
    ("banjos and fiddles at my uncle's wedding in Kentucky", "country"),
    ("Johnny Cash would tap his foot to this", "country"),
    ("honky tonk, horses, hay bales and a two-step", "country"),
    ("hardly anything happens, beautifully, for a long time", "ambient"),
    ("lying in warm water with your eyes closed", "ambient"),
    ("help my baby drift off, very soft and without edges", "ambient"),
    ("glaciers, northern lights, endless sustained tones", "ambient"),
    ("something my cousin can spit bars on", "hip hop"),
    ("crackly old record chopped up, heavy low end, hoodies", "hip hop"),
    ("chill tape to do homework to, snare a little late", "hip hop"),
    ("nineties east coast, big sub and attitude, verse goes here", "hip hop"),
)
