"""Stage 1: the language model over coarse codes.

Shapes: B batch, K codebooks modelled, T frames, S delayed steps, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.conditions.base import Conditions
from ssmttm.config import Config
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.slots import SlotBatch
from ssmttm.model.delay import apply_delay
from ssmttm.model.lm import MusicLM
from ssmttm.model.weights import describe_widths
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.stage_task import Asked, StageTask, decode_samples, draw_caption, text_statistics


@dataclass(frozen=True)
class CodeBatch:
    """Delayed codes int64 [B, K, S] (`special` where there is no target) with their conditions. `first_only`: the loss
    is that of codebook 0 alone, with the others there to be read."""

    delayed_BKS: Tensor
    conditions: Conditions
    count: int
    drop_pooled: bool = False
    drop_prefix: bool = False
    first_only: bool = False

    def to(self, device: torch.device) -> CodeBatch:
        return replace(self, delayed_BKS=self.delayed_BKS.to(device), conditions=self.conditions.to(device))


class Stage1Task(StageTask):
    """Next-code prediction given the conditions; a share of samples sees null ones, for guidance."""

    name, unit = "stage1", "nats/token"

    def __init__(self, config: Config):
        super().__init__(config, with_fine=False)

    def build(self) -> nn.Module:
        stage, V = self.config.stage1, self.codec.codebook_size
        features = self.codec.coarse(torch.arange(V)[None])[0].T if stage.codebook_features else None
        module = MusicLM(stage, V, self.widths, features)
        module.set_text_statistics(text_statistics(self.data))
        return module

    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, MusicLM)
        return module.optimizer_groups(self.config.train.lr, self.config.train.weight_decay)

    def count(self, draw: Draw) -> int:
        return self.config.stage1.num_codebooks * self.frames(draw)

    def _delayed(self, codes: list[np.ndarray]) -> Tensor:
        K, special = self.config.stage1.num_codebooks, self.codec.codebook_size
        delayed = [apply_delay(torch.from_numpy(c[:K].astype(np.int64))[None], special)[0] for c in codes]
        longest = max(d.shape[1] for d in delayed)
        return torch.stack([F.pad(d, (0, longest - d.shape[1]), value=special) for d in delayed])

    def collate(self, draws: list[Draw]) -> CodeBatch:
        asked, codes = [], []
        for draw in draws:
            row = self.data.rows[draw.row]
            generator = keyed_generator("stage1", self.config.train.seed, draw.epoch, row["id"])
            is_null = bool(generator.random() < self.config.stage1.null_probability)
            states_SD = draw_caption(self.data, draw, generator)
            frames = self.frames(draw)
            start = int(generator.integers(self.data.frames(draw.row) - frames + 1))
            codes.append(self.data.codes(draw.row)[:, start : start + frames])
            asked.append(Asked(draw, states_SD, is_null, start, frames))
        return CodeBatch(
            self._delayed(codes), self.conditions(asked, self.config.stage1.controls_alone), sum(map(self.count, draws))
        )

    def loss(self, module: nn.Module, batch: CodeBatch) -> Tensor:
        logits_BKSV = module(batch.delayed_BKS, batch.conditions, batch.drop_pooled, batch.drop_prefix)
        targets_BKS = batch.delayed_BKS
        if batch.first_only:
            logits_BKSV, targets_BKS = logits_BKSV[:, :1], targets_BKS[:, :1]
        special = self.codec.codebook_size
        return F.cross_entropy(
            logits_BKSV.flatten(0, -2).float(), targets_BKS.flatten(), ignore_index=special, reduction="sum"
        )

    def validation_variants(self, final: bool) -> list[str]:
        """own: the row's first caption; shuffled: another row's; null: none; and, for a model with both text
        paths, each path alone; for a model of several codebooks, codebook 0 with its own text."""
        paths = ["pooled_only", "prefix_only"] if final and self.config.stage1.pooled else []
        first = ["first_codebook"] if self.config.stage1.num_codebooks > 1 else []
        return ["own", *(["shuffled"] if len(self.validation) > 1 else []), "null", *first, *paths]

    def collate_validation(self, rows: list[int], variant: str) -> CodeBatch:
        delayed = self._delayed([self.validation.codes(i) for i in rows])
        conditions = self.validation.conditions(rows, variant)
        first_only = variant == "first_codebook"
        count = (1 if first_only else self.config.stage1.num_codebooks) * sum(self.validation.frames(i) for i in rows)
        return CodeBatch(delayed, conditions, count, variant == "prefix_only", variant == "pooled_only", first_only)

    def describe(self, module: nn.Module) -> dict[str, Any]:
        assert isinstance(module, MusicLM)
        return {
            "config": self.config.stage1.model_dump(mode="json"),
            "codebook_size": module.codebook_size,
            **describe_widths(module.widths),
        }

    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """Drawn coarse codes for validation prompts, decoded without fine latents."""
        assert isinstance(module, MusicLM)
        rows = list(range(min(count, len(self.validation))))
        if not rows:
            return []
        frames, prompts = max(self.validation.frames(i) for i in rows), [self.validation.prompt(i) for i in rows]
        requests = [
            MusicRequest(prompt, seed=i).filled(self.config.generation) for i, prompt in zip(rows, prompts, strict=True)
        ]
        pieces = [
            Piece(request, self.validation.conditions([i]), frames) for i, request in zip(rows, requests, strict=True)
        ]
        codes_BKT = SlotBatch.of(module, pieces).read(frames)
        return decode_samples(self.codec, codes_BKT[:, 0].to(module.device), None, prompts)
