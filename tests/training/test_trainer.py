from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_tokens import make_codec

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model.weights import load_completer, load_lm
from ssmttm.tokens.read import read_dataset_info
from ssmttm.training.engine import TorchEngine
from ssmttm.training.launch import make_task, train
from ssmttm.training.run import Run, prepare
from ssmttm.training.session import DivergedError, TrainingStoppedError
from ssmttm.training.trainer import Trainer
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
STEPS = ("train.steps=8", "train.checkpoint_every=2", "train.keep_checkpoints=9", "train.validate_every=4")


def trainer(config: Config, run: Run, **options: Any) -> Trainer:
    def engine(module: Any, groups: Any, average: Any) -> TorchEngine:
        return TorchEngine(module, groups, config.train, average)

    return Trainer(make_task("stage1", config), run, engine, **options)


def figures(run: Run) -> list[tuple[float, ...]]:
    return [(row["step"], row["loss"], row["lr"], row["grad_norm"], row["tokens"]) for row in read_rows(run.metrics)]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_learns_and_leaves_everything_behind(make_config: MakeConfig, stage: str) -> None:
    config = make_config(stage, "train.steps=30", "train.global_batch=8", "train.validate_every=15", "train.ema=0.8")
    run = train(config, stage)
    rows, summary = read_rows(run.metrics), storage.read_json(run.summary)
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert sum(row["loss"] for row in rows[-5:]) < sum(row["loss"] for row in rows[:5])
    assert [row["step"] for row in read_rows(run.validation)] == [15, 30]
    assert summary["steps"] == 30
    assert summary["tokens"] == sum(row["tokens"] for row in rows)
    assert summary["validation"]["own"] == read_rows(run.validation)[-1]["own"]
    assert summary["parameters"] > 0
    assert storage.read_json(run.path("config.json")) == config.model_dump(mode="json")
    assert storage.read_json(run.path("dataset.json"))["codec"]["fingerprint"]
    assert len(storage.list_names(run.path("samples"))) == config.train.samples
    module, description = load_lm(run.weights) if stage == "stage1" else load_completer(run.weights)
    assert not module.training
    assert description["training"]["steps"] == 30
    assert {"codec", "text", "generation", "config"} <= description.keys()


def test_interrupted_is_uninterrupted(make_config: MakeConfig, tmp_path: Path) -> None:
    """Dropout included: the resumed run has the same numbers, and each step once."""
    config = make_config("stage1", *STEPS, "stage1.dropout=0.3", "train.ema=0.9", "train.name=whole")
    whole = train(config, "stage1")
    cut = Run(str(tmp_path / "cut"))
    shutil.copytree(whole.uri, cut.uri)
    for name in ("checkpoints/step-000006", "checkpoints/step-000008", "weights", "samples"):
        shutil.rmtree(tmp_path / "cut" / name)
    storage.remove_tree(cut.summary)
    train(make_config("stage1", *STEPS, "stage1.dropout=0.3", "train.ema=0.9", "train.name=cut"), "stage1")
    assert figures(cut) == figures(whole)
    assert [row["step"] for row in read_rows(cut.validation)] == [4, 8]
    first, _ = load_lm(whole.weights)
    second, _ = load_lm(cut.weights)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_micro_batches_do_not_change_the_mathematics(make_config: MakeConfig) -> None:
    plain = ("stage1.dropout=0", "stage1.token_dropout=0")
    runs = [
        train(make_config("stage1", *plain, f"train.micro_batch={size}", f"train.name=m{size}"), "stage1")
        for size in (4, 1)
    ]
    for whole, parts in zip(*map(figures, runs), strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)


def test_finished_run_is_left_alone(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config("stage1")
    run = train(config, "stage1")
    before = storage.read_json(run.summary)
    capsys.readouterr()
    train(config, "stage1")
    assert "already finished" in capsys.readouterr().out
    assert storage.read_json(run.summary) == before


def test_a_taken_name_is_an_error(make_config: MakeConfig, tokens: str, tmp_path: Path) -> None:
    train(make_config("stage1"), "stage1")
    with pytest.raises(UserError, match=r"exists and train\.resume=never"):
        train(make_config("stage1", "train.resume=never"), "stage1")
    with pytest.raises(UserError, match=r"train\.lr=0\.002, now 0\.1"):
        train(make_config("stage1", "train.lr=0.1"), "stage1")
    with pytest.raises(UserError, match=r"stage1\.layers=2, now 3"):
        train(make_config("stage1", "stage1.layers=3"), "stage1")


@pytest.mark.parametrize("part", ["codec", "text"])
def test_a_run_keeps_to_the_codec_and_the_text_encoder_of_its_shards(
    make_config: MakeConfig, tokens: str, tmp_path: Path, part: str
) -> None:
    """Shards that are whole in themselves, and belong to their codec, but not to those the run was started on."""
    config = make_config("stage1")
    assert prepare(config, "stage1") is not None
    other = tmp_path / "other-tokens"
    shutil.copytree(tokens, other)
    info = storage.read_json(str(other / "dataset.json"))
    info[part]["fingerprint"] = "another"
    if part == "codec":
        codec = make_codec(tmp_path / "other", config.codec.model_copy(update={"griffin_lim_iterations": 3}))
        info["codec"] |= {"fingerprint": codec.fingerprint(), "uri": str(tmp_path / "other")}
    storage.write_json(str(other / "dataset.json"), info)
    with pytest.raises(UserError, match=rf"was started on token shards of another {part}; choose another train.name"):
        prepare(make_config("stage1", f"train.data={other}"), "stage1")


def test_shards_of_another_codec_or_text_encoder_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    other = make_codec(tmp_path / "other", config.codec.model_copy(update={"griffin_lim_iterations": 3}))
    assert other.fingerprint() != read_dataset_info(config.train.data)["codec"]["fingerprint"]
    for overrides, message in (
        (["codec.name=dac"], "holds codes of codec 'mini', but codec.name=dac"),
        ([f"codec.path={tmp_path / 'other'}"], f"was made with another codec than {tmp_path / 'other'} is now"),
        (["text.encoder=transformers"], "states of text encoder 'minilm', but text.encoder=transformers"),
    ):
        with pytest.raises(UserError, match=f"{message}; preprocess the corpus again"):
            prepare(make_config("stage1", *overrides), "stage1")


@pytest.mark.parametrize("path", ["runs/demo/codec", os.path.abspath("runs/demo/codec"), "/nowhere/at/all"])
def test_a_codec_path_that_names_nothing_of_ones_own_is_no_mismatch(make_config: MakeConfig, path: str) -> None:
    assert prepare(make_config("stage1", f"codec.path={path}"), "stage1") is not None


def test_resume_from_another_runs_checkpoint(make_config: MakeConfig) -> None:
    first = train(make_config("stage1", "train.name=first"), "stage1")
    checkpoint = storage.join(first.checkpoints, "step-000002")
    second = train(make_config("stage1", "train.name=second", f"train.resume={checkpoint}"), "stage1")
    assert figures(second) == figures(first)[2:]
    with pytest.raises(UserError, match=r"train\.resume=/nowhere does not exist"):
        train(make_config("stage1", "train.name=third", "train.resume=/nowhere"), "stage1")
    with pytest.raises(UserError, match=r"step-000002 is a checkpoint of stage1; stage2 is needed here"):
        train(make_config("stage2", "train.name=fourth", f"train.resume={checkpoint}"), "stage2")


def test_asked_to_stop_it_saves_and_can_go_on(make_config: MakeConfig) -> None:
    config = make_config("stage1", *STEPS)
    run = prepare(config, "stage1")
    assert run is not None
    asked = iter([False, False, True])
    with pytest.raises(TrainingStoppedError, match="stopped at step 3, checkpoint saved"):
        trainer(config, run, stop_requested=lambda: next(asked)).fit()
    resumed = trainer(config, run)
    assert resumed.progress.step == 3
    resumed.fit()
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(1, 9))


def test_broken_batches_are_skipped_and_counted(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("stage1", *STEPS)
    run = prepare(config, "stage1")
    assert run is not None
    broken = trainer(config, run)
    forward, calls = broken.engine.forward, iter(range(100))
    monkeypatch.setattr(broken.engine, "forward", lambda b: forward(b) * (torch.nan if next(calls) in (2, 5) else 1.0))
    broken.fit()
    rows = read_rows(run.metrics)
    assert [row["step"] for row in rows] == list(range(1, 9))  # the schedule does not advance on a skip
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert broken.progress.position == 10
    assert storage.read_json(run.summary)["skipped_steps"] == 2


def test_broken_batches_are_counted_in_a_row(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of them, as long as no two follow one another."""
    config = make_config("stage1", *STEPS, "train.max_skipped=2")
    run = prepare(config, "stage1")
    assert run is not None
    broken = trainer(config, run)
    forward, calls = broken.engine.forward, iter(range(100))
    monkeypatch.setattr(broken.engine, "forward", lambda b: forward(b) * (torch.nan if next(calls) % 2 else 1.0))
    broken.fit()
    assert broken.progress.skipped == 7


def test_dropout_is_keyed_by_position_and_worker(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers must not drop the same places of their rows, nor one worker the same in two steps."""
    config = make_config("stage1", *STEPS)
    run = prepare(config, "stage1")
    assert run is not None
    seeds = []
    for rank in (0, 1, 0):
        worker = trainer(config, run)
        forward = worker.engine.forward

        def noted(batch: Any, forward: Any = forward) -> torch.Tensor:
            seeds.append(torch.initial_seed())
            return forward(batch)

        loaded = [worker._load(position) for position in range(2)]
        worker.engine.rank = rank
        monkeypatch.setattr(worker.engine, "forward", noted)
        for batches, count in loaded:
            worker.train_step(batches, count)
    assert len(set(seeds[:4])) == 4
    assert seeds[4:] == seeds[:2]


def test_too_many_broken_batches_end_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("stage1", "train.max_skipped=3")
    run = prepare(config, "stage1")
    assert run is not None
    broken = trainer(config, run)
    forward = broken.engine.forward
    monkeypatch.setattr(broken.engine, "forward", lambda batch: forward(batch) * torch.inf)
    with pytest.raises(DivergedError, match=r"3 steps in a row .* lower train\.lr"):
        broken.fit()


def test_listener_and_report_hear_of_everything(make_config: MakeConfig) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.keys: set[str] = set()
            self.files: list[str] = []
            self.sounds: list[tuple[str, int]] = []
            self.steps: list[int] = []

        def begin(self, step: int) -> None:
            self.steps.append(step)

        def checkpoint(self, uri: str, step: int) -> None:
            assert uri.endswith(f"checkpoints/step-{step:06d}")
            self.steps.append(step)

        def metrics(self, values: dict[str, float], step: int) -> None:
            self.keys |= values.keys()

        def artifacts(self, uris: list[str]) -> None:
            self.files += uris

        def samples(self, uris: list[str], step: int) -> None:
            self.sounds += [(uri, step) for uri in uris]

    config = make_config("stage1", "train.samples_every=3")
    run = prepare(config, "stage1")
    assert run is not None
    recorder, reports = Recorder(), []
    trainer(config, run, listener=recorder, report=reports.append).fit()
    train_keys = ("loss", "lr", "grad_norm", "tokens_per_s", "skipped", "peak_memory_gb")
    assert {
        "val/own",
        "val/shuffled",
        "val/null",
        "summary/flops",
        *(f"train/{key}" for key in train_keys),
    } <= recorder.keys
    assert recorder.files == [run.summary]
    name = "0-sound-number-0-version-0.wav"
    assert recorder.sounds == [(run.path("samples", "step-000003", name), 3), (run.path("samples", name), 4)]
    assert recorder.steps == [0, 2, 4]
    assert reports == [{"step": 2}, {"step": 4}]


def test_training_leaves_the_processors_mode_as_it_was(make_config) -> None:
    train(make_config("stage1"), "stage1")
    assert float(torch.tensor(1e-40) * 1) > 0


def test_killed_before_its_summary_a_run_has_each_row_once(make_config: MakeConfig) -> None:
    """Its last checkpoint is there, and it is validated again."""
    config = make_config("stage1", "train.name=late")
    run = train(config, "stage1")
    logs = (run.metrics, run.validation)

    def figures() -> list[dict[str, float]]:
        return [{key: row[key] for key in row if key != "seconds"} for log in logs for row in read_rows(log)]

    before = figures()
    storage.remove_tree(run.summary)
    train(config, "stage1")
    assert figures() == before
    assert storage.exists(run.summary)
