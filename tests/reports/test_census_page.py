"""The page of `corpus check`: whole in itself, true to the figures, and not to be broken by what a tag says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmttm import storage
from ssmttm.config import CorpusConfig
from ssmttm.reports.census import render
from ssmttm.reports.pictures import LINES, MOST_BARS, bars, histogram, ranked
from ssmttm.tokens.check import census, read_inventory
from ssmttm.tokens.previews import previews
from ssmttm.tokens.schema import COMMIT_NAME

VOID = {"meta", "img", "br", "link"}
HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'


class Reader(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in its turn."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def check_self_contained(html: str) -> Reader:
    reader = Reader(html)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "article",
        "div",
        "figure",
    }
    allowed |= {"h1", "h2", "h3", "p", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "audio"}
    allowed |= {"img", "figcaption", "link"}
    assert {tag for tag, _ in reader.elements} <= allowed
    for tag, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "data", "xlink:href", "style"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
    assert "url(" not in html
    assert "@import" not in html
    return reader


def page_of(uri: str) -> tuple[dict, str]:
    inventory = read_inventory(uri, CorpusConfig(), progress=False)
    figures = census(inventory, progress=False)
    return figures, render(figures, previews(inventory, progress=False))


def test_the_page_of_a_dataset(tiny_tokens: str) -> None:
    dataset = storage.read_commit(tiny_tokens, COMMIT_NAME)
    _, html = page_of(tiny_tokens)
    reader = check_self_contained(html)
    assert reader.count("audio") == dataset["rows"] == 8
    assert reader.count("img") == 9  # split, licence, genre, words, captions, tempo, loudness, length, codebook 0
    labels = [attributes["alt"] or "" for tag, attributes in reader.elements if tag == "img"]
    hours = {split: f"{split} {seconds / 3600:.2f} h" for split, seconds in dataset["seconds_by_split"].items()}
    assert any(all(hours[split] in label for split in hours) for label in labels)
    assert f"of {dataset['tracks']} tracks" in reader.text
    assert "No problems" in reader.text
    assert "CC0-1.0" in reader.text
    for book in range(dataset["config"]["codec"]["num_codebooks"]):
        assert f'<th scope="row">{book}</th>' in html


def test_the_page_is_the_same_again(tiny_tokens: str) -> None:
    assert page_of(tiny_tokens)[1] == page_of(tiny_tokens)[1]


def test_hostile_words_are_only_words(tmp_path: Path) -> None:
    entry = {
        "licence": HOSTILE,
        "artist": HOSTILE,
        "title": HOSTILE,
        "captions": [HOSTILE],
        "genre": HOSTILE,
        "source_url": "javascript:alert(1)",
        "split": "train",
    }
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(32_000), 32_000)
    (tmp_path / "a.json").write_text(json.dumps(entry))
    (tmp_path / "<script>b.wav").write_text("no audio")
    (tmp_path / "<script>c.wav").touch()
    (tmp_path / "<script>c.json").write_text("{")
    figures, html = page_of(str(tmp_path))
    reader = check_self_contained(html)
    assert "<script" not in html
    assert HOSTILE in reader.text
    assert len(figures["problems"]) == 2  # b cannot be read, c's sidecar is broken
    assert "✗ 2 problems" in reader.text
    assert "bad-entry" in reader.text


def test_a_corpus_without_anything_known(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    _, html = page_of(str(tmp_path))
    reader = check_self_contained(html)
    assert reader.text.count("nothing known") == 5
    assert "No source file was measured" in reader.text
    assert "cannot be decoded" in reader.text
    assert reader.count("audio") == 0


class Drawing(HTMLParser):
    """The words of an SVG, and its bars as (x, y, width, height) boxes."""

    def __init__(self, svg: bytes):
        super().__init__()
        self.words: list[str] = []
        self.bars: list[tuple[float, float, float, float]] = []
        self._in_text = False
        self.size = (0.0, 0.0)
        self.feed(svg.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "svg":
            _, _, *size = map(float, (values["viewbox"] or "").split())
            self.size = (size[0], size[1])
        self._in_text = tag == "text"
        if tag == "path" and f"fill: {LINES[0]}" in (values.get("style") or ""):
            xs, ys = zip(*re.findall(r"([-\d.]+) ([-\d.]+)", values["d"] or ""), strict=True)
            left, top = min(map(float, xs)), min(map(float, ys))
            self.bars.append((left, top, max(map(float, xs)) - left, max(map(float, ys)) - top))

    def handle_data(self, data: str) -> None:
        if self._in_text and data.strip():
            self.words.append(data.strip())


def test_many_bars_are_summed_up() -> None:
    values = {f"genre {i}": float(i) for i in range(100)}
    drawing, rest = Drawing(bars(values)), 100 - (MOST_BARS - 1)
    assert len(drawing.bars) == MOST_BARS
    assert ranked(values)[-1] == (f"{rest} others", sum(range(rest)))
    assert {f"{rest} others", f"{sum(range(rest)):,.2f}", "genre 99"} <= set(drawing.words)


def test_bars_stay_inside_the_picture() -> None:
    figures = {"counts": [1, 0, 1_000_000], "edges": [-20.0, -19.5, -19.0, -18.5], "whole": False}
    for picture in (histogram(figures, "LUFS", "files"), bars({"a": 1e6, "b" * 99: 0.0})):
        drawing = Drawing(picture)
        width, height = drawing.size
        for x, y, w, h in drawing.bars:
            assert 0 <= x <= x + w <= width
            assert 0 <= y <= y + h <= height


def test_names_are_drawn_as_they_are() -> None:
    """Neither mathematics nor markup, in any script, and too long a name is cut."""
    names = {"$x^2$": 1.0, "<script>": 2.0, "音楽": 3.0, "a" * 99: 4.0}
    words = Drawing(bars(names)).words
    assert {"$x^2$", "<script>", "音楽", "a" * 25 + "…"} <= set(words)
    assert b"<script>" not in bars(names)


@pytest.mark.parametrize("whole", [True, False])
def test_bars_are_named_by_number_or_by_edges(whole: bool) -> None:
    figures = {"counts": [2, 1], "edges": [1, 2, 3], "whole": whole}
    drawing = Drawing(histogram(figures, "captions", "tracks"))
    (first, _, width, _), (second, *_) = drawing.bars
    assert second - first == pytest.approx(width / 0.92, rel=0.01)
    assert {"captions", "tracks", "1", "2"} <= set(drawing.words)


def test_pictures_are_the_same_again() -> None:
    figures = {"counts": [2, 1], "edges": [1, 2, 3], "whole": True}
    assert histogram(figures, "captions", "tracks") == histogram(figures, "captions", "tracks")
    assert bars({"a": 1.0}) == bars({"a": 1.0})
