"""Pictures of a study, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssmttm.reports.pictures import LINES, as_svg, clear_figure
from tuning import analysis
from tuning.analysis import Trial

AXES = {"tokens": "codes learned from", "flops": "training FLOPs"}
MARKERS = "osD^v"
DASHES = ("-", "--", ":")


def _styles() -> Iterator[tuple[str, str, str]]:
    """Colour, dash and marker for one line after another; first the colours change."""
    looks = ((colour, dash, mark) for dash in DASHES for colour, mark in zip(LINES, MARKERS, strict=True))
    return itertools.cycle(looks)


def curves(trials: Sequence[Trial], size: int, axis: str) -> bytes:
    """Validation loss of one size against `tokens` or `flops`: a family's mean over seeds, and from its best to its
    worst seed as a band."""
    figure, axes = clear_figure(5.2, 3.0)
    for family, (colour, dash, _) in zip(analysis.families(trials), _styles(), strict=False):
        chosen = analysis.of(trials, family, size)
        if not chosen:
            continue
        points = min(len(trial.nats) for trial in chosen)
        xs, nats = getattr(chosen[0], axis)[:points], np.stack([trial.nats[:points] for trial in chosen])
        axes.plot(xs, nats.mean(0), dash, label=family, color=colour, linewidth=1.4)
        axes.fill_between(xs, nats.min(0), nats.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel("validation, nats per code")
    axes.set_yscale("log")
    if axis == "flops":
        axes.set_xscale("log")
    _plain_numbers(axes)
    return as_svg(figure, axes, f"{axis}{size}")


def over_size(trials: Sequence[Trial]) -> bytes:
    """Final loss against parameters, every trial a point, with each family's power law over its seeds' means."""
    figure, axes = clear_figure(5.2, 3.0)
    for family, (colour, dash, marker) in zip(analysis.families(trials), _styles(), strict=False):
        rows = [trial.row for trial in trials if trial.row.group == family]
        params, nats = np.array([row.params for row in rows]), np.array([row.val_nats for row in rows])
        axes.plot(params, nats, marker, color=colour, markersize=4, label=family)
        if len(set(params)) >= 3:
            slope, offset = np.polyfit(np.log(params), np.log(nats), 1)
            xs = np.geomspace(params.min(), params.max(), 20)
            axes.plot(xs, np.exp(offset) * xs**slope, dash, color=colour, linewidth=1, alpha=0.7)
    axes.set_xlabel("parameters")
    axes.set_ylabel("validation, nats per code")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes)
    return as_svg(figure, axes, "size")


def equal_compute(trials: Sequence[Trial], family: str) -> bytes:
    """Final loss against training FLOPs for each size, one point per length: where the lines of two sizes cross, the
    larger begins to pay."""
    figure, axes = clear_figure(5.2, 3.0)
    for size, (colour, dash, _) in zip(analysis.sizes(trials), _styles(), strict=False):
        rows = sorted((trial.row for trial in analysis.of(trials, family, size)), key=lambda row: row.flops)
        if rows:
            label = f"{rows[0].params:,} parameters"
            axes.plot(
                [r.flops for r in rows], [r.val_nats for r in rows], f"o{dash}", color=colour, markersize=4, label=label
            )
    axes.set_xlabel(AXES["flops"])
    axes.set_ylabel(f"{family}: nats per code")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes)
    return as_svg(figure, axes, f"equal {family}")


def _plain_numbers(axes: Any) -> None:
    """Loss in plain decimals, as it covers less than a decade; few marks where the other axis is logarithmic."""
    from matplotlib.ticker import FormatStrFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.2f"))
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
