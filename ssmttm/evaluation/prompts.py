"""What systems are asked: free-form prompts, MusicCaps, Song Describer, any table of texts, held-out captions."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.evaluation import adherence
from ssmttm.evaluation.clips import Recording
from ssmttm.sources.readers import read_source
from ssmttm.sources.tables import csv_rows, read_table_text
from ssmttm.tokens.read import TokenDataset

TEXT_COLUMNS = ("prompt", "caption")
DEMO = "demo"


@dataclass(frozen=True)
class Prompt:
    """What a system is asked.

    Attributes:
        id: under which a real clip of the same caption may be found.
        text: what to make.
        tags: what the music should be, as far as that is known: genre, lead, drums, bpm, key, mode.
        recording: the music that the text was written for.
        codes_KT: its true codes, int16.
        score: what is known of the recording's track (`sources.manifest.Track.score`).
    """

    id: str
    text: str
    tags: Mapping[str, Any] = field(default_factory=dict)
    recording: Recording | None = None
    codes_KT: np.ndarray | None = None
    score: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(source: str, only_subset: bool = False) -> list[Prompt]:
    """The prompts of a set, in its order.

    Args:
        source: `demo`; the published CSV file of MusicCaps or Song Describer; a CSV file with a column `prompt` or
            `caption` and, optionally, `id`; a JSONL file of objects with these keys; a .txt file, one prompt a line.
        only_subset: of MusicCaps the genre-balanced captions, of Song Describer the validated ones.

    Raises:
        UserError: if the file is none of these, an entry lacks its text, or an id repeats.
    """
    if source == DEMO:
        prompts = [Prompt(f"demo-{i:03d}", text) for i, (text, _) in enumerate(FREE_FORM_PROMPTS)]
        published = False
    else:
        published = source.endswith(".csv") and tuple(next(csv_rows(source), (1, []))[1]) in READERS
        prompts = _published(source, only_subset) if published else _plain(source)
    if only_subset and not published:
        raise UserError(f"{source} has no published subset; only MusicCaps and Song Describer files do")
    if not prompts:
        raise UserError(f"{source} holds no prompts")
    seen: set[str] = set()
    for prompt in prompts:
        if not prompt.id or not prompt.text:
            raise UserError(f"{source}: an entry has no text; give each a prompt")
        if prompt.id in seen:
            raise UserError(f"{source}: id '{prompt.id}' occurs twice")
        seen.add(prompt.id)
    return prompts


def choose(prompts: list[Prompt], number: int, seed: int) -> list[Prompt]:
    """At most `number` of the prompts, drawn by seed, in the set's order."""
    order = np.random.default_rng((seed, len(prompts))).permutation(len(prompts))[:number]
    return [prompts[i] for i in sorted(order.tolist())]


def _published(source: str, only_subset: bool) -> list[Prompt]:
    captions = read_captions(source)
    return [Prompt(one.id, one.caption) for one in captions if one.in_subset or not only_subset]


def _plain(source: str) -> list[Prompt]:
    if source.endswith(".csv"):
        entries = _csv(source)
    elif source.endswith(".jsonl"):
        entries = _jsonl(source)
    elif source.endswith(".txt"):
        entries = [("", line.strip()) for line in read_table_text(source).splitlines() if line.strip()]
    else:
        raise UserError(f"prompts={source} is not known; give '{DEMO}' or a .csv, .jsonl or .txt file")
    return [Prompt(id or f"{i:04d}", text) for i, (id, text) in enumerate(entries)]


def _csv(source: str) -> list[tuple[str, str]]:
    rows = csv_rows(source)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    column = next((name for name in TEXT_COLUMNS if name in header), None)
    if column is None:
        raise UserError(f"{source} has the columns {', '.join(header)}; it needs 'prompt' or 'caption'")
    entries = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{source} line {line}: {len(cells)} cells, the header has {len(header)}")
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        entries.append((values.get("id", ""), values[column]))
    return entries


def _jsonl(source: str) -> list[tuple[str, str]]:
    entries = []
    for number, line in enumerate(read_table_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} line {number} is not valid JSON: {error}") from None
        text = next((values[name] for name in TEXT_COLUMNS if isinstance(values, dict) and name in values), None)
        if not isinstance(text, str):
            raise UserError(f"{source} line {number} needs a text under 'prompt' or 'caption'")
        entries.append((str(values.get("id", "")), text.strip()))
    return entries


MUSICCAPS = (
    "ytid",
    "start_s",
    "end_s",
    "audioset_positive_labels",
    "aspect_list",
    "caption",
    "author_id",
    "is_balanced_subset",
    "is_audioset_eval",
)
SONG_DESCRIBER = (
    "caption_id",
    "track_id",
    "caption",
    "is_valid_subset",
    "familiarity",
    "artist_id",
    "album_id",
    "path",
    "duration",
)


@dataclass(frozen=True)
class Caption:
    """A caption and the audio it describes.

    id: `ytid` or `caption_id`. audio: YouTube address, or path inside MTG-Jamendo. start_s, end_s: the described
    stretch, in seconds. in_subset: member of the subset that results are reported on (MusicCaps: the genre-balanced
    one; Song Describer: the validated one). aspects: MusicCaps' list of phrases.
    """

    id: str
    caption: str
    audio: str
    start_s: float
    end_s: float
    in_subset: bool
    aspects: tuple[str, ...] = ()


def _seconds(values: dict[str, str], name: str) -> float:
    try:
        seconds = float(values[name])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{name} '{values[name]}' is not a number of seconds")
    return seconds


def _flag(values: dict[str, str], name: str) -> bool:
    if values[name].lower() not in ("true", "false", ""):
        raise UserError(f"{name} '{values[name]}' is neither True nor False")
    return values[name].lower() == "true"


def _aspects(text: str) -> tuple[str, ...]:
    """A Python list of texts."""
    try:
        aspects = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        aspects = None
    if not isinstance(aspects, list) or not all(isinstance(aspect, str) for aspect in aspects):
        raise UserError(f"aspect_list {text[:60]!r} is not a list of texts")
    return tuple(aspects)


def _musiccaps(values: dict[str, str]) -> Caption:
    start, end = _seconds(values, "start_s"), _seconds(values, "end_s")
    address = f"https://www.youtube.com/watch?v={values['ytid']}"
    subset = _flag(values, "is_balanced_subset")
    return Caption(values["ytid"], values["caption"], address, start, end, subset, _aspects(values["aspect_list"]))


def _song_describer(values: dict[str, str]) -> Caption:
    end, subset = _seconds(values, "duration"), _flag(values, "is_valid_subset")
    return Caption(values["caption_id"], values["caption"], values["path"], 0.0, end, subset)


READERS: dict[tuple[str, ...], Callable[[dict[str, str]], Caption]] = {
    MUSICCAPS: _musiccaps,
    SONG_DESCRIBER: _song_describer,
}


def read_captions(uri: str) -> list[Caption]:
    """The captions of a MusicCaps or Song Describer CSV file, as its header says which, in the file's order.

    Raises:
        UserError: if the header is neither's (naming both), or a row is malformed (naming the line).
    """
    rows = csv_rows(uri)
    _, header = next(rows, (1, []))
    reader = READERS.get(tuple(header))
    if reader is None:
        expected = "; or ".join(", ".join(columns) for columns in READERS)
        raise UserError(f"{uri} has the columns {', '.join(header)}; expected {expected}")
    captions: dict[str, Caption] = {}
    for line, cells in rows:
        try:
            if len(cells) != len(header):
                raise UserError(f"{len(cells)} cells, the header has {len(header)}")
            caption = reader({name: cell.strip() for name, cell in zip(header, cells, strict=True)})
            if not caption.id or not caption.caption:
                raise UserError("no id or no caption")
            if caption.id in captions:
                raise UserError(f"id '{caption.id}' occurs twice")
        except UserError as error:
            raise UserError(f"{uri} line {line}: {error}") from None
        captions[caption.id] = caption
    return list(captions.values())


def held_out_tracks(settings: Config) -> list[Prompt]:
    """The first captions of the corpus' validation tracks."""
    tracks = read_source(settings.corpus.source, settings.corpus)
    return [
        Prompt(track.id, track.captions[0], recording=Recording(track.audio))
        for track in tracks
        if track.split == "val" and track.captions
    ]


def segments(settings: Config) -> tuple[list[Prompt], list[Prompt]]:
    """Training segments for the probes and held-out ones, each a seeded choice of token shards' rows with their tags
    and recordings; the first held-out ones differ in genre.

    Raises:
        UserError: if the shards are missing or their rows do not carry the tags that prompts are checked against.
    """
    tracks = {track.id: track for track in read_source(settings.corpus.source, settings.corpus)}

    def chosen(split: str, count: int) -> Iterator[Prompt]:
        dataset = TokenDataset.open(settings.train.data, split, with_fine=False)
        order = np.random.default_rng((settings.evaluate.seed, len(split))).permutation(len(dataset))[:count]
        for i in order.tolist():
            row, tags = dataset.rows[i], dataset.tags(i)
            if missing := [name for name in adherence.TAGS if name not in tags]:
                raise UserError(f"{row['id']} has no tag '{missing[0]}'; evaluation needs {', '.join(adherence.TAGS)}")
            track = tracks[row["source_id"]]
            recording = Recording(track.audio, row["start_s"], row["duration_s"])
            codes_KT = dataset.codes(i) if split == "val" else None
            yield Prompt(row["id"], dataset.prompt(i), tags, recording, codes_KT, track.score)

    held_out = list(chosen("val", settings.evaluate.clips))
    order = by_rounds([prompt.tags["genre"] for prompt in held_out])
    held_out = [replace(held_out[i], id=f"held-out-{n:03d}") for n, i in enumerate(order)]
    return list(chosen("train", settings.evaluate.probe_clips)), held_out


def by_rounds(kinds: Sequence[str]) -> list[int]:
    """An order in which each kind comes once before any comes again."""
    before: dict[str, int] = {}
    rounds = []
    for kind in kinds:
        rounds.append(before.get(kind, 0))
        before[kind] = rounds[-1] + 1
    return sorted(range(len(kinds)), key=lambda i: rounds[i])


def free_form(number: int) -> list[Prompt]:
    """`number` of the free-form prompts, or all of them, evenly from the list."""
    chosen = FREE_FORM_PROMPTS[:: max(len(FREE_FORM_PROMPTS) // number, 1)][:number]
    return [Prompt(f"free-form-{i:02d}", text, {"genre": genre}) for i, (text, genre) in enumerate(chosen)]


# As people might type them, each with the genre its author had in mind. The caption grammar cannot produce them, so a
# model's genre rate on these says how far it understands words that it was not trained on.
FREE_FORM_PROMPTS: tuple[tuple[str, str], ...] = (
    ("loud guitars and a screaming solo, something to headbang to", "rock"),
    ("AC/DC style stomper with a big chorus", "rock"),
    ("the kind of riff that opens a saturday night gig in a sweaty pub", "rock"),
    ("seventies hair, flared jeans, amp stacks and a singer who howls", "rock"),
    ("teenage rebellion, everything turned up to eleven", "rock"),
    ("grunge, quiet verse loud chorus, seattle in the rain", "rock"),
    ("punchy four-piece with lots of distortion, like the radio in the nineties", "rock"),
    ("for driving too fast in a muscle car", "rock"),
    ("berlin basement at dawn, nothing but the machines and the bass", "techno"),
    ("detroit machine funk, cold and hypnotic", "techno"),
    ("make my feet move, relentless electronic stuff without any breaks", "techno"),
    ("four to the floor, ibiza closing party", "techno"),
    ("robotic and repetitive, the bit just before everybody throws their hands up", "techno"),
    ("daft punk but harder and darker", "techno"),
    ("something synthetic that keeps a hangar full of ravers jumping until sunrise", "techno"),
    ("acid squelches for my gym playlist, high energy", "techno"),
    ("an old sax player telling a story in a half-empty bar", "jazz"),
    ("Miles Davis at 2am, muted and cool", "jazz"),
    ("improvised and swinging, the bassist strolls and nobody is in a hurry", "jazz"),
    ("brushes on the snare, upright bass, somebody clinks a glass", "jazz"),
    ("what they'd play after dinner on a steamboat near New Orleans", "jazz"),
    ("1920s speakeasy, people doing the charleston", "jazz"),
    ("blue notes and clever chords for a rainy evening in Paris", "jazz"),
    ("coffee shop on a sunday morning, tasteful trio", "jazz"),
    ("like a violin concerto written two hundred years ago", "classical"),
    ("Vivaldi on a spring day", "classical"),
    ("powdered wigs, polite applause, everyone curtsies", "classical"),
    ("tragic strings, like the funeral scene in a costume film", "classical"),
    ("what the queen would listen to with her tea", "classical"),
    ("a viennese ball, gowns and white gloves", "classical"),
    ("could be Beethoven, maybe the slow part of a symphony", "classical"),
    ("chamber ensemble in a palace, elegant, very proper", "classical"),
    ("Bob Marley vibes, sun is out, no worries", "reggae"),
    ("dub echo all over the place, heavy bass, rimshot", "reggae"),
    ("guitar chopping on the upbeats, big round bass, very chilled islanders", "reggae"),
    ("kingston 1975, speakers stacked in the yard", "reggae"),
    ("one love, dreadlocks, a cold drink and the sea", "reggae"),
    ("skanking organ and an easy sunny bounce", "reggae"),
    ("lazy tropical rhythm where the chords land between the beats", "reggae"),
    ("toes in the sand, coconut in hand, island time", "reggae"),
    ("a lonesome cowboy riding home across the prairie", "country"),
    ("pickup truck, dirt road, cold beer and a broken heart", "country"),
    ("banjos and fiddles at my uncle's wedding in Kentucky", "country"),
    ("bluegrass picking, stomp your boots", "country"),
    ("Johnny Cash would tap his foot to this", "country"),
    ("Dolly Parton on a porch swing", "country"),
    ("honky tonk, horses, hay bales and a two-step", "country"),
    ("old west saloon, somebody just walked in with a gun", "country"),
    ("hardly anything happens, beautifully, for a long time", "ambient"),
    ("Brian Eno for airports", "ambient"),
    ("lying in warm water with your eyes closed", "ambient"),
    ("background for meditation, no rhythm please", "ambient"),
    ("help my baby drift off, very soft and without edges", "ambient"),
    ("a spaceship adrift in the dark, slow and huge", "ambient"),
    ("glaciers, northern lights, endless sustained tones", "ambient"),
    ("washed out pads, tape hiss, fog in the morning", "ambient"),
    ("something my cousin can spit bars on", "hip hop"),
    ("lofi beats to study and relax to", "hip hop"),
    ("crackly old record chopped up, heavy low end, hoodies", "hip hop"),
    ("boom bap like the golden era, dusty sample", "hip hop"),
    ("chill tape to do homework to, snare a little late", "hip hop"),
    ("booming 808s for a freestyle battle", "hip hop"),
    ("nineties east coast, big sub and attitude, verse goes here", "hip hop"),
    ("something Nas would rap over in Queensbridge", "hip hop"),
)
