"""Report of one study: table, figures, fits, and what they say of the papers' findings, whichever way that comes out.

    python tuning/report.py runs/study [--out FOLDER] [--rivals prefix_transformer,cross_transformer]

Writes report.html (self-contained), report.md, report.csv (a row per family and size), curves.csv and figures (SVG).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmttm import storage
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.reports.page import markdown_table, render
from ssmttm.reports.pictures import Line, chart
from ssmttm.spreadsheet import to_csv
from tuning import analysis
from tuning.analysis import Mean, Trial

COLUMNS = (
    "family",
    "layers",
    "width",
    "steps",
    "parameters",
    "tokens",
    "training FLOPs",
    "learning rate",
    "nats per code",
)


AXES = {"tokens": "codes learned from", "flops": "training FLOPs"}
NATS = "validation, nats per code"


@dataclass(frozen=True)
class Content:
    """What a report is made of. Pictures by file name: SVG and a caption."""

    title: str
    verdict: str
    rows: list[tuple[str, ...]]
    findings: list[str]
    pictures: dict[str, tuple[bytes, str]]


def _rivals(trials: Sequence[Trial], named: Sequence[str]) -> list[str]:
    there = analysis.families(trials)
    if unknown := [name for name in named if name not in there]:
        raise UserError(f"--rivals {unknown[0]}: the study has {', '.join(there)}")
    return list(named) or [family for family in there if "transformer" in family]


def table_rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    rows = []
    for size in analysis.sizes(trials):
        for family in analysis.families(trials):
            for steps in sorted({trial.row.steps for trial in analysis.of(trials, family, size)}):
                chosen = [trial for trial in analysis.of(trials, family, size) if trial.row.steps == steps]
                row, loss = chosen[0].row, Mean.of([trial.row.val_nats for trial in chosen])
                cells = (
                    row.layers,
                    row.width,
                    steps,
                    f"{row.params:,}",
                    f"{row.tokens:,}",
                    f"{row.flops:.2e}",
                    f"{row.lr:.2g}",
                )
                rows.append((family, *map(str, cells), loss.text()))
    return rows


@dataclass(frozen=True)
class Comparison:
    """The final losses of a family and a rival at one size, and what the family takes to come to the rival's."""

    family: str
    rival: str
    size: int
    gap: Mean
    tokens: analysis.Effort
    flops: analysis.Effort

    @property
    def significant(self) -> bool:
        """The interval around the difference leaves zero out; a single seed has none."""
        return self.gap.low is not None and self.gap.high is not None and not self.gap.low <= 0 <= self.gap.high

    def text(self) -> str:
        lower = self.gap.value < 0
        verdict = ("lower" if lower else "HIGHER") if self.significant else "not significantly different"
        return (
            f"{self.family} beside {self.rival}, {self.size} layers: final loss {verdict}, by {self.gap.text('+.3f')} "
            f"nats; share of the rival's codes that takes it to the rival's final loss: {self.tokens.text()}, of its "
            f"FLOPs: {self.flops.text()}"
        )


def comparisons(trials: Sequence[Trial], rivals: Sequence[str]) -> list[Comparison]:
    """The papers' first finding: at equal size, do state-space models learn more from the same codes?"""
    found = []
    for rival in rivals:
        for family in analysis.families(trials):
            for size in analysis.sizes(trials) if family not in rivals else []:
                if (gap := analysis.gap(trials, family, rival, size)) is not None:
                    efforts = [analysis.effort(trials, family, rival, size, axis) for axis in AXES]
                    assert efforts[0] is not None
                    assert efforts[1] is not None
                    found.append(Comparison(family, rival, size, gap, *efforts))
    return found


def verdict(found: Sequence[Comparison]) -> str:
    """How much of it can be relied on, in one sentence."""
    if not found:
        return "No two families are compared at equal size and seed."
    sure = [one for one in found if one.significant]
    lower = sum(one.gap.value < 0 for one in found if not one.significant)
    rest = len(found) - len(sure)
    said = f"Of {len(found)} comparisons of final losses with a rival at equal size, {len(sure)} "
    said += f"{'is' if len(sure) == 1 else 'are'} significant"
    higher = sum(one.gap.value > 0 for one in sure)
    if sure:
        said += " (lower)" if not higher else " (HIGHER)" if higher == len(sure) else f" ({higher} of them HIGHER)"
    return said + (f"; of the other {rest}, {lower} point to a lower loss." if rest else ".")


def robustness(trials: Sequence[Trial]) -> list[str]:
    """The papers' third finding: what does a small size cost?"""
    lines = []
    for family in analysis.families(trials):
        if (smaller := analysis.shrinking(trials, family)) is None:
            continue
        ratio, rise = smaller
        fit = analysis.exponent(trials, family)
        law = "" if fit is None else f"; power law nats ~ N^-b over parameters: b = {fit.text()}"
        lines.append(f"{family}: {ratio:.1f} times fewer parameters cost {rise.text('+.3f')} nats per code{law}")
    return lines


def curves(trials: Sequence[Trial], size: int, axis: str) -> bytes:
    """Validation loss of one size against `tokens` or `flops`: a family's mean over seeds, and from its best to its
    worst seed as a band."""
    lines = []
    for family in analysis.families(trials):
        chosen = analysis.of(trials, family, size)
        points = min((len(trial.nats) for trial in chosen), default=0)
        nats = np.stack([trial.nats[:points] for trial in chosen]) if chosen else np.empty((1, 0))
        xs = getattr(chosen[0], axis)[:points] if chosen else []
        lines.append(Line(family, xs, nats.mean(0), (nats.min(0), nats.max(0))))
    return chart(lines, AXES[axis], NATS, "y" if axis == "tokens" else "xy")


def over_size(trials: Sequence[Trial]) -> bytes:
    """Final loss against parameters, every trial a point, with each family's power law over its seeds' means."""
    lines = []
    for family in analysis.families(trials):
        rows = [trial.row for trial in trials if trial.row.group == family]
        params, nats = np.array([row.params for row in rows]), np.array([row.val_nats for row in rows])
        law = None
        if len(set(params)) >= 3:
            slope, offset = np.polyfit(np.log(params), np.log(nats), 1)
            xs = np.geomspace(params.min(), params.max(), 20)
            law = (xs, np.exp(offset) * xs**slope)
        lines.append(Line(family, params, nats, law=law, scattered=True))
    return chart(lines, "parameters", NATS, "xy")


def equal_compute(trials: Sequence[Trial], family: str) -> bytes:
    """Final loss against training FLOPs for each size, one point per length: where the lines of two sizes cross, the
    larger begins to pay."""
    lines = []
    for size in analysis.sizes(trials):
        rows = sorted((trial.row for trial in analysis.of(trials, family, size)), key=lambda row: row.flops)
        if rows:
            points = [row.flops for row in rows], [row.val_nats for row in rows]
            lines.append(Line(f"{rows[0].params:,} parameters", *points))
    return chart(lines, AXES["flops"], f"{family}: nats per code", "xy")


def content(folder: str, named_rivals: Sequence[str] = ()) -> Content:
    """Gather the report of a study's folder.

    Raises:
        UserError: if it holds no finished trial, or not these rivals.
    """
    trials = analysis.read_trials(folder)
    if not trials:
        raise UserError(f"{folder} holds no finished trial; run tuning/scaling_study.py --out {folder} first")
    lengths = sorted({trial.row.steps for trial in trials})
    longest = [trial for trial in trials if trial.row.steps == lengths[-1]]
    drawn: dict[str, tuple[bytes, str]] = {}
    for size in analysis.sizes(longest):
        for axis, name in AXES.items():
            caption = f"{size} layers: validation loss against {name}; bands reach from the best seed to the worst"
            drawn[f"{axis}-{size}.svg"] = (curves(longest, size, axis), caption)
    drawn["size.svg"] = (over_size(longest), "Final loss against size, with a power law for each family")
    if len(lengths) > 1:
        for family in analysis.families(trials):
            caption = f"{family}: sizes at equal compute"
            drawn[f"compute-{family.replace(' ', '-')}.svg"] = (equal_compute(trials, family), caption)
    compared = comparisons(longest, _rivals(longest, named_rivals))
    findings = [*(one.text() for one in compared), *robustness(longest)]
    title = folder.rstrip("/").rsplit("/", 1)[-1]
    return Content(title, verdict(compared), table_rows(trials), findings, drawn)


def curve_rows(trials: Sequence[Trial]) -> list[tuple[object, ...]]:
    return [
        (trial.row.name, round(tokens), f"{flops:.4g}", f"{nats:.4f}")
        for trial in trials
        for tokens, flops, nats in zip(trial.tokens, trial.flops, trial.nats, strict=True)
    ]


def to_markdown(made: Content) -> str:
    lines = [f"# Study: {made.title}", "", f"{made.verdict} Intervals: Student's t at 95 % over seeds.", ""]
    lines += [markdown_table(COLUMNS, made.rows), "", "## Findings", "", *(f"- {line}" for line in made.findings), ""]
    lines += [f"![{caption}]({name})\n" for name, (_, caption) in made.pictures.items()]
    return "\n".join(lines)


def write_report(folder: str, out: str, rivals: Sequence[str] = ()) -> str:
    """Write everything into `out`; returns the page's URI."""
    made = content(folder, rivals)
    for name, (svg, _) in made.pictures.items():
        storage.write_bytes(storage.join(out, name), svg)
    storage.write_text(storage.join(out, "report.csv"), to_csv(COLUMNS, made.rows))
    curves = curve_rows(analysis.read_trials(folder))
    storage.write_text(storage.join(out, "curves.csv"), to_csv(("trial", "tokens", "flops", "nats"), curves))
    storage.write_text(storage.join(out, "report.md"), to_markdown(made))
    storage.write_text(storage.join(out, "report.html"), render("study", made=made, columns=COLUMNS))
    return storage.join(out, "report.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="folder or URI that tuning/scaling_study.py wrote")
    parser.add_argument("--out", help="folder for the report (default: the study's)")
    parser.add_argument(
        "--rivals", default="", help="families that the others are compared with (default: Transformers)"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        out = arguments.out or arguments.study
        rivals = [name for name in arguments.rivals.split(",") if name]
        print(f"wrote {write_report(arguments.study, out, rivals)}")


if __name__ == "__main__":
    main()
