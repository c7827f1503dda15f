"""Controls by frame in both models: stepwise = full, heard at their own frame alone, nothing where they are unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from batches import doubled

from ssmttm.conditions.base import Conditions, ControlConditioner, Excerpt, FrameControl
from ssmttm.conditions.registry import CONDITIONERS
from ssmttm.conditions.text import token_states
from ssmttm.config import Stage1Config, Stage2Config
from ssmttm.model.delay import apply_delay
from ssmttm.model.denoisers.registry import DENOISERS, build_denoiser
from ssmttm.model.lm import MusicLM
from ssmttm.model.mixers.registry import BACKBONES
from ssmttm.model.slots import FixedRows

V, TEXT, FRAMES = 11, 6, 9
WIDTHS = {"text": TEXT, "height": 2}


class Height(ControlConditioner):
    name, channels = "height", 2

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        return None

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        return np.full((2, frames), float(value))


@pytest.fixture(autouse=True)
def _height() -> Iterator[None]:
    CONDITIONERS["height"] = Height
    yield
    del CONDITIONERS["height"]


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Parts that start at zero would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double().eval()


def make_lm(backbone: str, K: int = 1) -> MusicLM:
    torch.manual_seed(0)
    config = Stage1Config(
        backbone=backbone, width=16, layers=2, state_size=8, head_dim=8, chunk_size=4, num_codebooks=K, dropout=0.0,
        codebook_features=False,
    )  # fmt: skip
    return randomised(MusicLM(config, V, WIDTHS))


def asked(rows: int = 2, frames: int = FRAMES, seed: int = 0) -> Conditions:
    rng = np.random.default_rng(seed)
    heights = [np.where(rng.random((1, frames)) < 0.3, np.nan, rng.normal(size=(2, frames))) for _ in range(rows)]
    text = token_states([rng.normal(size=(3 + row, TEXT)).astype(np.float16) for row in range(rows)])
    return doubled(Conditions({"text": text, "height": FrameControl.of(heights)}))


def codes(rows: int = 2, K: int = 1, seed: int = 0) -> torch.Tensor:
    return apply_delay(torch.randint(0, V, (rows, K, FRAMES), generator=torch.Generator().manual_seed(seed)), V)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@torch.no_grad()
def test_stepwise_equals_full(backbone: str, K: int) -> None:
    lm, conditions, delayed = make_lm(backbone, K), asked(), codes(K=K)
    full = lm(delayed, conditions)
    steps = delayed.shape[-1]
    controls = lm.controls(conditions, steps)
    assert controls is not None
    logits, state = lm.prefill(conditions)
    for s in range(steps):
        torch.testing.assert_close(logits, full[:, :, s], rtol=1e-7, atol=1e-7)
        following = controls[:, s + 1] if s + 1 < steps else torch.zeros_like(controls[:, 0])
        logits, state = lm.step(delayed[:, :, s], state, following)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@torch.no_grad()
def test_a_control_is_heard_from_its_frame_on(backbone: str) -> None:
    lm, conditions, delayed = make_lm(backbone), asked(1), codes(1)
    where = 4
    height = conditions["height"]
    values = height.values_BCT.clone()
    values[:, :, where] += 1
    known = height.known_BT.clone()
    known[:, where] = True
    changed = Conditions({"text": conditions["text"], "height": FrameControl(values, known)})
    before, after = lm(delayed, conditions), lm(delayed, changed)
    assert torch.equal(before[:, :, :where], after[:, :, :where])
    assert not torch.allclose(before[:, :, where], after[:, :, where])


@torch.no_grad()
def test_a_model_begins_deaf_to_it_and_older_requests_leave_it_unknown() -> None:
    torch.manual_seed(0)
    config = Stage1Config(width=16, layers=2, state_size=8, head_dim=8, codebook_features=False)
    lm = MusicLM(config, V, WIDTHS).double().eval()
    conditions, delayed = asked(), codes()
    text_alone = Conditions({"text": conditions["text"]})
    assert torch.equal(lm(delayed, conditions), lm(delayed, text_alone))
    lm = make_lm("prefix_simba")
    assert not torch.allclose(lm(delayed, conditions), lm(delayed, text_alone))
    assert torch.equal(lm(delayed, conditions.as_null(["height"])), lm(delayed, text_alone))


@pytest.mark.parametrize("backbone", ["prefix_simba", "cross_simba"])
@torch.inference_mode()
def test_rows_of_slots_hear_their_own(backbone: str) -> None:
    lm, conditions, delayed = make_lm(backbone), asked(), codes()
    rows = FixedRows(lm, 2, tokens=6)
    state = rows.read(conditions)
    for row in (0, 1):
        rows.put(row, state, row)
    full = lm(delayed, conditions)
    controls = lm.controls(conditions, FRAMES)
    assert controls is not None
    token = torch.full((2, 1), lm.special)
    for s in range(FRAMES):
        torch.testing.assert_close(rows.step(token, controls[:, s]), full[:, :, s], rtol=1e-6, atol=1e-6)
        token = delayed[:, :, s]


@pytest.mark.parametrize("name", sorted(DENOISERS))
@torch.no_grad()
def test_stage_2_hears_it(name: str) -> None:
    torch.manual_seed(0)
    config = Stage2Config(denoiser=name, width=16, layers=1, head_dim=8, state_size=8)
    model = randomised(build_denoiser(config, 4, 3, WIDTHS))
    noisy, coarse = torch.randn(2, 4, FRAMES).double(), torch.randn(2, 3, FRAMES).double()
    t, conditions = torch.rand(2).double(), asked()
    base = model(noisy, t, coarse, conditions)
    assert not torch.allclose(base, model(noisy, t, coarse, conditions.as_null(["height"])))
    unknown = model(noisy, t, coarse, Conditions({"text": conditions["text"]}))
    assert torch.equal(unknown, model(noisy, t, coarse, conditions.as_null(["height"])))
