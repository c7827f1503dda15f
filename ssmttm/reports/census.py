"""The page of `ssmttm corpus check --html`: figures, pictures and a few clips in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ssmttm.reports.charts import bars, histogram
from ssmttm.reports.page import card, page, player, table
from ssmttm.sources.licences import normalise
from ssmttm.tokens.previews import Preview

MOST_PROBLEMS = 100


def _hours(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: group["seconds"] / 3600 for name, group in groups.items()}


def _cell(*charts: str) -> str:
    return f'<div class="card">{"".join(charts)}</div>'


def _grid(*cells: str) -> str:
    return f'<div class="clips">{"".join(cells)}</div>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return '<p class="good">✓ No problems: all files are there, no id repeats.</p>'
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:MOST_PROBLEMS])
    more = f"<p>The first {MOST_PROBLEMS} of {len(problems)}.</p>" if len(problems) > MOST_PROBLEMS else ""
    return f'<p class="bad">✗ {len(problems)} problems</p><ul class="small">{lines}</ul>{more}'


def _rejects(figures: Mapping[str, Any]) -> str:
    rows = [
        (escape(reason), f"{entry['number']:,}", escape(", ".join(entry["first"])))
        for reason, entry in figures["rejects_by_reason"].items()
    ]
    if not rows:
        return "<p>None.</p>"
    return _cell(table("What was refused", ("Reason", "Number", "The first of them"), rows))


def _codebooks(books: Mapping[str, Any]) -> str:
    rows = [
        (str(index), f"{book['used']:.1%}", f"{book['perplexity']:,.1f}", f"{book['perplexity'] / books['size']:.1%}")
        for index, book in enumerate(books["books"])
    ]
    head = ("Codebook", "Entries used", "Perplexity", "of the entries there are")
    caption = f"{books['size']:,} entries each; perplexity: as many entries, used alike, would say as much"
    counts = histogram(books["counts_of_0"], "How often the entries of codebook 0 occur", "times", "entries")
    return f"<section><h2>Codebooks</h2>{_grid(_cell(table(caption, head, rows)), _cell(counts))}</section>"


def _clip(clip: Preview) -> str:
    track = clip.entry.track
    name = escape(track.title.strip() or track.id)
    family = normalise(track.licence)
    licence = track.licence.strip() or "no licence stated"
    if family and family != licence:
        licence += f" ({family})"
    sound = player(clip.sound, f"{track.title or track.id}") if clip.sound else ""
    captions = "".join(f"<li>{escape(caption)}</li>" for caption in track.captions) or "<li>no caption</li>"
    artist = escape(track.artist.strip() or "artist not stated")
    return (
        f'<article class="card"><h3>{name}</h3><p class="small">{artist} · {escape(licence)}</p>{sound}'
        f'<p class="small quiet">{escape(track.id)}, {escape(clip.note)}</p><ul class="small">{captions}</ul></article>'
    )


def _cards(figures: Mapping[str, Any]) -> str:
    hours = figures["seconds"] / 3600
    of = f"of {figures['tracks']:,} tracks" if figures["rows"] is not None else "in this corpus"
    cards = [card("Music", f"{hours:,.2f} h", of)]
    if figures["rows"] is not None:
        cards.append(card("Rows", f"{figures['rows']:,}", "segments, each a training example"))
    else:
        cards.append(card("Tracks", f"{figures['tracks']:,}", "usable or not"))
    cards.append(card("Outside the allow-list", f"{figures['outside_allow_list']:,}", "tracks, by their licence"))
    cards.append(card("Refused", f"{figures['rejects']:,}", "named below by reason"))
    cards.append(card("Problems", f"{len(figures['problems']):,}", "missing, damaged, repeated"))
    return f'<div class="cards">{"".join(cards)}</div>'


def render(figures: Mapping[str, Any], clips: Sequence[Preview]) -> str:
    """The page as HTML.

    Args:
        figures: from `corpus.census.census`.
        clips: from `corpus.clips.clips`; their sound is embedded.
    """
    sample = figures["sample"]
    kind = "token dataset" if figures["kind"] == "dataset" else "corpus"
    measured = (
        f"Measured on {sample['files']:,} of {sample['of']:,} source files, drawn by seed; {sample['silent']:,} of "
        "them without loudness (silent or shorter than 0.4 s)."
        if sample["files"]
        else "No source file was measured: none is at hand, or no sample was asked for."
    )
    heard = _grid(*(_clip(clip) for clip in clips)) if clips else "<p>There is nothing to hear.</p>"
    body = f"""
<header><h1>What is in this {kind}</h1><p class="quiet">{escape(figures["uri"])}</p></header>
{_cards(figures)}
<section><h2>Problems</h2>{_problems(figures["problems"])}</section>
<section><h2>Hours</h2>{
        _grid(
            _cell(
                bars(_hours(figures["by_split"]), "Hours by split", "h"),
                bars(_hours(figures["by_licence"]), "Hours by licence", "h"),
            ),
            _cell(bars(_hours(figures["by_genre"]), "Hours by genre", "h")),
        )
    }
<p class="small quiet">Allow-list: {escape(", ".join(figures["allow_licences"]))}. A track of several genres counts in
each.</p></section>
<section><h2>Captions and tempo</h2>{
        _grid(
            _cell(histogram(figures["caption_words"], "Length of captions", "words", "captions")),
            _cell(histogram(figures["captions_per_track"], "Captions of a track", "captions", "tracks")),
            _cell(histogram(figures["tempo"], "Tempo, as tagged", "bpm", "tracks")),
        )
    }</section>
<section><h2>Sound</h2><p>{measured}</p>{
        _grid(
            _cell(histogram(sample["lufs"], "Integrated loudness", "LUFS", "files")),
            _cell(histogram(sample["seconds"], "Length", "s", "files")),
        )
    }</section>
{_codebooks(figures["codebooks"]) if figures["codebooks"] else ""}
<section><h2>Refused</h2>{_rejects(figures)}</section>
<section><h2>Listen</h2><p>{len(clips)} drawn by seed, ten seconds at most of each, mono.</p>{heard}</section>
"""
    return page(f"What is in this {kind}", body)
