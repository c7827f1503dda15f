"""Runs that start from trained weights, and what they tell of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_bundle import shared_single_stage

from ssmttm import storage
from ssmttm.bundle import initial
from ssmttm.bundle.load import read_costs
from ssmttm.config import Config, from_dict
from ssmttm.errors import UserError
from ssmttm.model.weights import load_tensors
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train
from ssmttm.training.stage1 import Stage1Task
from ssmttm.training.writer import read_rows

Tuned = Callable[..., Config]


@pytest.fixture(scope="module")
def base(tiny_config: Config, tiny_tokens: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Runs of both stages, and their bundle."""
    out = str(tmp_path_factory.mktemp("base"))
    values = tiny_config.model_dump()
    values["train"] |= {"out": out, "steps": 2, "samples": 0}
    config = from_dict(values)
    runs = train(config, "stage1").uri, train(config, "stage2").uri
    return *runs, export_bundle(*runs, f"{out}/bundle", half=True)


@pytest.fixture
def tuned(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> Tuned:
    """Settings of a run of one step that starts from given weights."""

    def make(uri: str, stage: str = "stage1", **section: object) -> Config:
        values = tiny_config.model_dump()
        values["train"] |= {"out": str(tmp_path), "steps": 1, "samples": 0, "init": uri, "lr": 1e-9}
        values[stage] |= section
        return from_dict(values)

    return make


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_goes_on_from_a_runs_and_from_a_bundles_weights(
    base: tuple[str, str, str], tuned: Tuned, stage: str, tmp_path: Path
) -> None:
    source = base[0 if stage == "stage1" else 1]
    for uri, tensors in ((source, f"{source}/weights/model.safetensors"), (base[2], f"{base[2]}/{stage}.safetensors")):
        run = train(tuned(uri, stage), stage)
        ours, theirs = load_tensors(f"{run.weights}/model.safetensors"), load_tensors(tensors)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():  # after a step of next to no length
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7)
        shutil.rmtree(run.uri)


def without(config: Config, *modules: str) -> Config:
    values = config.model_dump()
    values["train"]["init_without"] = list(modules)
    return from_dict(values)


def test_named_modules_start_at_random_all_the_same(base: tuple[str, str, str], tuned: Tuned, tmp_path: Path) -> None:
    config = without(tuned(base[0]), "pooled_proj", "null_pooled")
    ours = load_tensors(f"{train(config, 'stage1').weights}/model.safetensors")
    theirs = load_tensors(f"{base[0]}/weights/model.safetensors")
    torch.manual_seed(config.train.seed)
    fresh = Stage1Task(config).build().state_dict()
    changed = {name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7)}
    assert changed == {f"inputs.text.{name}" for name in ("pooled_proj.weight", "pooled_proj.bias", "null_pooled")}
    for name in changed:
        torch.testing.assert_close(ours[name], fresh[name], rtol=1e-6, atol=1e-7)


def test_a_module_that_is_not_there_cannot_be_left_out(base: tuple[str, str, str], tuned: Tuned) -> None:
    config = without(tuned(base[0]), "pooled")
    with pytest.raises(UserError, match=r"init_without=pooled names nothing in stage1; its modules: .*pooled_proj"):
        train(config, "stage1")


def test_its_first_loss_is_that_of_the_weights(base: tuple[str, str, str], tuned: Tuned, tmp_path: Path) -> None:
    fresh = tuned(base[0]).model_copy(update={"train": tuned(base[0]).train.model_copy(update={"init": None})})
    untrained = read_rows(train(fresh, "stage1").metrics)[0]["loss"]
    shutil.rmtree(tmp_path / "stage1")
    assert read_rows(train(tuned(base[0]), "stage1").metrics)[0]["loss"] < untrained


def test_settings_of_training_alone_may_differ(base: tuple[str, str, str], tuned: Tuned) -> None:
    train(tuned(base[2], dropout=0.25, token_dropout=0.5), "stage1")


def test_what_does_not_fit_is_refused_with_the_remedy(
    base: tuple[str, str, str], tuned: Tuned, tiny_tokens: str, tmp_path: Path
) -> None:
    layers = storage.read_json(f"{base[2]}/config.json")["stage1"]["config"]["layers"]
    with pytest.raises(UserError, match=rf"has stage1\.layers={layers}, this run 7; set stage1\.layers={layers}"):
        train(tuned(base[2], layers=7), "stage1")
    with pytest.raises(UserError, match="holds no trained model; give a bundle or the folder of a finished run"):
        train(tuned(str(tmp_path / "nothing")), "stage1")
    with pytest.raises(UserError, match="holds a stage1 model"):
        train(tuned(base[0], "stage2"), "stage2")
    assert not (tmp_path / "stage1" / "config.json").exists()


def test_stage_2_cannot_start_from_a_single_stage(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UserError, match="is of a single stage and has no stage2"):
        train(tuned(shared_single_stage(tmp_path_factory), "stage2"), "stage2")


@pytest.mark.parametrize(("part", "message"), [("codec", r"another codec's codes.*codec\.path="), ("text", "states")])
def test_weights_of_another_codec_or_text_encoder_are_refused(
    base: tuple[str, str, str], tuned: Tuned, tmp_path: Path, part: str, message: str
) -> None:
    other = str(shutil.copytree(base[0], tmp_path / "other"))
    description = storage.read_json(f"{other}/weights/model.json")
    description[part]["fingerprint"] = "f" * 16
    storage.write_json(f"{other}/weights/model.json", description)
    with pytest.raises(UserError, match=message):
        train(tuned(other), "stage1")


def test_a_damaged_bundle_is_refused(base: tuple[str, str, str], tuned: Tuned, tmp_path: Path) -> None:
    broken = shutil.copytree(base[2], tmp_path / "broken")
    (broken / "stage1.safetensors").write_bytes(b"not these")
    with pytest.raises(UserError, match=r"stage1\.safetensors"):
        train(tuned(str(broken)), "stage1")


def test_a_run_that_has_a_checkpoint_needs_its_first_weights_no_more(
    base: tuple[str, str, str], tuned: Tuned, tmp_path: Path
) -> None:
    copy = str(shutil.copytree(base[2], tmp_path / "copy"))
    config = tuned(copy)
    train(config, "stage1")
    shutil.rmtree(copy)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2, "schedule": "constant"})})
    assert [row["step"] for row in read_rows(train(longer, "stage1").metrics)] == [1, 2]


def test_what_the_first_weights_learned_from_stays_named(
    base: tuple[str, str, str], tuned: Tuned, tmp_path: Path
) -> None:
    older = str(shutil.copytree(base[2], tmp_path / "older"))
    head, *rows = storage.read_text(f"{older}/ATTRIBUTION.csv").splitlines()
    foreign = rows[0].replace(rows[0].split(",")[0], "a-track-of-before")
    assert rows[0].endswith(",stage1 stage2")
    storage.write_text(f"{older}/ATTRIBUTION.csv", "\n".join([head, foreign]) + "\n")
    storage.write_commit(older, "bundle.json", {"model_id": "ssmttm-before-12345678"})
    run = train(tuned(older), "stage1")
    assert initial.started_from(run.uri) == "ssmttm-before-12345678"
    out = export_bundle(run.uri, base[1], str(tmp_path / "bundle"))
    lines = storage.read_text(f"{out}/ATTRIBUTION.csv").splitlines()
    assert lines[0] == head
    assert {foreign.replace("stage1 stage2", "stage1"), *rows} == set(lines[1:])
    card = storage.read_text(f"{out}/README.md")
    assert "stage1 did not begin with random weights but with those of `ssmttm-before-12345678`" in card
    assert "stage2 did not begin" not in card


@pytest.mark.parametrize("start", ["run", "bundle", "untold"])
def test_what_the_first_weights_cost_is_counted(
    base: tuple[str, str, str], tuned: Tuned, tmp_path: Path, start: str
) -> None:
    first = str(shutil.copytree(base[0] if start == "run" else base[2], tmp_path / "first"))
    if start == "untold":
        content = storage.read_json(f"{first}/config.json")
        del content["costs"]
        storage.write_json(f"{first}/config.json", content)
        storage.write_commit(first, "bundle.json", {"model_id": "untold"})
    run = train(tuned(first), "stage1")
    again = tuned(run.uri)
    again = again.model_copy(update={"train": again.train.model_copy(update={"name": "again"})})
    out = export_bundle(train(again, "stage1").uri, base[1], str(tmp_path / "bundle"))
    flops = [storage.read_json(f"{uri}/summary.json")["flops"] for uri in (base[0], run.uri, str(tmp_path / "again"))]
    costs = read_costs(out)
    own = storage.read_json(f"{base[1]}/summary.json")["flops"]
    assert costs["stage2"].flops == own
    assert "with those of `stage1`" in storage.read_text(f"{out}/README.md")  # a run's name, without its place
    if start == "untold":
        assert "stage1" not in costs  # a part of it would be taken for all
    else:
        assert costs["stage1"].flops == sum(flops)
    said = f"their training is {'not ' if start == 'untold' else ''}part of the cost below."
    assert said in storage.read_text(f"{out}/README.md")


def test_nothing_can_be_left_out_of_no_weights(tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"train\.init_without leaves modules out of train\.init, and there is none"):
        train(without(tiny_config, "pooled_proj"), "stage1")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_weights_of_before_learn_to_read_numbers(
    tiny_config: Config, tiny_tokens: str, tuned: Tuned, tmp_path: Path, stage: str
) -> None:
    """At first they mean nothing, and all else is as it was."""
    values = tiny_config.model_dump()
    values["text"]["numbers"] = False
    values["corpus"]["out"] = values["train"]["data"] = str(tmp_path / "plain")
    values["train"] |= {"out": str(tmp_path / "plain-runs"), "steps": 1, "samples": 0}
    plain = from_dict(values)
    preprocess_local(plain)
    before = train(plain, stage)
    run = train(tuned(before.uri, stage), stage)
    ours, theirs = (load_tensors(f"{uri}/weights/model.safetensors") for uri in (run.uri, before.uri))
    longer = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert any(name.endswith("inputs.text.pooled_mean") for name in longer)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor[tuple(map(slice, theirs[name].shape))], theirs[name], rtol=1e-6, atol=1e-7)
        if name in longer and tensor.ndim == 2:
            assert tensor[:, theirs[name].shape[1] :].abs().max() < 1e-6
    back = plain.model_copy(update={"train": plain.train.model_copy(update={"init": run.uri, "name": "back"})})
    with pytest.raises(UserError, match="another text encoder's states"):  # but none forgets them
        train(back, stage)


def test_shards_with_numbers_are_not_taken_for_others(tiny_config: Config, tiny_tokens: str) -> None:
    values = tiny_config.model_dump()
    values["text"]["numbers"] = False
    with pytest.raises(UserError, match=r"text states with numbers beside them, but text\.numbers=False"):
        train(from_dict(values), "stage1")
