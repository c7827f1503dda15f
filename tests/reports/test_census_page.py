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
from ssmttm.reports.charts import MOST_BARS, bars, histogram
from ssmttm.tokens.check import census, read_inventory
from ssmttm.tokens.previews import previews
from ssmttm.tokens.schema import COMMIT_NAME

VOID = {"meta", "line", "img", "br"}
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
    allowed |= {"svg", "rect", "text", "line"}
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
    assert reader.count("svg") == 9  # split, licence, genre, words, captions, tempo, loudness, length, codebook 0
    labels = [attributes.get("aria-label") or "" for tag, attributes in reader.elements if tag == "svg"]
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
    assert "cannot be read" in reader.text
    assert reader.count("audio") == 0


def test_many_bars_are_summed_up() -> None:
    svg = bars({f"genre {i}": float(i) for i in range(100)}, "Hours", "h")
    assert svg.count("<rect") == MOST_BARS
    rest = 100 - (MOST_BARS - 1)
    assert f"{rest} others: {sum(range(rest)):,.2f} h" in svg


def test_bars_stay_inside_the_picture() -> None:
    figures = {"counts": [1, 0, 1_000_000], "edges": [-20.0, -19.5, -19.0, -18.5], "whole": False}
    figures |= {"number": 1_000_001, "median": -18.7, "least": -20, "most": -18.6}
    svgs = [histogram(figures, "Loudness", "LUFS", "files"), bars({"a": 1e6, "b" * 99: 0.0}, "Hours", "h")]
    for svg in svgs:
        width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())  # type: ignore[union-attr]
        for x, y, w, h in re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([-\d.]+)" height="([-\d.]+)"', svg):
            assert 0 <= float(x) < float(x) + float(w) <= width
            assert 0 <= float(y) < float(y) + float(h) <= height
    assert svgs[0].count("<rect") == 2  # none for the empty bin
    assert "1,000,001 files; median -18.7" in svgs[0]


@pytest.mark.parametrize(
    ("count", "label"), [(9_999, "9,999"), (12_345, "12.3k"), (999_400, "999k"), (1_200_000, "1.2M"), (10**9, "1G")]
)
def test_the_scale_fits_its_margin(count: int, label: str) -> None:
    figures = {"counts": [count], "edges": [1, 2], "whole": True, "number": count, "median": 1, "least": 1, "most": 1}
    assert f">{label}</text>" in histogram(figures, "Captions", "captions", "tracks")


@pytest.mark.parametrize("whole", [True, False])
def test_bars_are_named_by_number_or_by_edges(whole: bool) -> None:
    figures = {"counts": [2, 1], "edges": [1, 2, 3], "whole": whole, "number": 3, "median": 1, "least": 1, "most": 2}
    svg = histogram(figures, "Captions", "captions", "tracks")
    tip = "1 captions: 2 tracks" if whole else "1 to 2 captions: 2 tracks"
    assert f"<title>{tip}</title>" in svg
    assert len(re.findall(r">\d</text>", svg)) - 2 == (2 if whole else 3)  # less the scale's two
