"""What DeepSpeed is told: ours, and over it what a user's file may set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm import storage
from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.deepspeed_engine import FREE_KEYS, OWNERS, base_config, deepspeed_config, zero_config
from ssmttm.training.launch import train
from ssmttm.training.order import BatchShape

MakeConfig = Callable[..., Config]
FOLDER = Path(__file__).parent.parent.parent / "cluster" / "deepspeed"


def with_file(path: Path, content: Any, **train: Any) -> TrainConfig:
    path.write_text(json.dumps(content))
    return TrainConfig(deepspeed=str(path), **train)


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def at(table: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        table = table[part]
    return table


def test_batches_clipping_and_precision_are_filled_in() -> None:
    config = TrainConfig(zero=2, clip=0.7, precision="bf16", offload="optimizer")
    filled = deepspeed_config(config, BatchShape(4, 3))
    assert filled["train_micro_batch_size_per_gpu"] == 4
    assert filled["gradient_accumulation_steps"] == 3
    assert filled["gradient_clipping"] == 0.7
    assert filled["torch_autocast"]["enabled"]
    assert filled["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "offload_param" not in filled["zero_optimization"]
    assert not {"bf16", "fp16", "optimizer", "scheduler"} & filled.keys()
    assert "torch_autocast" not in deepspeed_config(TrainConfig(precision="fp32"), BatchShape(1, 1))


@pytest.mark.parametrize(("offload", "stages"), [("none", {0, 1, 2, 3}), ("optimizer", {1, 2, 3}), ("parameters", {3})])
def test_an_offload_needs_its_stage(offload: Any, stages: set[int]) -> None:
    for zero in range(4):
        config = TrainConfig(zero=zero, offload=offload)  # type: ignore[arg-type]
        if zero in stages:
            zero_section = base_config(config)["zero_optimization"]
            assert ("offload_optimizer" in zero_section) == (offload != "none")
            assert ("offload_param" in zero_section) == (offload == "parameters")
        else:
            with pytest.raises(UserError, match=rf"train\.offload={offload} needs train\.zero=.*{zero}"):
                base_config(config)


@settings(deadline=None)
@given(st.sampled_from(sorted(FREE_KEYS)), st.integers(1, 10**9))
def test_a_file_changes_exactly_what_it_sets(tmp_path_factory: pytest.TempPathFactory, key: str, value: int) -> None:
    plain = TrainConfig(zero=3, offload="parameters", precision="fp32")
    path = tmp_path_factory.getbasetemp() / "one.json"
    config = with_file(path, nested(key, value), **plain.model_dump(exclude={"deepspeed"}))
    changed, before = base_config(config), base_config(plain)
    assert at(changed, key) == value
    *parents, name = key.split(".")
    for table in (changed, before):
        for part in parents:
            table = table[part]
        table.pop(name, None)
    assert changed == before


@settings(deadline=None)
@given(st.sampled_from(sorted(OWNERS)), st.sampled_from([1, "auto", True, {"enabled": True}, {"device": "nvme"}]))
def test_what_the_trainer_owns_is_refused(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "owned.json"
    config = with_file(path, {"steps_per_print": 5, **nested(key, value)}, zero=2, offload="optimizer")
    with pytest.raises(UserError, match=r"sets .*, which is the trainer's; leave it out and use train\.") as error:
        base_config(config)
    assert OWNERS[key] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"zero_optimisation": {}},
            "zero_optimisation, which has no place in it; it may set .*reduce_bucket_size",
        ),
        ({"zero_optimization": {"zero_quantized_weights": True}}, r"zero_optimization\.zero_quantized_weights, which"),
        ({"zero_optimization": {"stage3_param_persistence_threshold": 9}}, "persistence_threshold, which has no place"),
        ({"zero_optimization": {"offload_param": {"pin_memory": False}}}, r"offload_param, .* use train\.offload"),
        ({"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}}, r"offload_optimizer\.ratio, .* train\.offload"),
        ({"zero_optimization": 3}, "sets zero_optimization, which has no place in it"),
        ([1], "must hold one JSON object"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    config = with_file(tmp_path / "ds.json", content, zero=3, offload="optimizer")
    with pytest.raises(UserError, match=message) as error:
        base_config(config)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.json does not exist"):
        base_config(TrainConfig(deepspeed=str(tmp_path / "missing.json")))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json is not valid JSON"):
        base_config(TrainConfig(deepspeed=str(tmp_path / "broken.json")))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_files_for_other_tools_are_what_is_used_and_may_be_given(path: Path) -> None:
    stage, _, offload = path.stem.removeprefix("zero").partition("-offload-")
    ours = zero_config(int(stage), offload or "none")
    assert storage.read_json(str(path)) == ours
    config = TrainConfig(zero=int(stage), offload=offload or "none", deepspeed=str(path))  # type: ignore[arg-type]
    assert base_config(config) == ours


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.offload=optimizer", "train.zero=1"],
            r"offload=optimizer is for DeepSpeed, .*local is plain torch",
        ),
        (["train.deepspeed=/nowhere.json"], r"train\.deepspeed=/nowhere\.json is for DeepSpeed"),
        (["train.launch=ray", "train.offload=parameters"], r"train\.offload=parameters needs train\.zero=3"),
        (["train.launch=ray", "train.deepspeed=/nowhere.json"], r"/nowhere\.json does not exist"),
    ],
)
def test_refused_before_anything_starts(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(make_config("stage1", *overrides), "stage1")
    assert not list(tmp_path.iterdir())
