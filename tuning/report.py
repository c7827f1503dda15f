"""Report of one study: table, figures, fits, and what they say of the papers' findings, whichever way that comes out.

    python tuning/report.py runs/study [--out FOLDER] [--rivals prefix_transformer,cross_transformer]

Writes report.html (self-contained), report.md, report.csv (a row per family and size), curves.csv and figures (SVG).
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ssmttm import storage
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.reports.page import page, picture, table
from tuning import analysis, figures
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


@dataclass(frozen=True)
class Content:
    """What a report is made of. Figures by file name: SVG and a caption."""

    title: str
    rows: list[tuple[str, ...]]
    findings: list[str]
    figures: dict[str, tuple[bytes, str]]


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


def _direction(difference: Mean, better: str, worse: str, equal: str) -> str:
    """Which of three words an interval around a difference allows; a single seed allows none but `equal`."""
    if difference.low is not None and difference.high is not None:
        if difference.high < 0:
            return better
        if difference.low > 0:
            return worse
    return equal


def efficiency(trials: Sequence[Trial], rivals: Sequence[str]) -> list[str]:
    """The papers' first finding: at equal size, do state-space models learn more from the same codes?"""
    lines = []
    for rival in rivals:
        for family in analysis.families(trials):
            if family in rivals:
                continue
            for size in analysis.sizes(trials):
                gap = analysis.gap(trials, family, rival, size)
                if gap is None:
                    continue
                tokens = analysis.effort(trials, family, rival, size, "tokens")
                flops = analysis.effort(trials, family, rival, size, "flops")
                assert tokens is not None
                assert flops is not None
                verdict = _direction(gap, "lower", "HIGHER", "not told apart")
                lines.append(
                    f"{family} beside {rival}, {size} layers: final loss {verdict}, by {gap.text('+.3f')} nats; "
                    f"share of the rival's codes that takes it to the rival's final loss: {tokens.text()}, "
                    f"of its FLOPs: {flops.text()}"
                )
    return lines


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
        for axis, name in figures.AXES.items():
            caption = f"{size} layers: validation loss against {name}; bands reach from the best seed to the worst"
            drawn[f"{axis}-{size}.svg"] = (figures.curves(longest, size, axis), caption)
    drawn["size.svg"] = (figures.over_size(longest), "Final loss against size, with a power law for each family")
    if len(lengths) > 1:
        for family in analysis.families(trials):
            caption = f"{family}: sizes at equal compute"
            drawn[f"compute-{family.replace(' ', '-')}.svg"] = (figures.equal_compute(trials, family), caption)
    findings = [*efficiency(longest, _rivals(longest, named_rivals)), *robustness(longest)]
    return Content(folder.rstrip("/").rsplit("/", 1)[-1], table_rows(trials), findings, drawn)


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *rows])
    return buffer.getvalue()


def curve_rows(trials: Sequence[Trial]) -> list[tuple[object, ...]]:
    return [
        (trial.row.name, round(tokens), f"{flops:.4g}", f"{nats:.4f}")
        for trial in trials
        for tokens, flops, nats in zip(trial.tokens, trial.flops, trial.nats, strict=True)
    ]


def to_markdown(made: Content) -> str:
    lines = [f"# Study: {made.title}", "", "Intervals: Student's t at 95 % over seeds.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in made.rows]
    lines += ["", "## Findings", "", *(f"- {line}" for line in made.findings), ""]
    lines += [f"![{caption}]({name})\n" for name, (_, caption) in made.figures.items()]
    return "\n".join(lines)


def to_html(made: Content) -> str:
    body = [f"<h1>Study: {escape(made.title)}</h1>", "<h2>Findings</h2>", "<ul>"]
    body += [f"<li>{escape(line)}</li>" for line in made.findings]
    body += ["</ul>", '<p class="quiet">Intervals: Student\'s t at 95 % over seeds.</p>', "<h2>Curves</h2>"]
    body += ['<div class="clips">']
    body += [picture(svg, "image/svg+xml", caption, caption) for svg, caption in made.figures.values()]
    body += ["</div>", "<h2>Trials</h2>"]
    body += [table("", COLUMNS, [[escape(cell) for cell in row] for row in made.rows])]
    return page(f"Study: {made.title}", "\n".join(body))


def write_report(folder: str, out: str, rivals: Sequence[str] = ()) -> str:
    """Write everything into `out`; returns the page's URI."""
    made = content(folder, rivals)
    for name, (svg, _) in made.figures.items():
        storage.write_bytes(storage.join(out, name), svg)
    storage.write_text(storage.join(out, "report.csv"), _csv(COLUMNS, made.rows))
    curves = curve_rows(analysis.read_trials(folder))
    storage.write_text(storage.join(out, "curves.csv"), _csv(("trial", "tokens", "flops", "nats"), curves))
    storage.write_text(storage.join(out, "report.md"), to_markdown(made))
    storage.write_text(storage.join(out, "report.html"), to_html(made))
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
