from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmttm.config import GenerationConfig
from ssmttm.engine.request import BOUNDS, DEFAULTS, MAX_SEED, MusicRequest, Sampling, check_prompt
from ssmttm.errors import UserError

ROOT = Path(__file__).parents[2]
BESIDE: dict[str, dict[str, object]] = {"bars": {"bpm": 100}, "control_guidance": {"controls": {"beat": 1}}}


def test_defaults_come_from_the_bundle() -> None:
    config = GenerationConfig(guidance=3.0, temperature=0.7, top_k=9, top_p=0.8, steps=4)
    request = MusicRequest("x").filled(config)
    assert request.sampling == Sampling(3.0, 0.7, 9, 0.8)
    assert request.steps == 4
    assert request.filled(GenerationConfig()) == request


def test_given_values_win_even_when_they_are_zero() -> None:
    request = MusicRequest("x", guidance=0.0, temperature=0.0, top_k=0, steps=1).filled(GenerationConfig())
    assert request.sampling == Sampling(0.0, 0.0, 0)
    assert request.steps == 1


def test_seeds_are_kept_or_drawn() -> None:
    config = GenerationConfig()
    assert MusicRequest("x", seed=5).filled(config).seed == 5
    drawn = {MusicRequest("x").filled(config).seed for _ in range(8)}
    assert len(drawn) > 1
    assert all(seed is not None and 0 <= seed < 2**32 for seed in drawn)


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_holds(name: str) -> None:
    bounds, config = BOUNDS[name], GenerationConfig(max_seconds=86_400)
    beside = {"prompt": "x", **BESIDE.get(name, {})}
    lowest = bounds.low + 1e-3 if bounds.above else bounds.low
    for value in (lowest, bounds.high):
        MusicRequest(**{**beside, name: value}).filled(config)
    outside = [bounds.low if bounds.above else bounds.low - 1, bounds.high + 1, float("nan"), float("inf")]
    for value in outside:
        with pytest.raises(UserError, match=f"^{name} is .*; give a"):
            MusicRequest(**{**beside, name: value}).filled(config)


def numbers(value: float) -> list[object]:
    """A number as other libraries have it."""
    kinds = [np.float32, np.float64, *([np.int64, np.int32, np.uint8] if value == int(value) else [])]
    return [*(kind(value) for kind in kinds), np.array(value), torch.tensor(value)]


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_of_other_libraries_become_pythons_own(name: str) -> None:
    bounds = BOUNDS[name]
    for value in numbers(3 if bounds.is_whole else max(0.5, bounds.low)):
        if bounds.is_whole and "int" not in str(value.dtype):  # type: ignore[attr-defined]
            continue
        beside = BESIDE.get(name, {})
        request = MusicRequest(**{"prompt": "x", **beside, name: value})  # type: ignore[arg-type]
        kept = getattr(request, name)
        assert type(kept) in (int, float)
        assert kept == value
        assert type(getattr(request.filled(GenerationConfig()), name)) is type(kept)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_no_number_is_refused_by_name(name: str) -> None:
    whole = [1.0, 1.5, np.float64(1), math.inf, torch.tensor(1.0)] if BOUNDS[name].is_whole else []
    for value in ["1", True, np.True_, torch.tensor(True), 1j, [1], np.array([1, 2]), np.array([1]), {}, *whole]:
        with pytest.raises(UserError, match=f"^{name} is .*; give a") as refused:
            MusicRequest(**{"prompt": "x", name: value})  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 160


def test_a_number_beyond_floats_is_refused() -> None:
    with pytest.raises(UserError, match=r"^seconds is 1000"):
        MusicRequest("x", 10**400).filled(GenerationConfig())


def test_messages_name_the_bounds() -> None:
    wrong = {
        "guidance is -0.1; give a number from 0 to 20": {"guidance": -0.1},
        "seconds is 601; give a length above 0 and up to 600": {"seconds": 601.0},
        "temperature is 1e-307; give a number from 0.01 to 5, or 0": {"temperature": 1e-307},
        "temperature is 0.009; give a number from 0.01 to 5, or 0": {"temperature": 0.009},
        "temperature is -1; give a number from 0.01 to 5, or 0": {"temperature": -1},
        "top_p is 0; give a number above 0 and up to 1": {"top_p": 0},
        f"seed is {MAX_SEED + 1}; give a whole number from 0 to {MAX_SEED}": {"seed": MAX_SEED + 1},
    }
    for said, field in wrong.items():
        with pytest.raises(UserError) as caught:
            MusicRequest(**{"prompt": "x", **field}).filled(GenerationConfig())
        assert str(caught.value) == said


@pytest.mark.parametrize(
    "prompt",
    ["", " \t\n", "\u200b", "\u200d\ufeff\u2060", "\xad", "\u034f\ufe0f", "\u3164\uffa0", "\u2800", "\u202e \u2028"],
)
def test_a_prompt_that_nobody_can_see_is_empty(prompt: str) -> None:
    with pytest.raises(UserError, match="the prompt is empty; describe the music"):
        check_prompt(prompt, 100)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a\0b", r"control character U\+0000; leave it out"),
        ("\x1b[31m", r"control character U\+001B"),
        ("a\x85", r"control character U\+0085"),
        ("a\ud800", "half of a surrogate pair"),
        ("x" * 101, "has 101 characters; shorten it to 100"),
        (None, "of type NoneType; give text"),
        (b"calm", "of type bytes; give text"),
    ],
)
def test_a_prompt_is_text_that_files_can_hold(prompt: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_prompt(prompt, 100)


def test_every_script_is_text() -> None:
    for prompt in ("calm piano\r\nslow", "ゆっくり", "हिन्दी", "👩\u200d🎤", "🪇", "!", "e\u0301"):
        check_prompt(prompt, 100)


def test_names_and_bounds_are_written_down_once() -> None:
    """Every door derives its own from them."""
    from serve.schema import ClipForm
    from ssmttm.cli import generate

    assert set(DEFAULTS) <= set(BOUNDS) <= set(ClipForm.model_fields)
    assert set(BOUNDS) <= set(generate.__annotations__)
    for name, bounds in BOUNDS.items():
        assert ClipForm.model_fields[name].description == bounds.help


def test_bars_are_a_length() -> None:
    request = MusicRequest("x", bpm=96.5, meter="3/4", bars=8)
    assert request.seconds == pytest.approx(8 * 3 * 60 / 96.5, abs=1e-9)
    assert replace(request, seed=3).filled(GenerationConfig()).seconds == request.seconds
    assert MusicRequest("x").seconds == 10
    for wrong, said in (
        ({"bars": 4}, "bars needs bpm, which says how long a bar is"),
        ({"bars": 4, "bpm": 100, "seconds": 3}, "seconds and bars both say how long the clip is; give one of them"),
    ):
        with pytest.raises(UserError, match=said):
            MusicRequest(**{"prompt": "x", **wrong})
    with pytest.raises(UserError, match="bars is 800, which takes 1920 s; give up to 600 s"):
        MusicRequest("x", bpm=100, bars=800).filled(GenerationConfig())


def test_what_was_asked_besides_text_is_told_as_json() -> None:
    assert MusicRequest("x", 3.0, 1, guidance=2.0).told == {}
    asked = {"bpm": 100, "chords": "Am | F", "drums": False, "controls": [{"at": "bar 2", "bass": None}]}
    asked["melody"] = [[0.0, 1.0, 60.0]]
    assert json.loads(json.dumps(MusicRequest("x", **asked).told)) == asked
    assert json.loads(json.dumps(MusicRequest("x", controls={"beat": {"bpm": 9}}).told)) == {
        "controls": {"beat": {"bpm": 9}}
    }
