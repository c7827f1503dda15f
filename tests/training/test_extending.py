"""Runs that are given other steps than they were started with: only where no step done would have been another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_trainer import figures, trainer

from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.training.checkpoint import CheckpointStore
from ssmttm.training.launch import train
from ssmttm.training.run import Run, prepare
from ssmttm.training.session import TrainingStoppedError
from ssmttm.training.writer import read_rows

MakeConfig = Callable[..., Config]
# Warm-up of one step; of 8 steps the decay takes the last two, of 12 the last three.
WSD = ("train.schedule=wsd", "train.decay_share=0.25", "train.checkpoint_every=3", "stage1.dropout=0.2")


def stopped(config: Config, step: int) -> Run:
    """A run that was stopped after so many steps."""
    run = prepare(config, "stage1")
    assert run is not None
    begun = trainer(config, run, stop_requested=lambda: begun.progress.step + 1 == step)
    with pytest.raises(TrainingStoppedError):
        begun.fit()
    return run


def test_wsd_goes_on_with_more_steps_until_its_decay_begins(make_config: MakeConfig) -> None:
    """The figures are those of a run that had been asked for all the steps at once."""
    whole = train(make_config("stage1", *WSD, "train.steps=12", "train.name=whole"), "stage1")
    for step in (3, 6):
        stopped(make_config("stage1", *WSD, "train.steps=8", f"train.name=from{step}"), step)
        longer = train(make_config("stage1", *WSD, "train.steps=12", f"train.name=from{step}"), "stage1")
        assert figures(longer) == figures(whole)
        assert storage.read_json(longer.summary)["steps"] == 12


def test_wsd_is_not_extended_once_it_has_decayed(make_config: MakeConfig) -> None:
    run = stopped(make_config("stage1", *WSD, "train.steps=8"), 7)
    longer = ("stage1", *WSD, "train.steps=12")
    message = (
        r"train\.steps=8, now 12, which changes the learning rate of step 7, of 7 done; choose another train\.name and "
        r"train\.resume=(\S+/step-000006)$"
    )
    with pytest.raises(UserError, match=message) as error:
        train(make_config(*longer), "stage1")
    # What the message names works: the plateau's last checkpoint, kept however old.
    remedy = str(error.value).rsplit("train.resume=", 1)[1]
    other = train(make_config(*longer, "train.name=other", f"train.resume={remedy}"), "stage1")
    whole = train(make_config(*longer, "train.name=whole"), "stage1")
    assert figures(other) == figures(whole)[6:]
    assert run.uri != other.uri


def test_the_last_checkpoint_before_the_decay_stays(make_config: MakeConfig) -> None:
    few = ("train.checkpoint_every=3", "train.keep_checkpoints=1")
    run = train(make_config("stage1", *WSD, *few, "train.steps=20"), "stage1")
    assert CheckpointStore(run.checkpoints, 1).committed() == [15, 20]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_finished_run_that_decayed_is_not_extended(make_config: MakeConfig, schedule: str) -> None:
    settings = ("stage1", *WSD, f"train.schedule={schedule}")
    run = train(make_config(*settings, "train.steps=4"), "stage1")
    before = storage.read_json(run.summary)
    with pytest.raises(UserError, match=r"train\.steps=4, now 8, which changes the learning rate"):
        train(make_config(*settings, "train.steps=8"), "stage1")
    assert storage.read_json(run.summary) == before
    assert storage.read_json(run.path("config.json"))["train"]["steps"] == 4


def test_cosine_takes_no_other_steps_after_its_warm_up(make_config: MakeConfig) -> None:
    stopped(make_config("stage1", "train.steps=8", "train.warmup_steps=3"), 4)
    with pytest.raises(UserError, match=r"train\.steps=8, now 9, which changes the learning rate of step 4, of 4 done"):
        train(make_config("stage1", "train.steps=9", "train.warmup_steps=3"), "stage1")


def test_a_constant_rate_can_go_on_after_its_end(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    constant = ("stage1", "train.schedule=constant", "stage1.dropout=0.2")
    whole = train(make_config(*constant, "train.steps=6", "train.name=whole"), "stage1")
    run = train(make_config(*constant, "train.steps=3"), "stage1")
    capsys.readouterr()
    train(make_config(*constant, "train.steps=2"), "stage1")
    assert "already finished" in capsys.readouterr().out
    train(make_config(*constant, "train.steps=6"), "stage1")
    assert figures(run) == figures(whole)
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(1, 7))
    assert storage.read_json(run.summary)["steps"] == 6


def test_a_constant_rate_may_end_in_a_decay(make_config: MakeConfig) -> None:
    """What no step done would have noticed is allowed: the schedule itself may change."""
    whole = train(make_config("stage1", *WSD, "train.steps=8", "train.name=whole"), "stage1")
    train(make_config("stage1", *WSD, "train.schedule=constant", "train.steps=5"), "stage1")
    run = train(make_config("stage1", *WSD, "train.steps=8"), "stage1")
    assert figures(run) == figures(whole)


def test_a_finished_run_without_checkpoints_is_not_begun_again(make_config: MakeConfig) -> None:
    run = train(make_config("stage1", "train.schedule=constant"), "stage1")
    storage.remove_tree(run.checkpoints)
    with pytest.raises(UserError, match="has no checkpoint left to go on from"):
        train(make_config("stage1", "train.schedule=constant", "train.steps=9"), "stage1")
    assert storage.exists(run.summary)


def test_a_run_of_before_that_lacks_a_key_goes_on(make_config: MakeConfig) -> None:
    config = make_config("stage1", "train.steps=8")
    run = stopped(config, 4)
    stored = storage.read_json(run.path("config.json"))
    del stored["stage1"]["crop_frames"], stored["train"]["ema"], stored["train"]["keep_best"]
    storage.write_json(run.path("config.json"), stored)
    assert prepare(config, "stage1") == run
