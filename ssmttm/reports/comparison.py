"""The comparison of several systems as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmttm import storage
from ssmttm.evaluation.figures import TITLES, WITH_WEIGHTS
from ssmttm.reports.page import markdown_table, render, with_interval

ARROWS = {"higher": " ↑", "lower": " ↓", "closer": ""}
TABLES = (  # title, whether of figures with weights, caption
    ("With published weights", True, "↑ higher is better, ↓ lower is better"),
    (
        "Without weights",
        False,
        "no arrow: better where nearer to the reference; no figure here is one of published tables",
    ),
)
Content = Mapping[str, Any]


def shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not available"
    return with_interval(figure["value"], figure["low"], figure["high"])


def _columns(content: Content, with_weights: bool) -> dict[str, Mapping[str, Any]]:
    """Figures by column: the systems, and the reference's own where being near to them is what counts."""
    columns = {name: one["figures"] for name, one in content["systems"].items()}
    if content["reference"] and not with_weights:
        columns["reference"] = content["reference"]["figures"]
    return columns


def _rows(content: Content, with_weights: bool) -> list[tuple[str, list[str]]]:
    columns = list(_columns(content, with_weights).values())
    return [
        (
            TITLES[name] + ARROWS[columns[0][name]["better"]],
            [shown(figures[name]) if name in figures else "" for figures in columns],
        )
        for name in TITLES
        if (name in WITH_WEIGHTS) == with_weights
    ]


def _about(content: Content) -> list[str]:
    """What a reader must know, in sentences."""
    reference = content["reference"]
    lines = [
        f"Prompts: {content['prompts']['name']}, {content['prompts']['n']} of them; "
        f"at most {content['seconds']:g} s of each clip are heard.",
        f"Reference: {reference['name']}, {reference['n']} clips." if reference else "Reference: none.",
        f"In brackets 95 % bootstrap intervals over clips ({content['draws']} draws, seed {content['seed']}). "
        "Distances depend on the number of clips: compare equal numbers only.",
    ]
    for name, system in content["systems"].items():
        seconds = system["figures"]["centroid"]["seconds"]
        lines.append(f"{name}: {system['kind']}, {system['title']}, {system['n']} clips, {seconds:g} s in the mean.")
    return lines


def _remarks(content: Content) -> list[str]:
    """Embeddings, notes and reasons behind the figures, each once."""
    found: dict[str, list[str]] = {}
    for name, title in TITLES.items():
        for system, one in content["systems"].items():
            figure = one["figures"][name]
            if figure["value"] is None:
                found.setdefault(f"{title}: not available ({{}}): {figure['reason']}.", []).append(system)
            else:
                what = [f"embedding {figure['embedding']}"] if figure["embedding"] else []
                what += [figure["note"]] if figure["note"] else []
                if what:
                    found.setdefault(f"{title} ({{}}): {'; '.join(what)}.", []).append(system)
    return [line.replace("{}", ", ".join(systems), 1) for line, systems in found.items()]


def to_markdown(content: Content) -> str:
    """The tables and all remarks as Markdown."""
    blocks = ["# Systems compared", "\n".join(f"- {line}" for line in _about(content))]
    for title, with_weights, _ in TABLES:
        head = [title, *_columns(content, with_weights)]
        blocks.append(markdown_table(head, [[name, *cells] for name, cells in _rows(content, with_weights)]))
    blocks.append("\n".join(f"- {line}" for line in _remarks(content)))
    return "\n\n".join(blocks) + "\n"


def to_html(content: Content) -> str:
    """The same as one self-contained page."""
    tables = [
        (title, caption, list(_columns(content, weights)), [(name, *cells) for name, cells in _rows(content, weights)])
        for title, weights, caption in TABLES
    ]
    return render("comparison", about=_about(content), tables=tables, remarks=_remarks(content))


def write(content: Content, out: str) -> str:
    """Write comparison.md, whose text is returned, and comparison.html beside comparison.json."""
    text = to_markdown(content)
    storage.write_text(storage.join(out, "comparison.md"), text)
    storage.write_text(storage.join(out, "comparison.html"), to_html(content))
    return text
