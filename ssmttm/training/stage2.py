"""Stage 2: flow matching from coarse to fine latents.

Shapes: B batch, T frames, Dc / Df coarse / fine latent dimensions, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.codec.base import Codec, load_codec
from ssmttm.config import Config
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.text import TextBatch, collate_text
from ssmttm.training.data import TokenDataset
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.stage1 import decode_samples, draw_caption, text_statistics
from ssmttm.training.validation import ValidationSet

STATISTICS_ROWS = 512
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class LatentBatch:
    """Fine and coarse latents float32 [B, D, T] with text, time, noise, and which frames are real."""

    fine_BDT: Tensor
    coarse_BDT: Tensor
    text: TextBatch
    t_B: Tensor
    noise_BDT: Tensor
    mask_BT: Tensor
    count: int

    def to(self, device: torch.device) -> LatentBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "count"}
        return replace(self, **moved)


@dataclass(frozen=True)
class LatentSample:
    """One row's latents [D, T] with its time and noise."""

    fine: np.ndarray
    coarse: np.ndarray
    t: float
    noise: np.ndarray


def collate_latents(samples: list[LatentSample], text: TextBatch) -> LatentBatch:
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
        text,
        torch.tensor([sample.t for sample in samples], dtype=torch.float32),
        stack("noise"),
        torch.arange(longest)[None] < lengths[:, None],
        int(lengths.sum()),
    )


class Stage2Task:
    """Velocity prediction at a random time of the path from noise to the fine latents."""

    name, unit = "stage2", "squared error/frame"

    def __init__(self, config: Config):
        self.config = config
        self.data = TokenDataset.open(config.train.data, "train")
        self.validation = ValidationSet.open(config.train, with_fine=True)

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.data.info["codec"]["uri"])

    @cached_property
    def _coarse_table(self) -> np.ndarray:
        """Coarse vector of every code: coarse latents are a look-up, frame by frame."""
        with torch.no_grad():
            return self.codec.coarse(torch.arange(self.codec.codebook_size)[None])[0].T.contiguous().numpy()

    def _coarse(self, codes_KT: np.ndarray) -> np.ndarray:
        return self._coarse_table[codes_KT[0]].T

    def build(self) -> nn.Module:
        codec = self.codec
        module = LatentCompleter(self.config.stage2, codec.fine_dim, codec.coarse_dim, self.data.info["text"]["dim"])
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
        frames, crop = self.data.frames(draw.row), self.config.stage2.crop_frames
        return min(frames, crop) if crop else frames

    def collate(self, draws: list[Draw]) -> LatentBatch:
        samples, states, null = [], [], []
        for draw in draws:
            generator = keyed_generator("stage2", self.config.train.seed, draw.epoch, self.data.rows[draw.row]["id"])
            null.append(bool(generator.random() < self.config.stage2.null_probability))
            states.append(draw_caption(self.data, draw, generator))
            t, length = float(generator.random()), self.count(draw)
            start = int(generator.integers(self.data.frames(draw.row) - length + 1))
            fine = self.data.fine(draw.row)[:, start : start + length]
            coarse = self._coarse(self.data.codes(draw.row)[:, start : start + length])
            samples.append(LatentSample(fine, coarse, t, generator.standard_normal(fine.shape, np.float32)))
        return collate_latents(samples, collate_text(states, null))

    def loss(self, module: nn.Module, batch: LatentBatch) -> Tensor:
        assert isinstance(module, LatentCompleter)
        total, _ = module.loss(batch.fine_BDT, batch.coarse_BDT, batch.text, batch.t_B, batch.noise_BDT, batch.mask_BT)
        return total

    def validation_variants(self, final: bool) -> list[str]:
        """Each row's own text or none, at each of the fixed times."""
        return [f"{text}@{t}" for text in ("own", "null") for t in VALIDATION_TIMES]

    @property
    def validation_rows(self) -> int:
        return len(self.validation)

    def collate_validation(self, rows: list[int], variant: str) -> LatentBatch:
        text, t = variant.split("@")
        samples = []
        for i in rows:
            fine = self.validation.fine(i)
            noise = keyed_generator("validation", self.validation.id(i), t).standard_normal(fine.shape, np.float32)
            samples.append(LatentSample(fine, self._coarse(self.validation.codes(i)), float(t), noise))
        return collate_latents(samples, self.validation.text(rows, text))

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
            "text_dim": module.text_dim,
        }

    @torch.no_grad()
    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """True coarse codes of validation rows with sampled fine latents."""
        assert isinstance(module, LatentCompleter)
        samples = []
        for i in range(min(count, len(self.validation))):
            codes0_1T = torch.from_numpy(self.validation.codes(i)[:1].astype(np.int64))
            shape = (1, module.fine_dim, codes0_1T.shape[1])
            noise = keyed_generator("sample", self.validation.id(i)).standard_normal(shape, np.float32)
            settings = self.config.generation
            fine_BDT = module.sample(
                self.codec.coarse(codes0_1T),
                self.validation.text([i]),
                torch.from_numpy(noise),
                settings.steps,
                settings.stage2_guidance,
            )
            samples += decode_samples(self.codec, codes0_1T, fine_BDT, [self.validation.prompt(i)])
        return samples
