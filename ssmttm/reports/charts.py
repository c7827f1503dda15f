"""Bar charts as inline SVG, in the colours of the page they stand in (`var(--accent)` and so on): no dependency,
readable on light and dark grounds. All text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, PLOT_HEIGHT = 480, 140
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 16, 38
ROW = 24
NAME_WIDTH, VALUE_WIDTH = 168, 84
NAME_LETTERS = 24  # what NAME_WIDTH holds of a 12-pixel font; the whole name is in the tooltip
MOST_BARS = 24
MOST_TICKS = 7
WIDEST_BAR = 48
TEXT = 'font-size="12" font-family="inherit" fill="var(--quiet)"'


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" width="100%" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _figure(svg: str, title: str, note: str) -> str:
    below = f'<div class="small quiet">{escape(note)}</div>' if note else ""
    return f"<figure><h3>{escape(title)}</h3>{svg}{below}</figure>"


def _bar(x: float, y: float, width: float, height: float, tip: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5" fill="var(--accent)">'
        f"<title>{escape(tip)}</title></rect>"
    )


def _label(x: float, y: float, words: str, anchor: str = "start", tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {TEXT}>{title}{escape(words)}</text>'


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 1] + "…"


def _compact(count: int) -> str:
    """A count in the five letters that the margin holds."""
    for least, unit, letter in ((10**9, 10**9, "G"), (10**6, 10**6, "M"), (10**4, 10**3, "k")):
        if count >= least:
            return f"{count / unit:.3g}{letter}"
    return f"{count:,}"


def bars(values: Mapping[str, float], title: str, unit: str, form: str = ",.2f") -> str:
    """One horizontal bar per name, longest first; beyond `MOST_BARS` the shortest are summed up.

    Args:
        values: not negative.
        title: heading.
        unit: of the values, for tooltips and the description.
        form: how values are written.
    """
    if not values:
        return _figure("", title, "nothing known")
    ranked = sorted(values.items(), key=lambda item: -item[1])
    shown = ranked if len(ranked) <= MOST_BARS else ranked[: MOST_BARS - 1]
    rest = ranked[len(shown) :]
    if rest:
        shown = [*shown, (f"{len(rest)} others", sum(value for _, value in rest))]
    room = WIDTH - NAME_WIDTH - VALUE_WIDTH
    most = max(value for _, value in shown) or 1
    parts = []
    for index, (name, value) in enumerate(shown):
        middle, written = index * ROW + ROW / 2, format(value, form)
        parts.append(_label(NAME_WIDTH - 8, middle + 4, _shortened(name), "end", name))
        parts.append(_bar(NAME_WIDTH, middle - 8, max(room * value / most, 1), 16, f"{name}: {written} {unit}"))
        parts.append(_label(NAME_WIDTH + room * value / most + 6, middle + 4, written))
    description = "; ".join(f"{name} {format(value, form)} {unit}" for name, value in shown)
    return _figure(_svg(len(shown) * ROW, f"{title}: {description}", parts), title, "")


def histogram(figures: Mapping[str, Any] | None, title: str, unit: str, counted: str) -> str:
    """Vertical bars of a histogram from `census.histogram`.

    Args:
        figures: `edges`, `counts`, `whole`, `number`, `median`, `least` and `most`; None for nothing known.
        title: heading.
        unit: of the edges.
        counted: what is counted, in the plural.
    """
    if not figures:
        return _figure("", title, "nothing known")
    edges, counts = figures["edges"], figures["counts"]
    step = min((WIDTH - LEFT - RIGHT) / len(counts), WIDEST_BAR)
    most = max(counts)
    floor = TOP + PLOT_HEIGHT
    parts = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="var(--line)"/>' for y in (TOP, floor)]
    parts += [_label(LEFT - 6, TOP + 4, _compact(most), "end"), _label(LEFT - 6, floor + 4, "0", "end")]
    whole = figures["whole"]
    for index, count in enumerate(counts):
        first, last = edges[index], edges[index + 1] - (1 if whole else 0)
        tip = f"{first:g}{f' to {last:g}' if last > first else ''} {unit}: {count:,} {counted}"
        if count:
            height = max(PLOT_HEIGHT * count / most, 1.0)
            parts.append(_bar(LEFT + index * step + 0.5, floor - height, max(step - 1, 0.5), height, tip))
    # A bar for whole numbers is named by the first of them, under its middle; others by the edges between bars.
    places = edges[:-1] if whole else edges
    for index in range(0, len(places), -(-len(places) // MOST_TICKS)):
        parts.append(_label(LEFT + (index + 0.5 * whole) * step, floor + 16, f"{places[index]:g}", "middle"))
    parts.append(_label(WIDTH - RIGHT, floor + 33, unit, "end"))
    note = (
        f"{figures['number']:,} {counted}; median {figures['median']:g}, from {figures['least']:g} "
        f"to {figures['most']:g} {unit}"
    )
    return _figure(_svg(TOP + PLOT_HEIGHT + BOTTOM, f"{title}: {note}", parts), title, note)
