"""Runs that are started again with other settings or other data: refused, or allowed by name and then said; and what
may change because it changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import figures, trainer

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config, from_dict
from ssmttm.config.sections import TrainConfig, changeable
from ssmttm.errors import UserError
from ssmttm.model.weights import load_tensors
from ssmttm.spreadsheet import from_csv
from ssmttm.training import trainer as trainer_module
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train
from ssmttm.training.run import History, Run, learnt_from, prepare
from ssmttm.training.session import TrainingStoppedError

MakeConfig = Callable[..., Config]
CONSTANT = ("train.schedule=constant", "train.warmup_steps=1")
OTHER: dict[str, Any] = {
    **{"workers": 2, "cpus_per_worker": 2, "use_gpu": True, "micro_batch": 1, "zero": 1, "launch": "ray"},
    **{"offload": "optimizer", "precision": "bf16", "global_batch": 2, "lr": 1e-3, "betas": [0.8, 0.9], "seed": 7},
    **{"weight_decay": 0.1, "clip": 0.5, "ema": 0.7},
}


def stopped(config: Config, step: int) -> Run:
    """A run that was stopped after so many steps."""
    run = prepare(config, "stage1")
    assert run is not None
    begun = trainer(config, run, stop_requested=lambda: begun.progress.step + 1 == step)
    with pytest.raises(TrainingStoppedError):
        begun.fit()
    return run


def changed(config: Config, **train: Any) -> Config:
    values = config.model_dump()
    values["train"] |= train
    return from_dict(values)


def test_every_setting_that_counts_is_tried() -> None:
    here = {name.removeprefix("train.") for name in changeable() if name.startswith("train.")}
    assert here == {*OTHER, "data", "deepspeed"}


@pytest.mark.parametrize("key", OTHER)
def test_what_decides_a_result_is_refused_or_allowed_by_name(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    config = make_config("stage1", *CONSTANT, "train.precision=fp32")
    run = stopped(config, 2)
    other = changed(config, **{key: OTHER[key]})
    with pytest.raises(UserError, match=rf"was started with train\.{key}=.*, now .*or train\.continue_with=\[{key}\]$"):
        prepare(other, "stage1")
    assert storage.read_json(run.path("config.json"))["train"][key] != OTHER[key]
    capsys.readouterr()
    for named in (key, f"train.{key}"):
        assert prepare(changed(other, continue_with=[named]), "stage1") == run
    assert f"stage1 goes on from step 2 on with train.{key}=" in capsys.readouterr().out
    (line,) = History.of(run).changes
    assert line.startswith(f"from step 2 on with train.{key}=")
    assert prepare(other, "stage1") == run  # which is now what it is


def test_a_stages_own_settings_too(make_config: MakeConfig) -> None:
    run = stopped(make_config("stage1", *CONSTANT), 2)
    with pytest.raises(UserError, match=r"or train\.continue_with=\[stage1\.dropout\]$"):
        prepare(make_config("stage1", *CONSTANT, "stage1.dropout=0.4"), "stage1")
    named = "train.continue_with=[stage1.dropout]"
    assert prepare(make_config("stage1", *CONSTANT, "stage1.dropout=0.4", named), "stage1") == run
    with pytest.raises(UserError, match=r"stage1\.width=\d+, now 8; choose another train\.name$"):  # fits no weights
        prepare(make_config("stage1", *CONSTANT, "stage1.dropout=0.4", "stage1.width=8"), "stage1")


def test_a_name_that_nothing_has_is_refused_with_the_nearest() -> None:
    for name, nearest in (("microbatch", "train.micro_batch"), ("stage1.width", "stage1."), ("train.out", "train.")):
        with pytest.raises(UserError, match=rf"continue_with: '{name}' is no setting .*; nearest: {nearest}"):
            configuration.load("tiny", [f"train.continue_with=[{name}]"])


def test_deepspeeds_settings_count_by_what_they_hold(make_config: MakeConfig, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 1000}}))
    config = make_config("stage1", f"train.deepspeed={files[0]}")
    prepare(config, "stage1")
    assert prepare(changed(config, deepspeed=str(files[1])), "stage1")
    files[0].write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 2000}}))
    with pytest.raises(UserError, match=r"with train\.deepspeed=\w{12}, now \w{12}; .*continue_with=\[deepspeed\]"):
        prepare(config, "stage1")


@pytest.mark.parametrize("resumed", ["auto", "fp32"])
def test_what_auto_means_elsewhere_is_no_silent_change(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, resumed: str
) -> None:
    """A run goes on on a machine that computes otherwise."""
    config = make_config("stage1", *CONSTANT, "train.precision=auto")
    monkeypatch.setattr(trainer_module, "use_bf16", lambda train: train.precision != "fp32")
    run = stopped(config, 2)
    monkeypatch.setattr(trainer_module, "use_bf16", lambda train: False)
    other = changed(config, precision=resumed)
    with pytest.raises(
        UserError, match=r"was trained in bf16, and train\.precision=\w+ means fp32 here; .*=\[precision\]"
    ):
        train(other, "stage1")
    train(changed(other, continue_with=["precision"]), "stage1")
    assert History.of(run).changes == ["from step 2 on with train.precision=fp32, bf16 before"]


def test_what_decides_nothing_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    """All of it at once, half way: figures and weights are those of a run that was left alone."""
    settings = ("stage1", *CONSTANT, "stage1.dropout=0.3", "train.ema=0.9", "train.steps=8")
    whole = train(make_config(*settings, "train.name=whole"), "stage1")
    stopped(make_config(*settings, "train.name=cut"), 4)
    moved = shutil.move(tmp_path / "cut", tmp_path / "elsewhere" / "moved")
    other = {
        **{"out": str(tmp_path / "elsewhere"), "name": "moved", "resume": str(Path(moved, "checkpoints/step-000004"))},
        **{"checkpoint_every": 3, "checkpoint_minutes": 1e-6, "keep_checkpoints": 5, "keep_best": True},
        **{"validate_every": 1, "validation_rows": 3, "samples": 1, "samples_every": 2, "log_every": 1},
        **{"max_failures": 9, "max_skipped": 3, "continue_with": ["lr"], "minutes": None},
    }
    assert set(other) == set(TrainConfig.deciding("nothing"))
    again = train(changed(make_config(*settings), **other), "stage1")
    assert figures(again) == figures(whole)
    ours, theirs = (load_tensors(f"{run.weights}/model.safetensors") for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert History.of(again).changes == []


@pytest.fixture
def second_tokens(tiny_tokens: str, tmp_path: Path) -> str:
    """Another data set that the same codec and text encoder made: the tiny one, as if of other music."""
    copy = Path(shutil.copytree(tiny_tokens, tmp_path / "second"))
    table = (
        (copy / "ATTRIBUTION.csv").read_text().replace("CC0-1.0", "CC BY 4.0").replace("ssmttm composer", "=somebody")
    )
    (copy / "ATTRIBUTION.csv").write_text(table.replace("=somebody", "'=somebody"))
    info = storage.read_json(str(copy / "dataset.json"))
    info |= {"fingerprint": "b" * 64, "seconds_by_licence": {"CC-BY": 7200.0}, "rejects": 5}
    del info["files"]
    storage.write_commit(str(copy), "dataset.json", info)
    return str(copy)


@pytest.fixture
def on_music(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> Callable[..., Config]:
    def make(**train: Any) -> Config:
        fixed = {"out": str(tmp_path / "runs"), "samples": 0, "schedule": "constant", "warmup_steps": 1, "steps": 2}
        return changed(tiny_config, **{**fixed, **train})

    return make


def licences_of(folder: str) -> set[str]:
    return {row["licence"] for row in from_csv(storage.read_text(storage.join(folder, "ATTRIBUTION.csv")))}


def test_other_data_is_refused_also_by_a_finished_run(
    on_music: Callable[..., Config], second_tokens: str, tiny_tokens: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(on_music(), "stage1")
    capsys.readouterr()
    for steps in (2, 4):
        with pytest.raises(
            UserError, match=r"train\.data=\w{12} \(\S+\), now b{12} \(\S+second\); .*continue_with=\[data\]$"
        ):
            train(on_music(data=second_tokens, steps=steps), "stage1")
    with pytest.raises(
        UserError, match=r"is done with its 2 steps, and \S+second is not what it learnt from; give more"
    ):
        train(on_music(data=second_tokens, continue_with=["data"]), "stage1")
    assert "already finished" not in capsys.readouterr().out
    assert storage.exists(run.summary)
    assert [one["uri"] for one in learnt_from(run)] == [tiny_tokens]


def test_the_same_data_elsewhere_is_the_same(on_music: Callable[..., Config], tiny_tokens: str, tmp_path: Path) -> None:
    run = train(on_music(), "stage1")
    moved = str(shutil.copytree(tiny_tokens, tmp_path / "moved"))
    assert train(on_music(data=moved, steps=3), "stage1") == run
    assert History.of(run).changes == []


def test_what_a_run_learnt_from_is_never_forgotten(
    on_music: Callable[..., Config], second_tokens: str, tiny_tokens: str, tmp_path: Path
) -> None:
    """Not by going on with other data and back, nor by whoever starts from it, nor once the data is gone."""
    run = train(on_music(), "stage1")
    train(on_music(data=second_tokens, steps=4, continue_with=["data"]), "stage1")
    assert licences_of(run.uri) == {"CC0-1.0", "CC BY 4.0"}
    train(on_music(steps=6, continue_with=["train.data"]), "stage1")
    assert licences_of(run.uri) == {"CC0-1.0", "CC BY 4.0"}
    assert [one["uri"] for one in learnt_from(run)] == [second_tokens, tiny_tokens]
    shutil.rmtree(second_tokens)
    second = train(on_music(), "stage2")
    out = export_bundle(run.uri, second.uri, str(tmp_path / "bundle"))
    assert licences_of(out) == {"CC0-1.0", "CC BY 4.0"}
    card = storage.read_text(f"{out}/README.md")
    fingerprint = storage.read_json(f"{tiny_tokens}/dataset.json")["fingerprint"][:12]
    assert f"| {fingerprint} | stage1, stage2 |" in card
    assert f"| {'b' * 12} | stage1 | public-domain" in card
    assert "2 data sets of 2.01 hours" in card
    assert f"from step 2 on with train.data={'b' * 12}, {fingerprint} before" in card
    assert f"from step 4 on with train.data={fingerprint}, {'b' * 12} before" in card
    tuned = train(on_music(name="tuned", init=run.uri), "stage1")
    resumed = train(on_music(name="resumed", steps=7, resume=f"{run.checkpoints}/step-000006"), "stage1")
    for later in (tuned, resumed):
        out = export_bundle(later.uri, second.uri, str(tmp_path / "later"))
        assert licences_of(out) == {"CC0-1.0", "CC BY 4.0"}
    assert "stage1 began with a checkpoint of run stage1" in storage.read_text(f"{out}/README.md")
    assert f"| {'b' * 12} | stage1 | public-domain" in storage.read_text(f"{out}/README.md")


def test_a_start_that_was_killed_between_is_told_the_same_again(
    on_music: Callable[..., Config], second_tokens: str, tiny_tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file was the last to be written, nothing is forgotten."""
    run = train(on_music(), "stage1")
    files = ("config.json", "dataset.json", "history.json", "ATTRIBUTION.csv", "summary.json")
    before = {name: storage.read_bytes(run.path(name)) for name in files}
    other = on_music(data=second_tokens, steps=4, continue_with=["data"])
    write = storage.write_bytes
    for killed_at in range(5):
        for name, data in before.items():
            write(run.path(name), data)
        left = iter(range(killed_at))

        def dying(uri: str, data: bytes, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(uri, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", dying)
            with suppress(KeyboardInterrupt):
                prepare(other, "stage1")
        assert prepare(other, "stage1") == run
        assert licences_of(run.uri) == {"CC0-1.0", "CC BY 4.0"}
        assert [one["uri"] for one in learnt_from(run)] == [tiny_tokens, second_tokens]
        assert len(History.of(run).changes) == 1


def test_a_checkpoint_without_its_run_says_nothing_of_its_data(make_config: MakeConfig, tmp_path: Path) -> None:
    run = train(make_config("stage1", "train.name=first"), "stage1")
    bare = shutil.copytree(f"{run.checkpoints}/step-000004", tmp_path / "bare" / "step-000004")
    with pytest.raises(UserError, match=r"does not lie in the folder of its run, so nobody knows what it learnt from"):
        prepare(make_config("stage1", "train.name=second", f"train.resume={bare}"), "stage1")


def test_a_run_of_before_goes_on(make_config: MakeConfig) -> None:
    """It has no history, and its data may have no name."""
    config = make_config("stage1", *CONSTANT, "train.steps=8")
    run = stopped(config, 4)
    storage.remove_tree(run.path("history.json"))
    known = storage.read_json(run.path("dataset.json"))
    del known["fingerprint"]
    storage.write_json(run.path("dataset.json"), known)
    assert prepare(config, "stage1") == run
