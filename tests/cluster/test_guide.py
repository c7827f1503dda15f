"""What cluster/README.md says: marks, files, figures; and the DeepSpeed files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cluster_files import CLUSTER, MANIFESTS, README

from ssmttm import config as configuration


def test_the_readme_lists_what_must_be_changed() -> None:
    """CHANGE-ME-... marks every such value; no bucket, image or machine can be called so."""
    files = [*MANIFESTS, CLUSTER / "ray-cluster.yaml"]
    used = {mark for path in files for mark in re.findall(r"CHANGE-ME-[A-Z-]*[A-Z]", path.read_text())}
    listed = set(re.findall(r"^\| `(CHANGE-ME-[A-Z-]+)`", README, flags=re.MULTILINE))
    assert used == listed
    for path in files:
        values = path.read_text()
        assert not re.search(r"s3://(?!CHANGE-ME-BUCKET/)", values), path
        assert not re.search(r"\b(example\.com|my-bucket|\d{12})\b", values), path


def test_the_readme_names_every_file() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.name != "README.md":
            name = path.relative_to(CLUSTER).as_posix()
            shown = "deepspeed/" if name.startswith("deepspeed/") else name
            assert shown in README, f"cluster/README.md does not mention {shown}"


def test_the_readmes_figures_are_the_models() -> None:
    from ssmttm.cli_doctor import examine

    models = examine("paper")
    stage1, stage2 = models["stage1"], models["stage2"]
    assert f"{stage1['train_memory_bytes'] / 1e9:.1f} GB" in README
    # Weights, two moments, the average: four times fp32.
    assert f"{16 * stage1['trainable_params'] / 1e9:.1f} GB" in README
    settings = configuration.load("paper", job="stage2")
    frames = settings.train.global_batch * settings.train.steps * settings.stage2.crop_frames
    for flops in (stage1["train_flops_total"], 6 * stage2["trainable_params"] * frames):
        hours = flops / (0.2 * 989e12) / 3600
        assert f"{hours:.1f} h" in README or f"{hours:.0f} h" in README
        assert f"{hours / 8:.1f} h" in README


# (train.zero, train.offload) by file name.
DEEPSPEED = {f"zero{stage}.json": (stage, "none") for stage in range(4)}
DEEPSPEED |= {f"zero{stage}-offload-optimizer.json": (stage, "optimizer") for stage in (1, 2, 3)}
DEEPSPEED |= {"zero3-offload-parameters.json": (3, "parameters")}


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_files_are_what_training_uses(name: str) -> None:
    from ssmttm.training.deepspeed_engine import zero_config

    assert json.loads((CLUSTER / "deepspeed" / name).read_text()) == zero_config(*DEEPSPEED[name])


def test_there_is_a_deepspeed_file_for_each_stage_and_offload_and_no_other() -> None:
    assert {path.name for path in (CLUSTER / "deepspeed").iterdir()} == set(DEEPSPEED)


def test_the_example_of_deepspeed_settings_may_be_given(tmp_path: Path) -> None:
    from ssmttm.training.deepspeed_engine import base_config

    (example,) = re.findall(r"^```json\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    file = tmp_path / "settings.json"
    file.write_text(example)
    base_config(configuration.TrainConfig(zero=3, offload="optimizer", deepspeed=str(file)))
