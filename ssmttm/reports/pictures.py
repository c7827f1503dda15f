"""Pictures for the report: PNG spectrograms and SVG curves, on a transparent ground for light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssmttm.audio import mel_filters, mel_to_hz
from ssmttm.evaluation.embeddings import ANALYSIS_RATE, FLOOR, HOP, as_mono, magnitudes

INK = "#7a8089"  # readable on white and on near-black
LINES = ("#2f7fd6", "#d1632a", "#2f9e6e", "#9a62c7", "#b08a1e")
PICTURE_FFT = 2048
PICTURE_MELS = 128
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)


def clear_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes, on a transparent ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(colors=INK, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(8)
    for side in axes.spines.values():
        side.set_color(INK)
        side.set_linewidth(0.6)
    return figure, axes


def spectrogram(wav: np.ndarray, sample_rate: int) -> bytes:
    """Mel spectrogram as PNG, 70 dB below the clip's loudest point to that point.

    Args:
        wav: samples [N] or [C, N].
        sample_rate: in Hz.
    """
    filters = mel_filters(ANALYSIS_RATE, PICTURE_FFT, PICTURE_MELS).numpy().T * (ANALYSIS_RATE / PICTURE_FFT)
    bands = magnitudes(as_mono(wav, sample_rate), PICTURE_FFT, 2 * HOP) @ filters
    level = 20 * np.log10(np.maximum(bands, FLOOR)).T
    figure, axes = clear_figure(4.6, 2.1)
    seconds = level.shape[1] * 2 * HOP / ANALYSIS_RATE
    top = float(level.max())
    extent = (0, seconds, -0.5, PICTURE_MELS - 0.5)
    axes.imshow(level, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top, extent=extent)
    centres = mel_to_hz(np.linspace(0, 15 + 27 * np.log(ANALYSIS_RATE / 2000) / np.log(6.4), PICTURE_MELS + 2)[1:-1])
    axes.set_yticks(np.interp(TICKS_HZ, centres, np.arange(PICTURE_MELS)))
    axes.set_yticklabels([f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in TICKS_HZ])
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True)
    return buffer.getvalue()


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> bytes:
    """Line chart over optimizer steps as SVG, its text drawn as paths.

    Args:
        lines: (steps, values) under each line's name; a line of few points also gets markers.
        ylabel: what the values are, with their unit.
    """
    figure, axes = clear_figure(5.2, 2.7)
    for (name, (steps, values)), colour in zip(lines.items(), LINES, strict=False):
        few = len(steps) <= 40
        axes.plot(steps, values, label=name, color=colour, linewidth=1.4, marker="o" if few else None, markersize=3)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(ylabel)
    return as_svg(figure, axes, ylabel)


def as_svg(figure: Any, axes: Any, salt: str) -> bytes:
    """The finished chart, with its grid and legend; `salt` makes its ids the same each time."""
    import matplotlib as mpl

    axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def smoothed(values: Sequence[float], width: int = 25) -> list[float]:
    """Running mean over the last `width` values, so that a noisy loss can be read."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return [float(mean) for mean in (total[ends] - total[starts]) / (ends - starts)]
