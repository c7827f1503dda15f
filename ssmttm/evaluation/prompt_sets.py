"""Sets of prompts to evaluate with: the demo's, those of MusicCaps and Song Describer, and any table of texts."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from ssmttm.errors import UserError
from ssmttm.evaluation.caption_sets import READERS, read_captions
from ssmttm.evaluation.prompts import FREE_FORM_PROMPTS
from ssmttm.sources.tables import csv_rows, read_table_text

TEXT_COLUMNS = ("prompt", "caption")
DEMO = "demo"


@dataclass(frozen=True)
class Prompt:
    """A text, and the id under which a real clip of the same caption may be found."""

    id: str
    text: str


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
