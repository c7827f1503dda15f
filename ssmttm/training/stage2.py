"""Stage 2: learning to complete coarse latents by fine ones.

Shapes: B batch, T frames, Dc / Df coarse / fine latent dimensions, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.conditions.base import Conditions
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.model.diffusion import LatentCompleter, Sampler
from ssmttm.model.weights import describe_widths
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.stage_task import Asked, StageTask, decode_samples, draw_caption, text_statistics

STATISTICS_ROWS = 512
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class LatentBatch:
    """Fine and coarse latents float32 [B, D, T] with conditions, time, noise, which frames are real and which rows are
    to do without coarse latents. In validation `t_B` is the level, the share of data, whatever the objective's time."""

    fine_BDT: Tensor
    coarse_BDT: Tensor
    conditions: Conditions
    t_B: Tensor
    noise_BDT: Tensor
    mask_BT: Tensor
    coarse_null_B: Tensor
    count: int
    is_validation: bool

    def to(self, device: torch.device) -> LatentBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if not isinstance(value, (int, bool))}
        return replace(self, **moved)


@dataclass(frozen=True)
class LatentSample:
    """One row's latents [D, T] with its time and noise, and whether its coarse latents are dropped."""

    fine: np.ndarray
    coarse: np.ndarray
    t: float
    noise: np.ndarray
    coarse_null: bool = False


def collate_latents(samples: list[LatentSample], conditions: Conditions, is_validation: bool = False) -> LatentBatch:
    """Pad at the end to the longest row."""
    longest = max(sample.fine.shape[1] for sample in samples)

    def stack(name: str) -> Tensor:
        values = [getattr(sample, name) for sample in samples]
        out = np.zeros((len(values), values[0].shape[0], longest), np.float32)
        for row, value in zip(out, values, strict=True):
            row[:, : value.shape[1]] = value
        return torch.from_numpy(out)

    lengths = torch.tensor([sample.fine.shape[1] for sample in samples])
    return LatentBatch(
        stack("fine"),
        stack("coarse"),
        conditions,
        torch.tensor([sample.t for sample in samples], dtype=torch.float32),
        stack("noise"),
        torch.arange(longest)[None] < lengths[:, None],
        torch.tensor([sample.coarse_null for sample in samples]),
        int(lengths.sum()),
        is_validation,
    )


def _noise(shape: tuple[int, ...], *key: object) -> Tensor:
    return torch.from_numpy(keyed_generator(*key).standard_normal(shape, np.float32))


class Stage2Task(StageTask):
    """Prediction at a random time of the path from noise to the fine latents."""

    name = "stage2"

    def __init__(self, config: Config):
        if config.generation.steps is None:
            raise UserError("generation.steps=null, but stage 2 is sampled in steps; give their number, e.g. 8")
        super().__init__(config, with_fine=True)
        self.unit = {"l2": "squared error/frame", "l1": "absolute error/frame"}[config.stage2.loss]

    @cached_property
    def _coarse_table(self) -> np.ndarray:
        """Coarse vector of every code: coarse latents are a look-up, frame by frame."""
        with torch.no_grad():
            return self.codec.coarse(torch.arange(self.codec.codebook_size)[None])[0].T.contiguous().numpy()

    def _coarse(self, codes_KT: np.ndarray) -> np.ndarray:
        return self._coarse_table[codes_KT[0]].T

    def build(self) -> nn.Module:
        codec = self.codec
        module = LatentCompleter(self.config.stage2, codec.fine_dim, codec.coarse_dim, self.widths)
        rows = range(0, len(self.data), max(1, len(self.data) // STATISTICS_ROWS))
        coarse = torch.from_numpy(np.concatenate([self._coarse(self.data.codes(i)) for i in rows], axis=1))
        fine = torch.from_numpy(np.concatenate([self.data.fine(i) for i in rows], axis=1).astype(np.float32))
        module.set_statistics(coarse.mean(1), coarse.std(1, correction=0), fine.mean(1), fine.std(1, correction=0))
        module.set_text_statistics(text_statistics(self.data))
        return module

    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, LatentCompleter)
        return module.optimizer_groups(self.config.train.lr, self.config.train.weight_decay)

    def count(self, draw: Draw) -> int:
        return self.frames(draw)

    def collate(self, draws: list[Draw]) -> LatentBatch:
        samples, asked = [], []
        for draw in draws:
            generator = keyed_generator("stage2", self.config.train.seed, draw.epoch, self.data.rows[draw.row]["id"])
            is_null = bool(generator.random() < self.config.stage2.null_probability)
            states_SD = draw_caption(self.data, draw, generator)
            t, length = float(generator.random()), self.count(draw)
            start = int(generator.integers(self.data.frames(draw.row) - length + 1))
            fine = self.data.fine(draw.row)[:, start : start + length]
            coarse = self._coarse(self.data.codes(draw.row)[:, start : start + length])
            noise = generator.standard_normal(fine.shape, np.float32)
            coarse_null = bool(generator.random() < self.config.stage2.coarse_null_probability)
            samples.append(LatentSample(fine, coarse, t, noise, coarse_null))
            asked.append(Asked(draw, states_SD, is_null, start, length))
        return collate_latents(samples, self.conditions(asked))

    def loss(self, module: nn.Module, batch: LatentBatch) -> Tensor:
        assert isinstance(module, LatentCompleter)
        given = (batch.fine_BDT, batch.coarse_BDT, batch.conditions, batch.t_B, batch.noise_BDT, batch.mask_BT)
        total, _ = module.validation_loss(*given) if batch.is_validation else module.loss(*given, batch.coarse_null_B)
        return total

    def validation_variants(self, final: bool) -> list[str]:
        """Each row's own text or none, at each of the fixed levels (for flow matching, times); see
        `LatentCompleter.validation_loss` for why objectives compare."""
        return [f"{text}@{t}" for text in ("own", "null") for t in VALIDATION_TIMES]

    def collate_validation(self, rows: list[int], variant: str) -> LatentBatch:
        text, t = variant.split("@")
        samples = []
        for i in rows:
            fine = self.validation.fine(i)
            noise = keyed_generator("validation", self.validation.id(i), t).standard_normal(fine.shape, np.float32)
            samples.append(LatentSample(fine, self._coarse(self.validation.codes(i)), float(t), noise))
        return collate_latents(samples, self.validation.conditions(rows, text), is_validation=True)

    def summarise_validation(self, losses: dict[str, float]) -> dict[str, float]:
        """The mean over the fixed times with own and without text, and the loss at each time."""
        means = {text: float(np.mean([losses[f"{text}@{t}"] for t in VALIDATION_TIMES])) for text in ("own", "null")}
        return means | {f"t{t}": losses[f"own@{t}"] for t in VALIDATION_TIMES}

    def describe(self, module: nn.Module) -> dict[str, Any]:
        assert isinstance(module, LatentCompleter)
        return {
            "config": self.config.stage2.model_dump(mode="json"),
            "fine_dim": module.fine_dim,
            "coarse_dim": module.coarse_dim,
            **describe_widths(module.widths),
        }

    @torch.no_grad()
    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """True coarse codes of validation rows with sampled fine latents."""
        assert isinstance(module, LatentCompleter)
        samples = []
        for i in range(min(count, len(self.validation))):
            codes0_1T = torch.from_numpy(self.validation.codes(i)[:1].astype(np.int64))
            shape, settings = (1, module.fine_dim, codes0_1T.shape[1]), self.config.generation
            noise = partial(_noise, shape, "sample", self.validation.id(i))
            assert settings.steps is not None
            fine_BDT = module.sample(
                self.codec.coarse(codes0_1T),
                self.validation.conditions([i]),
                noise(),
                Sampler.of(settings, settings.steps, settings.stage2_guidance),
                fresh=noise,
            )
            samples += decode_samples(self.codec, codes0_1T, fine_BDT, [self.validation.prompt(i)])
        return samples
