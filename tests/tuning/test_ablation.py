"""Systems of one size and one cost, and the table that they end in."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from ssmttm import config as configuration
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.training.run import run_of
from tuning import ablation
from tuning.ablation_plan import SYSTEMS, Dimensions, System, parameters_of, plan

FLOPS = 4e11


def stages(tokens: str, codec: str, out: Path, *overrides: str) -> tuple[Config, Config]:
    """Both jobs of the tiny preset, on the tiny shards."""
    words = [
        *(f"train.data={tokens}", f"codec.path={codec}", f"train.out={out}/runs", "train.launch=local"),
        *("train.workers=1", "train.warmup_steps=2", "tracking.enabled=false", "train.samples=0", *overrides),
    ]
    return configuration.load("tiny", words, "stage1"), configuration.load("tiny", words, "stage2")


@pytest.fixture(scope="module")
def systems(tiny_config: Config, tiny_tokens: str, tmp_path_factory: pytest.TempPathFactory) -> list[System]:
    out = tmp_path_factory.mktemp("ablation")
    given = stages(tiny_tokens, tiny_config.codec.path, out, "stage1.width=96", "stage1.layers=2")
    return plan(*given, FLOPS)


def test_all_come_to_one_size_and_one_cost(systems: list[System]) -> None:
    assert [system.name for system in systems] == list(SYSTEMS)
    wanted = 2 * systems[-1].stage1.parameters
    dimensions = Dimensions.of(systems[0].stage1.config.train.data)
    for system in systems:
        assert system.flops == pytest.approx(FLOPS, rel=0.05), system.name
        assert system.parameters == pytest.approx(wanted, rel=0.12), system.name
        for run in (system.stage1, system.stage2):
            if run is not None:
                assert parameters_of(run.config, run.stage, dimensions) == run.parameters
                assert run.config.train.steps > 2 * run.config.train.warmup_steps


def test_two_stages_share_the_first_which_is_trained_once(systems: list[System]) -> None:
    shared = {id(system.stage1) for system in systems if system.stage2}
    assert len(shared) == 1
    runs = ablation.trainings(systems)
    assert len(runs) == len({run.name for run in runs}) == 7
    assert [run.flops for run in runs] == sorted((run.flops for run in runs), reverse=True)


def test_an_unknown_system_and_too_small_a_budget_are_named(
    tiny_config: Config, tiny_tokens: str, tmp_path: Path
) -> None:
    given = stages(tiny_tokens, tiny_config.codec.path, tmp_path)
    with pytest.raises(UserError, match=r"three-4 is no system; use some of: single-4"):
        plan(*given, FLOPS, ["three-4"])
    with pytest.raises(UserError, match=r"buys stage1 only \d+ steps; give it at least"):
        plan(*given, 1e6)


def test_a_failed_job_is_named_and_the_others_end(tmp_path: Path) -> None:
    commands = {
        "good": [sys.executable, "-c", "print('fine')"],
        "bad": [sys.executable, "-c", "raise SystemExit('no good')"],
    }
    with pytest.raises(UserError, match=r"its log is .*bad\.log"):
        ablation.run_all(commands, str(tmp_path), 2)
    assert "no good" in (tmp_path / "bad.log").read_text()
    assert "fine" in (tmp_path / "good.log").read_text()


def test_a_jobs_configuration_is_what_was_planned(systems: list[System], tmp_path: Path) -> None:
    run = systems[-1].stage2
    assert run is not None
    words = ablation.command(f"train_{run.stage}", run.config, str(tmp_path))
    read = configuration.load(words[-1], [], run.stage)
    assert read.model_dump(exclude={"preset"}) == run.config.model_dump(exclude={"preset"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_ablation_from_training_to_table(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    first, second = stages(tiny_tokens, tiny_config.codec.path, tmp_path)
    systems = plan(first, second, 2e10, ["single-4", "two-unet"])
    evaluated = tiny_config.model_copy(update={"train": first.train, "codec": first.codec, "tracking": first.tracking})
    text = ablation.ablate(systems, evaluated, str(tmp_path), 2)
    rows = list(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert [row["system"] for row in rows] == ["single-4", "two-unet"]
    assert text == (tmp_path / "ablation.md").read_text()
    for row, system in zip(rows, systems, strict=True):
        summary = json.loads(Path(run_of(system.stage1.config, "stage1").summary).read_text())
        key = "first_codebook" if system.stage2 is None else "own"
        assert float(row["nats"]) == pytest.approx(summary["validation"][key], abs=1e-3)
        assert int(row["parameters"]) == system.parameters
        assert float(row["cpu_s"]) > 0
        assert 0 <= float(row["genre"]) <= 1
    before = {path: path.stat().st_mtime for path in tmp_path.glob("runs/*/summary.json")}
    ablation.ablate(systems, evaluated, str(tmp_path), 2)
    assert before == {path: path.stat().st_mtime for path in tmp_path.glob("runs/*/summary.json")}
