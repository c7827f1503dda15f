"""A mixer that is registered here alone trains, steps as it reads, is exported, plays and is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssmttm.config import Config, Stage1Config
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError
from ssmttm.model.lm import MusicLM
from ssmttm.model.mixers.base import Mixer
from ssmttm.model.mixers.registry import BACKBONES, MIXERS, Backbone
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train


class LeakyState(NamedTuple):
    mean_BD: Tensor


class Leaky(Mixer):
    """What was heard so far, each channel fading at its own rate."""

    fixed_state = True
    never_decayed = ("rate",)

    def __init__(self, width: int):
        super().__init__()
        self.rate = nn.Parameter(torch.linspace(-1, 3, width)[None])  # a matrix, which would decay
        self.out = nn.Linear(width, width, bias=False)

    @classmethod
    def of(cls, config: Stage1Config) -> Leaky:
        return cls(config.width)

    def initial_state(self, batch: int, device: torch.device) -> LeakyState:
        return LeakyState(torch.zeros(batch, self.rate.shape[1], dtype=self.rate.dtype, device=device))

    def forward(
        self, x_BLD: Tensor, state: LeakyState | None = None, mask_BL: Tensor | None = None, bidirectional: int = 0
    ) -> tuple[Tensor, LeakyState]:
        mean_BD = (state or self.initial_state(len(x_BLD), x_BLD.device)).mean_BD
        kept_1D, steps = self.rate.sigmoid(), []
        for step in range(x_BLD.shape[1]):
            moved_BD = kept_1D * mean_BD + (1 - kept_1D) * x_BLD[:, step]
            mean_BD = moved_BD if mask_BL is None else torch.where(mask_BL[:, step, None], moved_BD, mean_BD)
            steps.append(mean_BD)
        if x_BLD.shape[1] == 1 and state is not None and not torch.is_grad_enabled():
            mean_BD = state.mean_BD.copy_(mean_BD)
        return self.out(torch.stack(steps, dim=1)), LeakyState(mean_BD)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "leaky", Leaky)
    monkeypatch.setitem(BACKBONES, "prefix_leaky", Backbone("leaky"))
    monkeypatch.setitem(BACKBONES, "cross_leaky_pair", Backbone("leaky", second="leaky", is_cross=True))


@pytest.mark.parametrize("backbone", ["prefix_leaky", "cross_leaky_pair"])
@torch.no_grad()
def test_steps_are_the_whole(backbone: str) -> None:
    from batches import doubled

    from ssmttm.conditions.text import collate_text

    torch.manual_seed(0)
    config = Stage1Config(backbone=backbone, width=16, layers=2, head_dim=8, codebook_features=False)
    lm = MusicLM(config, 11, {"text": 6}).double().eval()
    rng = np.random.default_rng(0)
    text = doubled(collate_text([rng.normal(size=(length, 6)).astype(np.float16) for length in (3, 5)]))
    codes_BKS = torch.from_numpy(rng.integers(0, 11, (2, 1, 9)))
    full, (logits, state) = lm(codes_BKS, text), lm.prefill(text)
    for step in range(9):
        torch.testing.assert_close(logits, full[:, :, step], rtol=1e-9, atol=1e-9)
        logits, state = lm.step(codes_BKS[:, :, step], state)


def test_it_does_not_decay() -> None:
    config = Stage1Config(backbone="prefix_leaky", width=16, layers=1, head_dim=8, codebook_features=False)
    lm = MusicLM(config, 11, {"text": 6})
    decayed = {id(p) for group in lm.optimizer_groups(1e-3, 0.1) if group["weight_decay"] for p in group["params"]}
    mixer: Any = lm.blocks[0].mixer
    assert id(mixer.rate) not in decayed
    assert id(mixer.out.weight) in decayed


def test_it_goes_all_the_way(
    tiny_config: Config, tiny_tokens: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config_of(stage: str) -> Config:
        training = {"out": str(tmp_path), "name": stage, "steps": 3}
        stage1 = tiny_config.stage1.model_copy(update={"backbone": "prefix_leaky"})
        return tiny_config.model_copy(update={"stage1": stage1, "train": tiny_config.train.model_copy(update=training)})

    runs = [train(config_of(stage), stage).uri for stage in ("stage1", "stage2")]
    export_bundle(*runs, f"{tmp_path}/bundle")
    alone = Generator.load(f"{tmp_path}/bundle").generate("calm piano", 1.0, seed=3)
    with Generator.load(f"{tmp_path}/bundle", slots=2) as generator:  # as it is served
        together = generator.generate("calm piano", 1.0, seed=3)
    assert np.abs(alone.samples).max() > 0
    np.testing.assert_allclose(alone.samples, together.samples, atol=1e-4)


def test_an_unknown_backbone_is_refused_before_anything_begins(make_config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"stage1\.backbone=prefix_leeky is unknown; did you mean prefix_leaky\?"):
        train(make_config("stage1", "stage1.backbone=prefix_leeky"), "stage1")
