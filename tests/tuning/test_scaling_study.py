"""The study: one dial, equal tokens, a table that survives failures and restarts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model.lm import MusicLM
from ssmttm.model.mixers.registry import BACKBONES
from tuning import runner
from tuning.runner import TrialBar
from tuning.scaling_study import RowKeeper, check_same_study, parse, plan, study
from tuning.table import DONE, Row, read_rows, write_rows
from tuning.trial import sized

ROWS = st.builds(
    Row,
    backbone=st.sampled_from(sorted(BACKBONES)),
    size=st.integers(1, 99),
    seed=st.integers(0, 9),
    width=st.integers(1, 9999),
    layers=st.integers(1, 99),
    steps=st.integers(1, 10**6),
    lr=st.floats(1e-6, 1),
    variant=st.sampled_from(["", "stage1.pooled=false", "stage1.pooled=true;stage1.num_codebooks=4"]),
    params=st.integers(0, 10**12),
    tokens=st.integers(0, 10**12),
    flops=st.floats(0, 1e25),
    val_nats=st.floats(0, 20),
    seconds=st.floats(0, 1e6),
    status=st.sampled_from([DONE, 'failed: ValueError: width 3, not "4"', ""]),
)


@given(st.lists(ROWS, unique_by=lambda row: row.name))
def test_the_table_reads_back_as_written(rows: list[Row]) -> None:
    write_rows("memory://study/study.csv", rows)
    assert sorted(read_rows("memory://study/study.csv"), key=lambda row: row.name) == sorted(
        rows, key=lambda row: row.name
    )


def test_no_table_is_an_empty_one(tmp_path: Path) -> None:
    assert read_rows(str(tmp_path / "study.csv")) == []


MINI = configuration.load("mini", job="stage1")


def test_plan_has_every_combination_once_smallest_first() -> None:
    rows = plan(MINI, ["prefix_simba", "prefix_mamba", "prefix_simba"], [4, 2, 2], [1, 0])
    assert len({row.name for row in rows}) == len(rows) == 2 * 2 * 2
    assert [row.size for row in rows] == [2] * 4 + [4] * 4
    assert {(row.layers, row.width) for row in rows} == {(2, 128), (4, 256)}


def test_lengths_variants_and_rates_are_part_of_the_plan() -> None:
    rows = plan(
        MINI,
        ["prefix_simba", "prefix_mamba"],
        [2],
        [0],
        steps=[100, 50],
        rates={"prefix_mamba": 8e-3},
        vary=["stage1.pooled=true,false", "stage1.num_codebooks=1,4"],
        width_per_layer=32,
    )
    assert len({row.name for row in rows}) == len(rows) == 2 * 2 * 4
    assert {row.steps for row in rows} == {50, 100}
    assert {row.width for row in rows} == {64}
    peak = {row.backbone: row.lr for row in rows}
    assert peak == {"prefix_simba": pytest.approx(2 * MINI.train.lr), "prefix_mamba": pytest.approx(16e-3)}
    chosen = next(row for row in rows if row.variant == "stage1.pooled=false;stage1.num_codebooks=4")
    ours = sized(MINI, chosen)
    assert (ours.stage1.pooled, ours.stage1.num_codebooks) == (False, 4)
    assert (ours.train.steps, ours.train.lr) == (chosen.steps, chosen.lr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "lstm"], r"stage1\.backbone=lstm is unknown; there are .*prefix_simba"),
        (["--lr", "lstm=1"], r"stage1\.backbone=lstm is unknown"),
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--vary", "stage1.pooled"], r"--vary stage1\.pooled: write KEY=A,B"),
        (["--vary", "stage1.poled=true"], r"did you mean stage1\.pooled\?"),
        (["--sizes", "2,0"], "--sizes 0: a size is a number of layers"),
        (["train.stepz=3"], r"did you mean train\.steps\?"),
        (["--preset", "huge"], "unknown preset 'huge'"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["--out", "x", *arguments])


def test_trials_differ_in_size_backbone_and_rate_alone() -> None:
    config, trials, _ = parse(["train.steps=9", "--out", "x", "--sizes", "2,4,8", "--seeds", "0,1", "train.lr=2e-3"])
    for trial in trials:
        ours = sized(config, trial)
        assert (ours.stage1.layers, ours.stage1.width) == (trial.size, 64 * trial.size)
        assert ours.train.lr == pytest.approx(2e-3 * math.sqrt(256 / ours.stage1.width))
        equal = {"steps", "global_batch", "schedule", "warmup_steps", "weight_decay", "data", "betas", "clip"}
        assert ours.train.model_dump(include=equal) == config.train.model_dump(include=equal)
        assert ours.train.launch == "local"
    assert len({sized(config, trial).train.name for trial in trials}) == len(trials)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_widths_that_no_head_of_64_divides_build_too(backbone: str) -> None:
    (trial,) = plan(MINI, [backbone], [3], [0], width_per_layer=32)
    stage = sized(MINI, trial).stage1
    assert stage.head_dim == (64 if backbone in ("prefix_simba", "prefix_mamba") else 32)
    MusicLM(stage.model_copy(update={"codebook_features": False}), codebook_size=16, widths={"text": 8})


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_size_builds(backbone: str) -> None:
    config = configuration.load("tiny", job="stage1")
    sizes = []
    for trial in plan(config, [backbone], [1, 2, 3], [0]):
        stage = sized(config, trial).stage1
        model = MusicLM(stage.model_copy(update={"codebook_features": False}), codebook_size=16, widths={"text": 8})
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert sizes == sorted(sizes)


def test_a_folder_keeps_to_one_study(tmp_path: Path) -> None:
    uri = str(tmp_path / "study.json")
    config = configuration.load("tiny", job="stage1")
    check_same_study(config, uri)
    same = ["train.workers=2", "train.out=elsewhere", "train.lr=1e-3", "stage1.layers=9"]
    check_same_study(configuration.load("tiny", same, "stage1"), uri)
    with pytest.raises(UserError, match=r"was begun with train\.clip=1\.0; choose another --out"):
        check_same_study(configuration.load("tiny", ["train.clip=2"], "stage1"), uri)


def test_a_trial_whose_process_dies_leaves_a_row(tmp_path: Path) -> None:
    table = str(tmp_path / "study.csv")
    (row,) = plan(MINI, ["prefix_simba"], [2], [0])
    keeper = RowKeeper(table, [], TrialBar("study", 1))
    keeper.on_trial_error(0, [], SimpleNamespace(config={"trial": {"row": vars(row)}}))
    assert [kept.status for kept in read_rows(table)] == ["failed: its process died"]
    done = replace(row, status=DONE, val_nats=1.5)
    keeper.on_trial_complete(0, [], SimpleNamespace(last_result={**vars(done), "trial_id": "abc", "done": True}))
    assert read_rows(table) == [done]


@pytest.mark.slow
def test_a_study_records_failures_and_continues(
    tiny_config: Config, tiny_tokens: str, ray_cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "study")
    # Three groups do not divide the heads of the state-space layers; attention has none.
    config = configuration.from_dict(
        {**tiny_config.model_dump(), "stage1": {**tiny_config.stage1.model_dump(), "groups": 3}}
    )
    trials = plan(config, ["prefix_simba", "prefix_transformer"], [1], [0])
    rows = {row.backbone: row for row in study(config, trials, out)}
    assert rows["prefix_simba"].status.startswith("failed: ValueError: inner width 128")
    done = rows["prefix_transformer"]
    assert done.status == DONE
    assert done.params > 0
    assert done.flops > 6 * done.tokens
    assert 0 < done.val_nats < 2 * math.log(tiny_config.codec.codebook_size)
    assert storage.exists(f"{out}/trials/{done.name}/weights")

    tried: list[str] = []
    monkeypatch.setattr(runner, "sized", lambda config, row: tried.append(row.name) or sized(config, row))
    assert done in study(config, trials, out)
    assert tried == [rows["prefix_simba"].name]
