from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssmttm import storage
from ssmttm.config import Config, from_dict
from ssmttm.errors import UserError
from ssmttm.generation.bundle import load_bundle
from ssmttm.generation.generator import Generator
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train

Runs = tuple[str, str]


@pytest.fixture(scope="module")
def trained(tiny_config: Config, tiny_tokens: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two runs of two steps each."""
    out = str(tmp_path_factory.mktemp("export"))
    values = tiny_config.model_dump()
    values["train"] |= {"out": out, "steps": 2, "samples": 0}
    config = from_dict(values)
    return train(config, "stage1").uri, train(config, "stage2").uri


@pytest.fixture
def runs(trained: Runs, tmp_path: Path) -> Runs:
    """Copies that a test may change."""
    first, second = (shutil.copytree(uri, tmp_path / Path(uri).name) for uri in trained)
    return str(first), str(second)


def change_description(run: str, change: dict[str, Any]) -> None:
    uri = storage.join(run, "weights", "model.json")
    storage.write_json(uri, {**storage.read_json(uri), **change})


def test_two_runs_become_a_bundle(trained: Runs, tiny_tokens: str, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    assert export_bundle(*trained, out, {"genre": 0.875}) == out
    clip = Generator.load(out).generate("calm piano", 1.0, seed=1)
    assert clip.samples.shape == (1, 24_000)
    attribution = storage.read_text(storage.join(out, "ATTRIBUTION.csv"))
    original = storage.read_text(storage.join(tiny_tokens, "ATTRIBUTION.csv"))
    assert attribution.splitlines() == original.splitlines()
    card = storage.read_text(storage.join(out, "README.md"))
    for expected in ("CC0-1.0", "| stage1 |", "| stage2 |", "0.875"):
        assert expected in card


def test_the_card_counts_the_codec_too(runs: Runs, tmp_path: Path) -> None:
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    codec = shutil.copytree(description["codec"]["uri"], tmp_path / "codec")
    storage.write_json(str(codec / "report.json"), {"seconds": {"fit": 7200.0, "measure": 1.0}})
    change_description(runs[0], {"codec": {**description["codec"], "uri": str(codec)}})
    out = export_bundle(*runs, str(tmp_path / "bundle"))
    assert "| codec | not recorded | not recorded | 2.00 |" in storage.read_text(storage.join(out, "README.md"))


def test_an_export_replaces_the_one_before(runs: Runs, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    export_bundle(*runs, out)
    first = load_bundle(out).model_id
    export_bundle(*runs, out)
    assert load_bundle(out).model_id == first


def test_data_of_both_stages_is_attributed(runs: Runs, tiny_tokens: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    storage.write_text(
        storage.join(other, "ATTRIBUTION.csv"),
        storage.read_text(storage.join(tiny_tokens, "ATTRIBUTION.csv")) + 'x,"a, b",,,,\n',
    )
    change_description(runs[1], {"data": {"uri": other, "rows": 1}})
    out = export_bundle(*runs, str(tmp_path / "bundle"))
    rows = storage.read_text(storage.join(out, "ATTRIBUTION.csv")).splitlines()
    assert rows[-1] == 'x,"a, b",,,,'
    assert len(rows) == len(set(rows))


def card_of(bundle: str) -> dict[str, Any]:
    return yaml.safe_load(storage.read_text(storage.join(bundle, "README.md")).split("---\n", 2)[1])


def test_the_card_carries_licences_and_rejects(runs: Runs, tiny_tokens: str, tmp_path: Path) -> None:
    dataset = storage.read_json(storage.join(tiny_tokens, "dataset.json"))
    (data,) = card_of(export_bundle(*runs, str(tmp_path / "bundle")))["training_data"]
    assert data["stages"] == ["stage1", "stage2"]
    assert dataset["fingerprint"].startswith(data["name"])
    assert data["allow_licences"] == dataset["allow_licences"]
    assert data["hours_by_licence"] == {"CC0-1.0": round(24 / 3600, 3)}
    assert data["rejects"] == 0


def test_the_card_names_every_data_set(runs: Runs, tmp_path: Path) -> None:
    uri = storage.join(runs[1], "dataset.json")
    other = {"fingerprint": "f" * 64, "seconds_by_licence": {"CC-BY-SA": 7200.0}, "rejects": 1234}
    values = {**storage.read_json(uri), **other}
    del values["allow_licences"]  # as data sets were before
    values["config"]["corpus"]["allow_licences"] = ["CC-BY-SA"]
    storage.write_json(uri, values)
    out = export_bundle(*runs, str(tmp_path / "bundle"))
    first, second = card_of(out)["training_data"]
    assert first["stages"] == ["stage1"]
    assert second == {
        "name": "f" * 12,
        "stages": ["stage2"],
        "allow_licences": ["CC-BY-SA"],
        "hours_by_licence": {"CC-BY-SA": 2.0},
        "rejects": 1234,
    }
    text = storage.read_text(storage.join(out, "README.md"))
    assert "2 data sets of 2.01 hours" in text
    assert f"| {'f' * 12} | stage2 | CC-BY-SA | 1,234 |" in text


def test_unfinished_runs_are_refused(runs: Runs, tmp_path: Path) -> None:
    storage.remove_tree(storage.join(runs[1], "summary.json"))
    with pytest.raises(UserError, match="stage2 is not a finished run"):
        export_bundle(*runs, str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_runs_in_the_wrong_order_are_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a stage2 model; stage1 is needed"):
        export_bundle(runs[1], runs[0], str(tmp_path / "bundle"))


@pytest.mark.parametrize("part", ["codec", "text"])
def test_stages_of_different_encoders_are_refused(runs: Runs, tmp_path: Path, part: str) -> None:
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    change_description(runs[0], {part: {**description[part], "fingerprint": "another"}})
    with pytest.raises(UserError, match=f"different {part} encoders"):
        export_bundle(*runs, str(tmp_path / "bundle"))


def test_a_codec_that_changed_is_refused(runs: Runs, tmp_path: Path) -> None:
    for run in runs:
        description = storage.read_json(storage.join(run, "weights", "model.json"))
        change_description(run, {"codec": {**description["codec"], "fingerprint": "older"}})
    with pytest.raises(UserError, match="has changed since"):
        export_bundle(*runs, str(tmp_path / "bundle"))


def test_more_codebooks_than_stage_2_continues_are_refused(runs: Runs, tmp_path: Path) -> None:
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    change_description(runs[0], {"config": {**description["config"], "num_codebooks": 4}})
    with pytest.raises(UserError, match=r"stage1\.num_codebooks=1"):
        export_bundle(*runs, str(tmp_path / "bundle"))
