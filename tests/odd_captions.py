"""Odd names, sidecars and tables, each with what is right: `write(folder)` makes them, and gives the cases.

Each stands for what somebody's files look like; its neighbours are its relatives. Audio is a second of noise, of its
own in each file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
Content = bytes | str | dict | list


@dataclass(frozen=True)
class Case:
    """audio: names of audio files, relative to a folder of the case's own. beside: what else lies there, by name.
    captions, fields, tags: what is right of the first audio file. refused: what its reject says, if it is refused.
    named: what the reject of something else says."""

    audio: tuple[str, ...]
    beside: Mapping[str, Content] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    named: str = ""


def named(name: str, sidecar: str) -> Case:
    return Case((name,), {sidecar: "calm piano\n"}, ("calm piano",))


def text(content: bytes | str, *captions: str, end: str = ".txt", also: Mapping[str, Content] | None = None) -> Case:
    return Case(("song.wav",), {f"song{end}": content, **(also or {})}, captions)


def stated(
    values: Content, *captions: str, refused: str = "", tags: Mapping[str, Any] | None = None, **fields: Any
) -> Case:
    return Case(("song.wav",), {"song.json": values}, captions, fields, tags or {}, refused)


def table(
    name: str,
    content: bytes | str,
    *captions: str,
    audio: tuple[str, ...] = ("song.wav",),
    refused: str = "",
    named: str = "",
    **fields: Any,
) -> Case:
    return Case(audio, {name: content}, captions, fields, {}, refused, named)


NFC, NFD = "caf\u00e9", "cafe\u0301"
AUDIOCRAFT = {
    "key": "", "artist": "Voyager I", "sample_rate": 48000, "file_extension": "mp3", "duration": 15.0, "bpm": "",
    "description": "A cool cut", "keywords": "bright, pulsing", "genre": "electronic", "title": "Enracinement",
    "name": "electro_1", "instrument": "Mix", "moods": [],
}  # fmt: skip
LINES = "file_name,text\nsong.wav,calm piano\n"

NAMES = {
    "tilde": named("~tilde.wav", "~tilde.txt"),
    "tilde alone": named("~.wav", "~.txt"),
    "home": named("~/song.wav", "~/song.txt"),
    "chained": named("a::b.wav", "a::b.txt"),
    "chained folder": named("a::b/c::d.wav", "a::b/c::d.txt"),
    "colon": named("12:30.wav", "12:30.txt"),
    "fragment": named("#1 hit.wav", "#1 hit.txt"),
    "query": named("what?.wav", "what?.txt"),
    "quoted blank": named("a%20b.wav", "a%20b.txt"),
    "quoted slash": named("a%2Fb.wav", "a%2Fb.txt"),
    "pattern": named("[a]*{b}.wav", "[a]*{b}.txt"),
    "variable": named("$HOME.wav", "$HOME.txt"),
    "dash": named("-song.wav", "-song.txt"),
    "option": named("--help.wav", "--help.txt"),
    "hidden": named(".hidden.wav", ".hidden.txt"),
    "dots": named("...and more.wav", "...and more.txt"),
    "extension alone": named(".wav", ".txt"),
    "two lines": named("two\nlines.wav", "two\nlines.txt"),
    "escape": named("red\x1b[31m.wav", "red\x1b[31m.txt"),
    "blank in front": named(" song.wav", " song.txt"),
    "blank behind": named("song .wav", "song .txt"),
    "quotes": named('it\'s "x".wav', 'it\'s "x".txt'),
    "backslash": named("AC\\DC.wav", "AC\\DC.txt"),
    "composed": named(f"{NFC}.wav", f"{NFC}.txt"),
    "decomposed": named(f"{NFD}.wav", f"{NFC}.txt"),
    "composed beside decomposed": named(f"{NFC}.wav", f"{NFD}.txt"),
    "script": named("\u540d\u524d.wav", "\u540d\u524d.txt"),
    "picture": named("\U0001f3b5.wav", "\U0001f3b5.txt"),
    "long": named("x" * 251 + ".wav", "x" * 251 + ".txt"),
    "upper": named("UPPER.WAV", "UPPER.TXT"),
    "mixed": named("Mixed.Wav", "mIXED.tXt"),
    "upper sidecar": named("song.wav", "SONG.TXT"),
    "several dots": named("a.b.c.wav", "a.b.c.txt"),
    "whole name": named("song.wav", "song.wav.txt"),
    "its own before alike": Case(("song.wav", "SONG.wav"), {"song.txt": "calm", "SONG.txt": "loud"}, ("calm",)),
    "of another": Case(("SONG.wav", "song.wav"), {"song.txt": "calm"}),
}
TEXTS = {
    "mark": text(b"\xef\xbb\xbfcalm piano\r\n", "calm piano"),
    "two marks": text(b"\xef\xbb\xbf\xef\xbb\xbfcalm piano", "calm piano"),
    "utf-16": text("calm piano\n".encode("utf-16"), "calm piano"),
    "utf-16 big": text(b"\xfe\xff" + "calm piano".encode("utf-16-be"), "calm piano"),
    "utf-16 without mark": text("calm piano\n".encode("utf-16-le"), "calm piano"),
    "utf-32": text("calm piano".encode("utf-32"), "calm piano"),
    "latin-1": text("f\u00fcr G\u00e4ste".encode("latin-1"), "f\u00fcr G\u00e4ste"),
    "windows": text("\u201ccalm\u201d".encode("cp1252"), "\u201ccalm\u201d"),
    "old mac lines": text("calm\rslow\r", "calm", "slow"),
    "decomposed": text(f"{NFD} music", f"{NFC} music"),
    "blanks": text("  calm \u00a0 piano\t\n\n \n", "calm piano"),
    "nothing": text(""),
    "no words": text("???\n--\n\u200b\nNaN\n1984\n"),
    "caption": text("calm", "calm", end=".caption.txt"),
    "prompt": text("calm", "calm", end="_prompt.txt", also={"song_lyrics.txt": "la la la"}),
    "prompt of another": Case(("song.wav", "song_prompt.wav"), {"song_prompt.txt": "calm"}),
    "no text": Case(("song.wav",), {"song.txt": bytes(range(32)) * 9}, named="is no text"),
}
OBJECTS = {
    "bpm text": stated({"bpm": "120 BPM"}, "120 bpm", tags={"bpm": 120}),
    "bpm about": stated({"bpm": "ca. 118,5"}, "118.5 bpm", tags={"bpm": 118.5}),
    "bpm number text": stated({"bpm": "90.0"}, "90 bpm", tags={"bpm": 90}),
    "bpm note": stated({"bpm": "1/4 = 96"}, "96 bpm", tags={"bpm": 96}),
    "bpm list": stated({"bpm": [120]}, "120 bpm", tags={"bpm": 120}),
    "bpm wide": stated({"bpm": "\uff11\uff12\uff10"}, "120 bpm", tags={"bpm": 120}),
    "bpm NaN": stated('{"genre": "jazz", "bpm": NaN}', "jazz", tags={"genre": "jazz"}),
    "bpm infinite": stated('{"genre": "jazz", "bpm": -Infinity}', "jazz", tags={"genre": "jazz"}),
    "bpm range": stated({"genre": "jazz", "bpm": "120-130 bpm"}, "jazz", tags={"genre": "jazz"}),
    "bpm zero": stated({"genre": "jazz", "bpm": 0}, "jazz", tags={"genre": "jazz"}),
    "bpm word": stated({"genre": "jazz", "bpm": "fast"}, "jazz", tags={"genre": "jazz"}),
    "bpm truth": stated({"genre": "jazz", "bpm": True}, "jazz", tags={"genre": "jazz"}),
    "bpm huge": stated('{"genre": "jazz", "bpm": 1' + "0" * 400 + "}", "jazz", tags={"genre": "jazz"}),
    "title number": stated({"title": 1979, "caption": "calm"}, "calm", title="1979"),
    "title float": stated({"title": 1979.0, "caption": "calm"}, "calm", title="1979"),
    "title list": stated({"title": ["One", 2]}, title="One, 2"),
    "title object": stated({"title": {"en": "One"}}, title=""),
    "title NaN": stated('{"title": NaN, "name": "One"}', title="One"),
    "artists": stated({"artist": ["Ann", "Bo"]}, artist="Ann; Bo"),
    "tags list": stated({"caption": "calm", "tags": ["rock", "guitar"]}, "calm", "rock, guitar",
                        tags={"keywords": ["rock", "guitar"]}),
    "tags text": stated({"tags": "rock, guitar"}, "rock, guitar", tags={"keywords": ["rock", "guitar"]}),
    "tags object": stated('{"tags": {"BPM": "120 bpm", "x": NaN, "mix": {"y": [1, Infinity]}}}', "120 bpm",
                          tags={"bpm": 120, "mix": {"y": [1, None]}}),
    "moods mixed": stated({"moods": ["calm", None, {}, "None", ["sunny"]]}, "calm, sunny",
                          tags={"moods": ["calm", "sunny"]}),
    "genre nothing": stated({"genre": "N/A", "genres": ["jazz"]}, "jazz", tags={"genre": ["jazz"]}),
    "keys": stated({"genre": "jazz", "key": ["A minor", "C major"]}, "jazz", tags={"genre": "jazz"}),
    "captions list": stated({"captions": ["one calm", "two slow"]}, "one calm", "two slow"),
    "captions text": stated({"captions": "calm"}, "calm"),
    "captions nested": stated({"captions": [["calm"], 3, None, "slow"]}, "calm", "slow"),
    "caption object": stated({"caption": {"en": "calm"}, "text": "slow"}, "slow"),
    "caption number": stated({"caption": 3}),
    "caption NaN": stated('{"caption": NaN, "prompt": "calm"}', "calm"),
    "names of peers": stated({"text": "a text", "prompt": "a prompt", "description": "an account", "caption": "words"},
                             "words", "a text", "a prompt", "an account"),
    "upper names": stated({"CAPTION": "calm", "Title": "One", "License": "CC0"}, "calm", title="One", licence="CC0"),
    "audiocraft": stated(AUDIOCRAFT, "A cool cut", "electronic, Mix, bright, pulsing", artist="Voyager I",
                         title="Enracinement",
                         tags={"genre": "electronic", "instrument": "Mix", "keywords": "bright, pulsing"}),
    "laion": stated({"text": ["calm", "slow"], "tag": ["piano"]}, "calm", "slow", "piano"),
    "ace-step": stated({"caption": "calm", "bpm": "100", "keyscale": "C Major", "lyrics": "la"}, "calm",
                       "100 bpm, key of C Major", tags={"bpm": 100, "key": "C Major"}),
    "object mark": stated(b'\xef\xbb\xbf{"caption": "calm"}', "calm"),
    "object utf-16": stated('{"caption": "calm"}'.encode("utf-16"), "calm"),
    "object latin-1": stated('{"caption": "f\u00fcr Elise"}'.encode("latin-1"), "f\u00fcr Elise"),
    "object in a list": stated([{"caption": "calm"}], "calm"),
    "object empty": stated(b""),
    "object null": stated("null"),
    "object broken": stated("{", refused="is not valid JSON"),
    "object deep": stated("[" * 100_000, refused="is not valid JSON"),
    "object digits": stated('{"title": ' + "9" * 5000 + "}", refused="is not valid JSON"),
    "objects": stated([{"caption": "calm"}, {}], refused="must be a JSON object"),
    "licences": stated({"licence": ["CC0-1.0", "CC-BY-4.0"]}, licence="CC0-1.0; CC-BY-4.0"),
    "licence number": stated({"licence": 3}, licence="3"),
    "licence object": stated({"licence": {"name": "CC BY"}}, licence='{"name": "CC BY"}'),
    "licence NaN": stated('{"licence": NaN}', licence=""),
    "licence address": stated({"license_url": "https://creativecommons.org/licenses/by/4.0/"},
                              licence="https://creativecommons.org/licenses/by/4.0/"),
    "split of peers": stated({"split": "Dev"}, split="val"),
    "split list": stated({"split": ["test"]}, split="val"),
    "split unknown": stated({"split": "fold3"}, refused="split must be one of"),
    "length text": stated({"duration_s": "1.5"}, duration_s=1.5),
    "length negative": stated({"duration_s": -1}, duration_s=0.0),
    "length word": stated({"duration_s": "long"}, duration_s=0.0),
    "half a character": stated(r'{"id": "\ud800", "caption": "calm\udfff"}', "calm"),
    "control characters": stated({"caption": "calm\x00\x1b piano\r\n"}, "calm piano"),
}  # fmt: skip
TABLES = {
    "table": table("metadata.csv", LINES, "calm piano"),
    "table mark": table("metadata.csv", b"\xef\xbb\xbf" + LINES.encode(), "calm piano"),
    "table utf-16": table("metadata.csv", LINES.replace(",", "\t").encode("utf-16"), "calm piano"),
    "table latin-1": table(
        "metadata.csv", "file_name,text\nsong.wav,f\u00fcr Elise".encode("latin-1"), "f\u00fcr Elise"
    ),
    "semicolons": table("metadata.csv", "file_name;text\nsong.wav;calm, slow\n", "calm, slow"),
    "separator told": table("metadata.csv", "sep=;\r\nfile_name;text\r\nsong.wav;calm\r\n", "calm"),
    "table upper": table("METADATA.CSV", "File_Name, Text \nSONG.WAV,calm\n", "calm"),
    "table tabs": table("metadata.tsv", "file_name\ttext\nsong.wav\tcalm\n", "calm"),
    "column of peers": table("metadata.csv", "filename,caption\nsong.wav,calm\n", "calm"),
    "columns alike": table("metadata.csv", "file_name,text,text,caption\nsong.wav,,calm,slow\n", "slow", "calm"),
    "row cut": table("metadata.csv", "file_name,text,title\nsong.wav,calm\n", "calm"),
    "row padded": table("metadata.csv", "file_name,text\nsong.wav,calm,,\n", "calm"),
    "row of too many": table(
        "metadata.csv", "file_name,text\nsong.wav,calm, slow\n", refused="3 cells, the header has 2"
    ),
    "cell of lines": table("metadata.csv", 'file_name,text\nsong.wav,"calm\nslow"\n', "calm slow"),
    "windows path": table("metadata.csv", "file_name,text\nsub\\song.wav,calm\n", "calm", audio=("sub/song.wav",)),
    "dotted path": table("sub/metadata.csv", "file_name,text\n./x/../song.wav,calm\n", "calm", audio=("sub/song.wav",)),
    "decomposed row": table("metadata.csv", f"file_name,text\n{NFD}.wav,calm\n", "calm", audio=(f"{NFC}.wav",)),
    "odd row": table(
        "metadata.csv", 'file_name,text\n"~a::b #1, %20?.wav",calm\n', "calm", audio=("~a::b #1, %20?.wav",)
    ),
    "row of no file": table("metadata.csv", LINES + "gone.wav,x\n", "calm piano", named="'gone.wav' is no audio file"),
    "row that leaves": table("metadata.csv", LINES + "../../x.wav,x\n", "calm piano", named="leads outside the folder"),
    "no column": table("metadata.csv", "name,text\nsong.wav,calm\n", named="has no column file_name"),
    "lines": table("metadata.jsonl", '{"file_name": "song.wav", "text": "calm", "title": ["A"]}\n', "calm", title="A"),
    "lines mark": table("metadata.jsonl", b'\xef\xbb\xbf{"File_Name": "song.wav", "Prompt": "calm"}', "calm"),
    "lines NaN": table("metadata.jsonl", '{"file_name": "song.wav", "text": NaN, "title": 7}', title="7"),
    "lines upper": table("Metadata.JSONL", '{"file_name": "song.wav", "text": "calm"}', "calm"),
    "audio object": table("metadata.jsonl", '{"audio": {"path": "song.wav", "bytes": null}, "text": "calm"}', "calm"),
    "line broken": table(
        "metadata.jsonl", '{\n{"file_name": "song.wav", "text": "calm"}', "calm", named="not valid JSON"
    ),
    "split in a row": table("metadata.csv", "file_name,split\nsong.wav,Validation\n", split="val"),
    "split unknown in a row": table(
        "metadata.csv", "file_name,split\nsong.wav,fold3\n", refused="split must be one of"
    ),
}
CASES = {
    f"{kind} {name}": case
    for kind, cases in (("name", NAMES), ("text", TEXTS), ("object", OBJECTS), ("table", TABLES))
    for name, case in cases.items()
}


def write_noise(path: str | bytes, seed: int, seconds: float = 1.1) -> None:
    noise = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    with open(path, "wb") as file:
        soundfile.write(file, noise, RATE, "PCM_16", format="WAV")


def write(folder: Path, cases: Mapping[str, Case] = CASES) -> None:
    """Every case in a folder of its name, and a file whose name is no text."""
    for number, (name, case) in enumerate(cases.items()):
        for place, audio in enumerate(case.audio):
            path = folder / name / audio
            path.parent.mkdir(parents=True, exist_ok=True)
            write_noise(str(path), 100 * number + place)
        for beside, content in case.beside.items():
            path = folder / name / beside
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            path.write_bytes(content)
    write_noise(os.fsencode(folder) + b"/\xff\xfe.wav", 1)
