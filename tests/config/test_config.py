"""Configuration: presets, precedence, dotted overrides, errors that name the key. Of the keys, see test_keys.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ssmttm.config import SECTIONS, from_dict, load, parse_arguments, preset_names
from ssmttm.config.loading import _merge
from ssmttm.errors import UserError

JOBS = ["codec", "preprocess", "stage1", "stage2", "evaluate"]


def fields_of_type(kind: type) -> list[tuple[str, str]]:
    return [
        (section, name)
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
        if field.annotation is kind
    ]


@pytest.mark.parametrize("job", [None, *JOBS])
@pytest.mark.parametrize("preset", preset_names())
def test_presets_resolve_for_every_job(preset: str, job: Any) -> None:
    config = load(preset, job=job)
    assert config.preset == preset
    assert from_dict(config.model_dump(mode="json")) == config


def test_precedence_is_defaults_preset_job_overrides(tmp_path: Path) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text("train: {steps: 11, lr: 0.5}\njobs: {stage2: {train: {steps: 22}}}\n")
    assert load(str(preset)).train.steps == 11
    assert load(str(preset), job="stage2").train.steps == 22
    config = load(str(preset), ["train.steps=33"], job="stage2")
    assert (config.train.steps, config.train.lr, config.train.seed) == (33, 0.5, 0)


@given(st.sampled_from(fields_of_type(int)), st.integers(2, 200))
def test_integer_overrides_change_exactly_one_value(field: tuple[str, str], value: int) -> None:
    section, name = field
    expected = load("mini").model_dump()
    expected[section][name] = value
    assert load("mini", [f"{section}.{name}={value}"]).model_dump() == expected


@given(st.sampled_from(["train.lr", "train.weight_decay", "train.clip"]), st.floats(1e-9, 1e6))
def test_float_overrides_survive_any_notation(key: str, value: float) -> None:
    section, name = key.split(".")
    for text in (repr(value), f"{value:.17e}"):
        assert getattr(getattr(load("mini", [f"{key}={text}"]), section), name) == value


@given(st.lists(st.tuples(st.sampled_from(fields_of_type(int)), st.integers(2, 99)), min_size=1, max_size=8))
def test_the_last_override_of_a_key_wins(changes: list[tuple[tuple[str, str], int]]) -> None:
    config = load("tiny", [f"{section}.{name}={value}" for (section, name), value in changes]).model_dump()
    for (section, name), value in dict(changes).items():
        assert config[section][name] == value


@given(st.recursive(st.integers(), lambda leaf: st.dictionaries(st.sampled_from("abc"), leaf, max_size=3)))
def test_merging_is_idempotent_and_keeps_what_is_not_changed(tree: Any) -> None:
    table = {"root": tree}
    assert _merge(table, table) == table
    assert _merge(table, {}) == table
    assert _merge({}, table) == table


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_name_the_nearest(section: str) -> None:
    name = next(iter(SECTIONS[section].model_fields))
    with pytest.raises(UserError, match=rf"unknown key {section}\.{name}x; did you mean {section}\.{name}\?"):
        load("mini", [f"{section}.{name}x=1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage9.layers=1"], "unknown key stage9; did you mean stage"),
        (["train.steps"], "write section.key=value"),
        (["=3"], "write section.key=value"),
        (["train.steps=0"], "train.steps: "),
        (["train.steps=many"], "train.steps: .*'many'"),
        (["train.zero=4"], "train.zero: "),
        (["stage1=5"], "stage1: "),
    ],
)
def test_bad_overrides_are_one_line_naming_the_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load("mini", overrides)
    assert "\n" not in str(error.value)


def test_bad_presets_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown preset 'huge'; use one of mini"):
        load("huge")
    with pytest.raises(UserError, match=r"missing\.yaml does not exist"):
        load(str(tmp_path / "missing.yaml"))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match="must be a table of sections"):
        load(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("train: {steps: 3")
    with pytest.raises(UserError, match="not valid YAML") as error:
        load(str(tmp_path / "broken.yaml"))
    assert "\n" not in str(error.value)


def test_configuration_is_frozen() -> None:
    config = load("tiny")
    with pytest.raises(ValidationError):
        config.train.steps = 3  # type: ignore[misc]


def test_show_prints_a_preset_that_resolves_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_arguments("A job.", "stage1", ["--preset", "tiny", "--show", "train.steps=7"])
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert from_dict(shown) == load("tiny", ["train.steps=7"], job="stage1")
