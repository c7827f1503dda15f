"""The comparison of several systems as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ssmttm.evaluation.system_figures import TITLES, WITH_WEIGHTS
from ssmttm.reports.page import page, table

ARROWS = {"higher": " ↑", "lower": " ↓", "closer": ""}
Content = Mapping[str, Any]


def short(number: float) -> str:
    """Three or four significant digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not available"
    low, high = figure["low"], figure["high"]
    if low is None:
        return short(figure["value"])
    return f"{short(figure['value'])} [{short(low)}, {short(high)}]"


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
    for title, with_weights in (("With published weights", True), ("Without weights", False)):
        names = list(_columns(content, with_weights))
        lines = [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in _rows(content, with_weights)]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"- {line}" for line in _remarks(content)))
    return "\n\n".join(blocks) + "\n"


def to_html(content: Content) -> str:
    """The same as one self-contained page."""
    tables = "".join(
        f'<section><h2>{title}</h2><div class="card">'
        + table(
            caption,
            ("", *_columns(content, with_weights)),
            [(escape(name), *map(escape, cells)) for name, cells in _rows(content, with_weights)],
        )
        + "</div></section>"
        for title, with_weights, caption in (
            ("With published weights", True, "↑ higher is better, ↓ lower is better"),
            (
                "Without weights",
                False,
                "no arrow: better where nearer to the reference; no figure here is one of published tables",
            ),
        )
    )
    about, remarks = (
        "".join(f"<li>{escape(line)}</li>" for line in lines) for lines in (_about(content), _remarks(content))
    )
    body = f"""<header><h1>Systems compared</h1><ul>{about}</ul></header>{tables}
<section><h2>Remarks</h2><ul class="small">{remarks}</ul></section>"""
    return page("Systems compared", body)
