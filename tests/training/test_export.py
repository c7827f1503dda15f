from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssmttm import storage
from ssmttm.bundle.load import load_bundle
from ssmttm.config import Config, from_dict
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError
from ssmttm.model.weights import load_tensors
from ssmttm.spreadsheet import from_csv
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train

Runs = tuple[str, str]


@pytest.fixture(scope="module")
def trained(tiny_config: Config, tiny_tokens: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two runs of two steps each, with a checkpoint of each step."""
    out = str(tmp_path_factory.mktemp("export"))
    values = tiny_config.model_dump()
    values["train"] |= {"out": out, "steps": 2, "samples": 0, "checkpoint_every": 1, "keep_checkpoints": 9, "ema": 0.5}
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


def attribution_of(folder: str) -> list[dict[str, str]]:
    return from_csv(storage.read_text(storage.join(folder, "ATTRIBUTION.csv")))


def test_two_runs_become_a_bundle(trained: Runs, tiny_tokens: str, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    assert export_bundle(*trained, out, {"genre": 0.875}) == out
    clip = Generator.load(out).generate("calm piano", 1.0, seed=1)
    assert clip.samples.shape == (1, 24_000)
    original = from_csv(storage.read_text(storage.join(tiny_tokens, "ATTRIBUTION.csv")))
    assert attribution_of(out) == [{**row, "used_by": "stage1 stage2"} for row in original]
    card = storage.read_text(storage.join(out, "README.md"))
    for expected in ("CC0-1.0", "| stage1 |", "| stage2 |", "0.875"):
        assert expected in card


def test_the_card_counts_the_codec_too(runs: Runs, tmp_path: Path) -> None:
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    codec = shutil.copytree(description["codec"]["uri"], tmp_path / "codec")
    change_description(runs[0], {"codec": {**description["codec"], "uri": str(codec)}})
    report = {"seconds": {"fit": 7200.0, "measure": 1.0}}
    storage.write_json(str(codec / "report.json"), report)  # as codecs were before
    out = export_bundle(*runs, str(tmp_path / "bundle"))
    assert "| codec | not recorded | not recorded | 2.00 |" in storage.read_text(storage.join(out, "README.md"))
    storage.write_json(str(codec / "report.json"), {**report, "flops": 3 * 10**18})
    card = storage.read_text(storage.join(export_bundle(*runs, out), "README.md"))
    assert "| codec | not recorded | 3.00e+18 | 2.00 |" in card
    assert "In all 3.00e+18 FLOPs and 2.00 hours." in card  # next to which the tiny stages are nothing
    change_description(runs[0], {"codec": {**description["codec"], "uri": out}})  # the bundle's codec, used again
    card = storage.read_text(storage.join(export_bundle(*runs, str(tmp_path / "second")), "README.md"))
    assert "| codec | not recorded | 3.00e+18 | 2.00 |" in card


def test_the_card_tells_what_the_codec_learned_from(runs: Runs, tmp_path: Path) -> None:
    """And the bundle carries it, so that who uses its codec again tells it too. Of a codec that nobody recorded,
    nothing is claimed."""
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    codec = shutil.copytree(description["codec"]["uri"], tmp_path / "codec")
    change_description(runs[0], {"codec": {**description["codec"], "uri": str(codec)}})
    out = str(tmp_path / "bundle")
    unknown = storage.read_text(storage.join(export_bundle(*runs, out), "README.md"))
    assert "What the codec learned from was not recorded" in unknown
    assert "| codec | codec |" not in unknown
    record = {"tracks": 1200, "seconds_by_licence": {"CC-BY": 7200.0}, "allow_licences": ["CC-BY"], "rejects": 34}
    storage.write_json(str(codec / "report.json"), {"seconds": {"fit": 1.0}, "data": record})
    heard = (
        "source_id,title,artist,licence,source_url,audio,seconds,used_by\nheard,=T,A,CC BY 4.0,,heard.wav,6.000,codec\n"
    )
    storage.write_text(str(codec / "ATTRIBUTION.csv"), heard.replace("=T", "'=T"))
    other = str(tmp_path / "second")
    (codec / "ATTRIBUTION.csv").rename(codec / "lost.csv")
    with pytest.raises(UserError, match=r"codec/ATTRIBUTION\.csv does not exist"):
        export_bundle(*runs, out)
    (codec / "lost.csv").rename(codec / "ATTRIBUTION.csv")
    for uri, bundle in ((str(codec), out), (out, other)):
        change_description(runs[0], {"codec": {**description["codec"], "uri": uri}})
        card = storage.read_text(storage.join(export_bundle(*runs, bundle), "README.md"))
        assert "The codec learned from 1,200 recordings (2.00 hours) and refused 34" in card
        assert "| codec | CC-BY | 2.00 |" in card
        assert "| codec | codec | CC-BY | 34 |" in card
        (data,) = card_of(bundle)["codec_training_data"]
        assert data["recordings"] == 1200
        (row,) = [row for row in attribution_of(bundle) if row["used_by"] == "codec"]
        assert (row["source_id"], row["title"]) == ("heard", "=T")
        assert len(attribution_of(bundle)) == 9


def test_the_card_adds_up_what_the_runs_counted(runs: Runs, tmp_path: Path) -> None:
    summaries = [storage.read_json(storage.join(run, "summary.json")) for run in runs]
    assert all(summary["flops"] > 2 * summary["tokens"] for summary in summaries)
    card = storage.read_text(storage.join(export_bundle(*runs, str(tmp_path / "bundle")), "README.md"))
    assert f"In all {sum(summary['flops'] for summary in summaries):.2e} FLOPs" in card


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
    assert rows[-1] == 'x,"a, b",,,,,,stage2'
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


def test_a_single_stage_becomes_a_bundle(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    values = tiny_config.model_dump()
    values["train"] |= {"out": str(tmp_path), "steps": 2, "samples": 0}
    values["stage1"]["num_codebooks"] = 3
    run, out = train(from_dict(values), "stage1").uri, str(tmp_path / "bundle")
    assert export_bundle(run, None, out) == out
    generator = Generator.load(out)
    assert generator.bundle.completer is None
    assert generator.generate("calm piano", 1.0, seed=1).samples.shape == (1, 24_000)
    card = storage.read_text(storage.join(out, "README.md"))
    assert "| stage1 |" in card
    assert "| stage2 |" not in card
    (data,) = card_of(out)["training_data"]
    assert data["stages"] == ["stage1"]


def test_codebook_0_alone_is_no_single_stage(runs: Runs, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"stage1 models codebook 0 alone.*train stage 2"):
        export_bundle(runs[0], None, out)
    with pytest.raises(UserError, match="checkpoint step-000001 of stage 2 needs its run"):
        export_bundle(runs[0], None, out, stage2_checkpoint="step-000001")
    assert not Path(out).exists()


def test_more_codebooks_than_stage_2_continues_are_refused(runs: Runs, tmp_path: Path) -> None:
    description = storage.read_json(storage.join(runs[0], "weights", "model.json"))
    change_description(runs[0], {"config": {**description["config"], "num_codebooks": 4}})
    with pytest.raises(UserError, match=r"leave the stage-2 run out, or train stage 1 with stage1\.num_codebooks=1"):
        export_bundle(*runs, str(tmp_path / "bundle"))


def test_a_checkpoint_can_be_exported_of_a_run_that_never_finished(runs: Runs, tmp_path: Path) -> None:
    """Its weights are the averages that the checkpoint holds, its cost what it took until then."""
    finished = load_bundle(export_bundle(*runs, str(tmp_path / "finished")))
    summaries = [storage.read_json(storage.join(run, "summary.json")) for run in runs]
    for run in runs:
        storage.remove_tree(storage.join(run, "summary.json"))
        storage.remove_tree(storage.join(run, "weights"))
    names = {"stage1_checkpoint": "step-000001", "stage2_checkpoint": "step-000002"}
    out = export_bundle(*runs, str(tmp_path / "early"), **names)
    bundle = load_bundle(out)
    assert bundle.model_id != finished.model_id
    for run, module, name in zip(runs, (bundle.lm, bundle.completer), names.values(), strict=True):
        held = load_tensors(storage.join(run, "checkpoints", name, "average.safetensors"))
        state = module.state_dict()
        assert state.keys() == held.keys()
        assert all(torch.equal(state[key], held[key]) for key in held)
    for key, value in finished.completer.state_dict().items():  # the last checkpoint is the finished run
        assert torch.equal(bundle.completer.state_dict()[key], value)
    assert Generator.load(out).generate("calm piano", 1.0, seed=1).samples.shape == (1, 24_000)
    card = storage.read_text(storage.join(out, "README.md"))
    progress = storage.read_json(storage.join(runs[0], "checkpoints", "step-000001", "progress.json"))
    flops = summaries[0]["flops"] * progress["tokens"] / summaries[0]["tokens"]
    assert f"| stage1 | {summaries[0]['parameters']:,} | {flops:.2e} |" in card
    assert f"| stage2 | {summaries[1]['parameters']:,} | {summaries[1]['flops']:.2e} |" in card


def test_checkpoints_that_cannot_be_exported(runs: Runs, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    with pytest.raises(UserError, match="has no checkpoint step-000007; it has: step-000001, step-000002"):
        export_bundle(*runs, out, stage1_checkpoint="step-000007")
    with pytest.raises(UserError, match="step-000001 holds a stage2 model; stage1 is needed here"):
        export_bundle(runs[1], runs[0], out, stage1_checkpoint="step-000001")
    forget_the_task(runs[1])
    with pytest.raises(UserError, match=r"step-000001 does not hold the stage1 model of \S+"):
        export_bundle(runs[1], runs[0], out, stage1_checkpoint="step-000001")
    assert not Path(out).exists()


def forget_the_task(run: str) -> None:
    """Leave a run's first checkpoint as checkpoints were before they said what was trained."""
    commit = storage.join(run, "checkpoints", "step-000001", "checkpoint.json")
    storage.write_json(commit, {"files": storage.read_json(commit)["files"]})


def test_a_checkpoint_that_does_not_say_its_stage_is_exported(runs: Runs, tmp_path: Path) -> None:
    named = load_bundle(export_bundle(*runs, str(tmp_path / "named"), stage2_checkpoint="step-000001"))
    forget_the_task(runs[1])
    unnamed = load_bundle(export_bundle(*runs, str(tmp_path / "unnamed"), stage2_checkpoint="step-000001"))
    assert unnamed.model_id == named.model_id


def test_a_bundle_becomes_a_version_in_the_registry(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri, out = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "bundle")
    with pytest.raises(UserError, match="stage1 was not tracked by MLflow, so it names no registry; give --tracking"):
        export_bundle(*runs, out, register="music")
    assert not Path(out).exists()
    storage.write_json(storage.join(runs[0], "mlflow.json"), {"tracking_uri": uri, "run_id": "", "experiment_id": ""})
    export_bundle(*runs, out, register="music")
    assert f"music version 1 in {uri}" in capsys.readouterr().out
    export_bundle(*runs, out, register="music", tracking_uri=uri)  # the same again
    (version,) = MlflowClient(uri).search_model_versions("name = 'music'")
    commit = Path(out, "bundle.json").read_bytes()
    assert version.source == out
    assert version.tags["model_id"] == load_bundle(out).model_id
    assert version.tags["bundle_sha256"] == hashlib.sha256(commit).hexdigest()
    assert version.tags["licences"] == "CC0-1.0"
    assert version.tags["stage1_steps"] == "2"
    assert int(version.tags["stage1_parameters"]) > 0
    assert float(version.tags["training_flops"]) > 0
    export_bundle(*runs, out, register="music", stage1_checkpoint="step-000001")
    assert {version.version for version in MlflowClient(uri).search_model_versions("name = 'music'")} == {1, 2}


def test_a_registry_that_is_away_is_an_error_after_the_bundle(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out = str(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"is written, but http://127\.0\.0\.1:9 does not register it"):
        export_bundle(*runs, out, register="music", tracking_uri="http://127.0.0.1:9")
    assert load_bundle(out)
