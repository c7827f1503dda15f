"""Pictures by matplotlib, on a transparent ground and in colours for light and dark pages; the same bytes each time.

Text in charts stays text, so that the reader's own fonts serve every script.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmttm.audio import mel_filters, mel_to_hz
from ssmttm.evaluation.embeddings import ANALYSIS_RATE, FLOOR, HOP, as_mono, magnitudes

INK = "#7a8089"  # readable on white and on near-black
LINES = ("#2f7fd6", "#d1632a", "#2f9e6e", "#9a62c7", "#b08a1e")
DASHES, MARKERS = ("-", "--", ":"), "osD^v"
WIDTH = 4.6  # inches of a chart
LETTERS = 9  # points
PICTURE_FFT = 2048
PICTURE_MELS = 128
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)
MOST_BARS = 24
NAME_LETTERS = 26  # of a bar's name
MANY = 100_000  # numbers beyond are written with k and M
FEW_POINTS = 40  # up to here a line's points are marked


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(colors=INK, labelsize=LETTERS)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(LETTERS)
    for side in axes.spines.values():
        side.set_color(INK)
        side.set_linewidth(0.6)
    return figure, axes


def _svg(figure: Any, axes: Any, grid: str = "both") -> bytes:
    import matplotlib as mpl

    axes.grid(axis=grid, color=INK, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ssmttm"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib measures with a font of its own
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace(b"'DejaVu Sans'", b"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans'")


def spectrogram(wav: np.ndarray, sample_rate: int) -> bytes:
    """Mel spectrogram as PNG, 70 dB below the clip's loudest point to that point.

    Args:
        wav: samples [N] or [C, N].
        sample_rate: in Hz.
    """
    filters = mel_filters(ANALYSIS_RATE, PICTURE_FFT, PICTURE_MELS).numpy().T * (ANALYSIS_RATE / PICTURE_FFT)
    bands = magnitudes(as_mono(wav, sample_rate), PICTURE_FFT, 2 * HOP) @ filters
    level = 20 * np.log10(np.maximum(bands, FLOOR)).T
    figure, axes = _figure(4.6, 2.1)
    seconds, top = level.shape[1] * 2 * HOP / ANALYSIS_RATE, float(level.max())
    extent = (0, seconds, -0.5, PICTURE_MELS - 0.5)
    axes.imshow(level, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top, extent=extent)
    centres = mel_to_hz(np.linspace(0, 15 + 27 * np.log(ANALYSIS_RATE / 2000) / np.log(6.4), PICTURE_MELS + 2)[1:-1])
    axes.set_yticks(np.interp(TICKS_HZ, centres, np.arange(PICTURE_MELS)))
    axes.set_yticklabels([f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in TICKS_HZ])
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True, metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class Line:
    """Of a chart: points by their x, from left to right, a band about them, and a law through them (x, y)."""

    name: str
    xs: Sequence[float] | np.ndarray
    ys: Sequence[float] | np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None
    law: tuple[np.ndarray, np.ndarray] | None = None
    scattered: bool = False


def chart(lines: Sequence[Line], xlabel: str, ylabel: str, log: str = "", height: float = 2.9) -> bytes:
    """Lines, each with a colour and dash of its own, and a legend, as SVG. `log`: the axes (`x`, `y`, `xy`) that are
    logarithmic."""
    from matplotlib.ticker import EngFormatter

    figure, axes = _figure(WIDTH, height)
    for i, line in ((i, line) for i, line in enumerate(lines) if len(line.xs)):
        colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
        dash = DASHES[i // len(LINES) % len(DASHES)]
        marked = line.scattered or (len(line.xs) <= FEW_POINTS and line.band is None)
        axes.plot(
            line.xs,
            line.ys,
            linestyle="none" if line.scattered else dash,
            marker=marker if marked else None,
            markersize=4 if line.scattered else 3,
            color=colour,
            linewidth=1.4,
            label=line.name,
        )
        if line.band:
            axes.fill_between(line.xs, *line.band, color=colour, alpha=0.2, linewidth=0)
        if line.law:
            axes.plot(*line.law, dash, color=colour, linewidth=1, alpha=0.7)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xscale("log" if "x" in log else "linear")
    axes.set_yscale("log" if "y" in log else "linear")
    if log:
        _plain_numbers(axes)
    if "x" not in log and axes.get_xlim()[1] > MANY:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False, fontsize=LETTERS, labelcolor=INK)
    return _svg(figure, axes)


def _plain_numbers(axes: Any) -> None:
    """Losses in plain decimals, as they cover less than a decade; few marks where the other axis is logarithmic."""
    from matplotlib.ticker import FormatStrFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.2f"))
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"e\+0*", "e", f"{value:.0e}")))


def ranked(values: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names and values, largest first; beyond `MOST_BARS` the smallest are summed up."""
    order = sorted(values.items(), key=lambda item: -item[1])
    if len(order) <= MOST_BARS:
        return order
    shown, rest = order[: MOST_BARS - 1], order[MOST_BARS - 1 :]
    return [*shown, (f"{len(rest)} others", sum(value for _, value in rest))]


def bars(values: Mapping[str, float], form: str = ",.2f") -> bytes:
    """One horizontal bar per name of `ranked`, with its value in the given form, as SVG."""
    shown = ranked(values)
    figure, axes = _figure(WIDTH, 0.25 * len(shown) + 0.1)
    names = [name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 1] + "…" for name, _ in shown]
    drawn = axes.barh(range(len(shown)), [value for _, value in shown], height=0.66, color=LINES[0])
    written = axes.bar_label(drawn, [format(value, form) for _, value in shown], padding=4, fontsize=LETTERS, color=INK)
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(max(value for _, value in shown), 1e-9))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for text in (*axes.get_yticklabels(), *written):
        text.set_parse_math(False)
    return _svg(figure, axes, "x")


def histogram(figures: Mapping[str, Any], unit: str, counted: str) -> bytes:
    """Bars of a histogram from `census.histogram`, as SVG. A bar for whole numbers is named by the first of them, under
    its middle; others by the edges between bars."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    edges, counts = np.array(figures["edges"]), np.array(figures["counts"])
    figure, axes = _figure(WIDTH, 1.9)
    shift = 0.5 * (edges[1] - edges[0]) if figures["whole"] else 0.0
    axes.bar(edges[:-1] - shift, counts, np.diff(edges), align="edge", color=LINES[0], edgecolor="none")
    for bar in axes.patches:
        bar.set(x=bar.get_x() + 0.04 * bar.get_width(), width=0.92 * bar.get_width())
    room = 4 * (edges[1] - edges[0]) if len(counts) < 6 else 0  # few bars are not drawn as wide as the picture
    axes.set_xlim(edges[0] - shift - room, edges[-1] - shift + room)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=figures["whole"]))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(unit)
    axes.set_ylabel(counted)
    return _svg(figure, axes, "y")


def smoothed(values: Sequence[float], width: int = 25) -> list[float]:
    """Running mean over the last `width` values, so that a noisy loss can be read."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return [float(mean) for mean in (total[ends] - total[starts]) / (ends - starts)]
