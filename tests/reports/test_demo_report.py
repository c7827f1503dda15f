from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.reports import pictures
from ssmttm.reports.demo import render

RATE = 24_000
NAMES = ("genre", "lead", "drums", "tempo", "key")
SETS = {"real": 0.9, "codec": 0.85, "completed": 0.8, "generated": 0.6, "shuffled": 0.1}


class Elements(HTMLParser):
    """Start tags with their attributes, and a check that all are closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def clip_entry(folder: Path, kind: str, number: int) -> dict[str, Any]:
    prompt = f'{kind} prompt {number} with <b>marks</b> & "quotes"'
    samples = np.sin(2 * np.pi * 220 * (number + 1) * np.arange(RATE) / RATE).astype(np.float32)[None] / 2
    path = str(folder / f"{kind}-{number}.flac")
    audio.write(path, Audio(samples, RATE))
    tags = {"genre": "jazz", "lead": "flute", "drums": False, "bpm": 120, "key": "Bb", "mode": "minor"}
    entry = {"kind": kind, "prompt": prompt, "seed": number, "path": path, "seconds": 1.0, "peak": 0.5, "rms": 0.35}
    entry |= {"rtf": 0.1, "asked": {"genre": "jazz"}, "measured": {"genre": "rock"}}
    if kind == "shown":
        heard = {**tags, "genre": "rock", "bpm": 61, "key": "A#"}
        entry |= {"asked": tags, "measured": heard, "real": path}
    return entry


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clips")
    kinds = [("shown", 8), ("held-out", 2), ("free-form", 3)]
    clips = [clip_entry(folder, kind, number) for kind, count in kinds for number in range(count)]
    path = clips[0]["path"]
    evaluation = {
        "clips": clips,
        "clips_compared": 96,
        "long": {
            "pieces": [{"prompt": "a & b", "path": path, "times_real_time": 7.5}] * 2,
            "drift": [
                {"minute": minute, **dict.fromkeys((*NAMES, "genre_kept", "music", "rms"), 0.25)}
                for minute in (0, 1, 10)
            ],
        },
        "systems": {"generated": {"figures": {name: {"low": 0.5, "high": 0.7} for name in NAMES}}},
        "reconstructions": [{"caption": "a & b", "real": path, "codec": path, "coarse": path}] * 3,
    }
    summary = {
        "preset": "mini",
        "wall_s": {"compose": 60.0, "train_stage1": 400.0},
        "stage1": {"val_nats": {"own": 1.3, "shuffled": 1.8, "null": 1.4}},
        "stage2": {"frechet": {"real": 0.8, "coarse_only": 6.0, "generated": 2.0}},
        "codec": {"logmel_l1": 0.44},
        "adherence": {**{name: dict(SETS) for name in NAMES}, "free_form": {"genre": 0.5, "n": 32}},
        "generation": {"times_real_time": 6.5},
        "bundle": "/tmp/bundle",
        "shards": "/tmp/tokens",
    }
    metrics = [{"step": step, "loss": 5 / step} for step in range(1, 60)]
    validation = [{"step": step, "own": 3 / step, "null": 4 / step} for step in (20, 40)]
    return render(summary, evaluation, {"stage1": (metrics, validation), "stage2": (metrics, validation)})


def test_players_pictures_and_tables_are_there(html: str) -> None:
    elements = Elements(html)
    players = elements.all("audio")
    assert len(players) == 8 * 2 + 3 * 3 + 3
    assert all(player["src"].startswith("data:audio/mpeg;base64,") for player in players)
    assert all(player["aria-label"] for player in players)
    images = elements.all("img")
    assert sum(image["src"].startswith("data:image/png") for image in images) == 16
    assert sum(image["src"].startswith("data:image/svg+xml") for image in images) == 2
    assert all(image["alt"] for image in images)
    assert len(elements.all("table")) == 8 + 5
    assert len(elements.all("caption")) == len(elements.all("table"))


def test_nothing_lies_outside_the_page(html: str) -> None:
    elements = Elements(html)
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    text = re.sub(r'"data:[^"]*"', '""', html)
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert text.count("<link") == 1  # an empty icon


def test_prompts_are_text_and_verdicts_right(html: str) -> None:
    assert "<b>marks" not in html
    assert "&lt;b&gt;marks&lt;/b&gt; &amp; &#34;quotes&#34;" in html
    assert html.count("✓ half or double") == 8  # 61 bpm for 120
    assert html.count("✗ differs") == 8  # the genre; A# is Bb
    assert html.count("heard as rock") == 3


def test_figures_are_read_against_the_own_ceiling(html: str) -> None:
    assert html.count("<td>71%</td>") == 5  # (.6 - .1) / (.8 - .1)
    assert "between a floor of 0.10 and a ceiling of 0.80" in html


def test_shares_stand_with_their_intervals(html: str) -> None:
    assert html.count("<td>0.60 [0.50, 0.70]</td>") == 5


def test_pictures_are_there_when_printed(html: str) -> None:
    assert "loading=" not in html


def test_long_pieces_are_shown_by_the_minute(html: str) -> None:
    assert "to minute 10</th>" in html
    assert html.count("<td>0.25</td>") == 3 * 8
    assert "at 7.5x real time" in html


def test_it_says_that_the_music_is_generated(html: str) -> None:
    assert "generated by AI" in html
    assert 'lang="en"' in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_spectrogram_is_a_png_and_smoothing_a_running_mean() -> None:
    assert pictures.spectrogram(np.zeros(RATE, np.float32), RATE).startswith(b"\x89PNG")
    assert pictures.smoothed([1.0, 3.0, 5.0, 7.0], width=2) == [1.0, 2.0, 4.0, 6.0]
