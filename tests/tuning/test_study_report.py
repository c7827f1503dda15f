"""Reports of studies whose answers are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssmttm import storage
from ssmttm.errors import UserError
from tuning import analysis, report
from tuning.analysis import Mean
from tuning.table import DONE, Row, write_rows

SIZES = {2: 100_000, 3: 200_000, 4: 400_000}
STEPS, TOKENS = 10, 1000


def final_loss(backbone: str, size: int, seed: int) -> float:
    """An exact power law, the Transformer's a tenth above; seeds move both alike, and each a little by itself."""
    law = 30.0 * SIZES[size] ** -0.2
    own = 0.002 * (1 if backbone == "prefix_simba" else -1) * (seed - 1)
    return law + (0.1 if "transformer" in backbone else 0.0) + 0.05 * seed + own


@pytest.fixture
def folder(tmp_path: Path) -> str:
    rows = []
    for backbone in ("prefix_simba", "prefix_transformer"):
        for size, params in SIZES.items():
            for seed in (0, 1, 2):
                loss = final_loss(backbone, size, seed)
                row = Row(backbone, size, seed, 32 * size, size, STEPS, 1e-3)
                rows.append(
                    Row(
                        **{
                            **vars(row),
                            "params": params,
                            "tokens": STEPS * TOKENS,
                            "flops": 6.0 * params * STEPS * TOKENS,
                            "val_nats": loss,
                            "status": DONE,
                        }
                    )
                )
                run = tmp_path / "trials" / row.name
                run.mkdir(parents=True)
                steps = [{"step": step, "tokens": TOKENS} for step in range(1, STEPS + 1)]
                (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
                curve = [{"step": step, "own": loss + 1.0 - step / STEPS} for step in (2, 4, 6, 8, 10)]
                (run / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
    rows.append(Row("prefix_mamba", 2, 0, 64, 2, STEPS, 1e-3, status="failed: it was switched off"))
    write_rows(str(tmp_path / "study.csv"), rows)
    return str(tmp_path)


def test_curves_are_read_with_their_tokens_and_flops(folder: str) -> None:
    trials = analysis.read_trials(folder)
    assert len(trials) == 18
    trial = analysis.of(trials, "prefix_simba", 3)[0]
    assert trial.tokens.tolist() == [2000, 4000, 6000, 8000, 10000]
    assert trial.flops == pytest.approx(6.0 * SIZES[3] * trial.tokens)
    assert trial.nats[-1] == trial.row.val_nats


def test_a_gap_is_of_equal_seeds_so_that_what_moves_both_cancels(folder: str) -> None:
    trials = analysis.read_trials(folder)
    gap = analysis.gap(trials, "prefix_simba", "prefix_transformer", 2)
    assert gap is not None
    assert gap.value == pytest.approx(-0.1)
    assert gap.high is not None
    assert gap.high < -0.08  # although a seed moves the losses by 0.05
    assert analysis.gap(trials, "prefix_simba", "cross_simba", 2) is None


def test_the_rivals_loss_is_reached_where_the_curve_crosses_it(folder: str) -> None:
    trials = analysis.read_trials(folder)
    faster = analysis.effort(trials, "prefix_simba", "prefix_transformer", 4, "tokens")
    slower = analysis.effort(trials, "prefix_transformer", "prefix_simba", 4, "tokens")
    assert faster is not None
    assert faster.share is not None
    assert faster.share.value == pytest.approx(0.9, rel=0.01)  # a nat in ten steps: a tenth is one step
    assert slower is not None
    assert (slower.share, slower.text()) == (None, "never in 3 of 3 seeds")


def test_one_seed_that_never_gets_there_leaves_no_mean(folder: str) -> None:
    trials = analysis.read_trials(folder)
    spoilt = [
        replace(trial, nats=trial.nats + 1)
        if trial.row.name.startswith("prefix_simba-4") and trial.row.seed == 1
        else trial
        for trial in trials
    ]
    effort = analysis.effort(spoilt, "prefix_simba", "prefix_transformer", 4, "flops")
    assert effort is not None
    assert (effort.share, effort.text()) == (None, "never in 1 of 3 seeds")


def test_a_ratio_and_its_inverse_have_inverse_intervals() -> None:
    there, back = Mean.of_ratios([0.5, 0.8, 0.7]), Mean.of_ratios([2, 1.25, 1 / 0.7])
    assert there.low is not None
    assert back.high is not None
    assert there.low == pytest.approx(1 / back.high)
    assert there.value == pytest.approx(1 / back.value)


def test_more_families_than_colours_are_all_drawn(folder: str) -> None:
    first = [trial for trial in analysis.read_trials(folder) if trial.row.backbone == "prefix_simba"]
    many = [
        replace(trial, row=replace(trial.row, variant=f"stage1.dropout=0.{number}"))
        for number in range(7)
        for trial in first
    ]
    one, all_of_them = (report.curves(chosen, 2, "tokens").count(b"<use") for chosen in (first, many))
    drawn = [report.over_size(chosen).count(b"<use") for chosen in (first, many)]
    assert all_of_them > one
    assert drawn[1] - drawn[0] >= 6 * 3 * len(SIZES)


def test_crossings() -> None:
    xs, nats = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    assert analysis.reached(xs, nats, 1.5) == pytest.approx(2.5)
    assert analysis.reached(xs, nats, 4.0) == 1.0
    assert analysis.reached(xs, nats, 0.5) == math.inf


def test_the_exponent_of_a_power_law_is_found(tmp_path: Path, folder: str) -> None:
    trials = [trial for trial in analysis.read_trials(folder) if trial.row.seed == 0]
    fit = analysis.exponent(trials, "prefix_simba")
    assert fit is not None
    assert fit.value == pytest.approx(0.2, abs=0.001)
    assert (fit.low, fit.count) == (None, 1)
    assert analysis.exponent([trial for trial in trials if trial.row.size > 2], "prefix_simba") is None


def test_what_a_small_size_costs(folder: str) -> None:
    found = analysis.shrinking(analysis.read_trials(folder), "prefix_simba")
    assert found is not None
    assert found[0] == 4
    assert found[1].value == pytest.approx(30 * (100_000**-0.2 - 400_000**-0.2))


def test_one_seed_has_no_interval_and_three_have_students() -> None:
    assert Mean.of([2.0]).text() == "2.000 (1 seed)"
    three = Mean.of([1.0, 2.0, 3.0])
    assert three.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3)


def test_the_report_says_what_the_study_showed(folder: str, tmp_path: Path) -> None:
    out = str(tmp_path / "report")
    page = storage.read_text(report.write_report(folder, out))
    told = storage.read_text(f"{out}/report.md")
    for text in (page, told):
        assert "prefix_simba beside prefix_transformer, 2 layers: final loss lower, by -0.100" in text
        assert "prefix_simba: 4.0 times fewer parameters cost +" in text
        assert "final loss: 0.90 [" in text
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<img") == 7
    for name in ("size.svg", "tokens-2.svg", "flops-4.svg"):
        assert storage.read_text(f"{out}/{name}").lstrip().startswith("<?xml")
        assert f"({name})" in told
    assert len(storage.read_text(f"{out}/curves.csv").splitlines()) == 1 + 18 * 5
    assert len(storage.read_text(f"{out}/report.csv").splitlines()) == 1 + 2 * 3


def test_overlapping_intervals_are_not_called_a_difference(folder: str) -> None:
    trials = [trial for trial in analysis.read_trials(folder) if trial.row.seed == 0]
    assert any(
        "not significantly different" in one.text() for one in report.comparisons(trials, ["prefix_transformer"])
    )
    reversed_roles = report.comparisons(analysis.read_trials(folder), ["prefix_simba"])
    assert any("final loss HIGHER" in one.text() for one in reversed_roles)


def test_the_study_is_summed_up_in_one_sentence(folder: str) -> None:
    trials = analysis.read_trials(folder)
    sure = report.comparisons(trials, ["prefix_transformer"])
    assert report.verdict(sure) == (
        "Of 3 comparisons of final losses with a rival at equal size, 3 are significant (lower)."
    )
    one_seed = report.comparisons([t for t in trials if t.row.seed == 0], ["prefix_transformer"])
    assert report.verdict([sure[0], *one_seed[1:]]) == (
        "Of 3 comparisons of final losses with a rival at equal size, 1 is significant (lower); of the "
        "other 2, 2 point to a lower loss."
    )
    assert "No two families" in report.verdict([])


def test_mistakes_are_named(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished trial; run tuning/scaling_study\.py"):
        report.write_report(str(tmp_path / "empty"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="--rivals lstm: the study has prefix_simba, prefix_transformer"):
        report.write_report(folder, str(tmp_path / "out"), ["lstm"])
