"""The search: its grid, what it says of the edge, and a small one on Tune."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssmttm import config as configuration
from ssmttm.config import Config
from ssmttm.errors import UserError
from tuning.runner import TrialBar
from tuning.search import STOPPED, SearchKeeper, axes_of, grid, parse, search, statement
from tuning.table import DONE, read_rows
from tuning.trial import sized

MINI = configuration.load("mini", job="stage1")


def test_rates_and_variants_are_combined_and_named() -> None:
    rows = grid(MINI, "prefix_simba", 2, [4e-3, 1e-3], ["stage1.dropout=0,0.1"], 32)
    assert len({row.name for row in rows}) == len(rows) == 4
    for row in rows:
        rate = float(row.variant.split(";")[0].removeprefix("train.lr="))
        assert sized(MINI, row).train.lr == row.lr == pytest.approx(2 * rate)
    assert axes_of(rows) == {"train.lr": ["0.001", "0.004"], "stage1.dropout": ["0", "0.1"]}


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((3.0, 2.0, 4.0), "train.lr=0.002 is inside its grid (0.001, 0.002, 0.004)"),
        ((2.0, 3.0, 4.0), "train.lr=0.001 is at the EDGE of its grid (0.001, 0.002, 0.004): widen it"),
        ((4.0, 3.0, 2.0), "train.lr=0.004 is at the EDGE of its grid (0.001, 0.002, 0.004): widen it"),
    ],
)
def test_the_edge_of_a_grid_is_told(losses: tuple[float, ...], said: str) -> None:
    rows = grid(MINI, "prefix_simba", 2, [1e-3, 2e-3, 4e-3], [], 64)
    done = [replace(row, val_nats=loss, status=DONE) for row, loss in zip(rows, losses, strict=True)]
    assert said in statement(done)


def test_what_was_stopped_or_failed_is_never_the_best() -> None:
    rows = grid(MINI, "prefix_simba", 2, [1e-3, 2e-3], [], 64)
    assert statement([replace(row, val_nats=1.0, status=STOPPED) for row in rows]) == ["no trial was finished"]


def test_stopped_trials_keep_their_loss(tmp_path: Path) -> None:
    (row,) = grid(MINI, "prefix_simba", 2, [1e-3], [], 64)
    keeper = SearchKeeper(str(tmp_path / "search.csv"), [], TrialBar("search", 1))
    keeper.on_trial_complete(0, [], SimpleNamespace(last_result={**vars(row), "val_nats": 2.5}))
    (kept,) = read_rows(str(tmp_path / "search.csv"))
    assert (kept.status, kept.val_nats) == (STOPPED, 2.5)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"did you mean stage1\.dropout\?"):
        parse(["--lr", "1e-3", "--vary", "stage1.dropuot=0", "--out", "x"])
    with pytest.raises(UserError, match=r"stage1\.backbone=lstm is unknown"):
        parse(["--lr", "1e-3", "--backbone", "lstm", "--out", "x"])


@pytest.mark.slow
def test_a_search_on_tune_with_early_stopping_goes_on(
    tiny_config: Config, tiny_tokens: str, ray_cluster: dict[str, Any], tmp_path: Path
) -> None:
    values = tiny_config.model_dump()
    values["train"] |= {"steps": 8, "validate_every": 1, "checkpoint_every": 100}
    config = configuration.from_dict(values)
    trials = grid(config, "prefix_simba", 1, [1e-4, 1e-2, 10.0], [], 32)
    rows = search(config, trials, str(tmp_path), asha=True)
    assert {row.name for row in rows} == {trial.name for trial in trials}
    assert {row.status for row in rows} <= {DONE, STOPPED}
    assert any(row.status == DONE for row in rows)
    assert search(config, trials, str(tmp_path), asha=True) == rows
