from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmttm.config import GenerationConfig
from ssmttm.engine.request import BOUNDS, DEFAULTS, MAX_SEED, MusicRequest, Sampling, check_prompt
from ssmttm.errors import UserError

ROOT = Path(__file__).parents[2]


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
    lowest = bounds.low + 1e-3 if bounds.above else bounds.low
    for value in (lowest, bounds.high):
        MusicRequest(**{"prompt": "x", name: value}).filled(config)
    outside = [bounds.low if bounds.above else bounds.low - 1, bounds.high + 1, float("nan"), float("inf")]
    for value in outside:
        with pytest.raises(UserError, match=f"^{name} is .*; give a"):
            MusicRequest(**{"prompt": "x", name: value}).filled(config)


def numbers(value: float) -> list[object]:
    """A number as other libraries have it."""
    kinds = [np.float32, np.float64, *([np.int64, np.int32, np.uint8] if value == int(value) else [])]
    return [*(kind(value) for kind in kinds), np.array(value), torch.tensor(value)]


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_of_other_libraries_become_pythons_own(name: str) -> None:
    bounds = BOUNDS[name]
    for value in numbers(3 if bounds.is_whole else 0.5):
        if bounds.is_whole and "int" not in str(value.dtype):  # type: ignore[attr-defined]
            continue
        request = MusicRequest(**{"prompt": "x", name: value})  # type: ignore[arg-type]
        kept = getattr(request, name)
        assert type(kept) in (int, float)
        assert kept == value
        assert type(getattr(request.filled(GenerationConfig()), name)) is type(kept)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_no_number_is_refused_by_name(name: str) -> None:
    whole = [1.0, 1.5, np.float64(1), math.inf, torch.tensor(1.0)] if BOUNDS[name].is_whole else []
    none = [] if name != "seconds" else [None]
    for value in ["1", True, np.True_, torch.tensor(True), 1j, [1], np.array([1, 2]), np.array([1]), {}, *whole, *none]:
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
