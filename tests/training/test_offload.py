"""Runs with ZeRO's offload, and with DeepSpeed settings from a file, on two workers: the numbers of plain ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_faults import figures, relative_difference, run_workers

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.training.checkpoint import load_checkpoint
from ssmttm.training.launch import EXIT_STOPPED
from ssmttm.training.run import run_of

MakeConfig = Callable[..., Config]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SETTINGS = (
    *("train.steps=12", "train.workers=2", "train.launch=ray", "train.ema=0.9", "train.micro_batch=1"),
    *("train.checkpoint_every=4", "train.keep_checkpoints=9", "train.validate_every=6", "stage1.dropout=0.1"),
)


def last(config: Config) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint holds."""
    checkpoint = load_checkpoint(storage.join(run_of(config, "stage1").checkpoints, "step-000012"))
    assert checkpoint.average is not None
    parts = {"model": checkpoint.model, "optimizer": checkpoint.optimizer, "average": checkpoint.average}
    return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}


@pytest.mark.parametrize(("zero", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")])
def test_offload_changes_no_number_and_resumes(
    make_config: MakeConfig, tmp_path: Path, zero: int, offload: str
) -> None:
    """Losses, norms, weights, moments and averages are those of the same run without; stopped in the middle, and taken
    up again, it has the same bits as if it had not been."""
    stage = (*SETTINGS, f"train.zero={zero}")
    plain = make_config("stage1", *stage, "train.name=plain")
    whole = make_config("stage1", *stage, f"train.offload={offload}", "train.name=whole")
    cut = make_config("stage1", *stage, f"train.offload={offload}", "train.name=cut")
    for config in (plain, whole):
        assert run_workers(config, tmp_path, 2) == [0, 0]
    assert relative_difference(whole, plain) < 1e-6
    theirs = last(plain)
    for name, value in last(whole).items():
        torch.testing.assert_close(
            value, theirs[name], atol=2e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert run_workers(cut, tmp_path, 2, (0, "stop=7")) == [EXIT_STOPPED] * 2
    assert run_workers(cut, tmp_path, 2) == [0, 0]
    assert figures(cut) == figures(whole)
    mine = last(cut)
    assert all(torch.equal(value, mine[name]) for name, value in last(whole).items())


def test_a_run_may_leave_and_take_up_offload(make_config: MakeConfig, tmp_path: Path) -> None:
    """ZeRO-3 with everything offloaded, then ZeRO-1 with moments offloaded, then none: one run, by its checkpoints."""
    plain = make_config("stage1", *SETTINGS, "train.zero=2", "train.name=plain")
    assert run_workers(plain, tmp_path, 2) == [0, 0]
    parts = [("3", "parameters", 4), ("1", "optimizer", 8), ("0", "none", -1)]
    asked = (*SETTINGS, "train.name=changing", "train.continue_with=[zero,offload]")
    for zero, offload, stop in parts:
        config = make_config("stage1", *asked, f"train.zero={zero}", f"train.offload={offload}")
        assert run_workers(config, tmp_path, 2, (0, f"stop={stop}")) == [0 if stop < 0 else EXIT_STOPPED] * 2
    assert relative_difference(config, plain) < 1e-5


def test_settings_from_a_file_reach_deepspeed(make_config: MakeConfig, tmp_path: Path) -> None:
    """Buckets and sub-groups far smaller than the model cut the work otherwise and leave the numbers; a value of the
    wrong kind ends the run with DeepSpeed's own words."""
    stage = (*SETTINGS, "train.zero=3", "train.offload=optimizer")
    plain = make_config("stage1", *stage, "train.name=plain")
    assert run_workers(plain, tmp_path, 2) == [0, 0]
    file = tmp_path / "buckets.json"
    small = {"reduce_bucket_size": 5000, "sub_group_size": 3000, "stage3_prefetch_bucket_size": 2000}
    file.write_text(json.dumps({"zero_optimization": {**small, "offload_optimizer": {"pin_memory": False}}}))
    cut = make_config("stage1", *stage, f"train.deepspeed={file}", "train.name=cut")
    assert run_workers(cut, tmp_path, 2) == [0, 0]
    assert relative_difference(cut, plain) < 1e-5
    theirs = last(plain)
    for name, value in last(cut).items():
        torch.testing.assert_close(value, theirs[name], atol=2e-6, rtol=1e-4)
    file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": "large"}}))
    wrong = make_config("stage1", *stage, f"train.deepspeed={file}", "train.name=wrong")
    with pytest.raises(AssertionError, match=r"UserError: DeepSpeed refuses reduce_bucket_size in train\.deepspeed"):
        run_workers(wrong, tmp_path, 2)
