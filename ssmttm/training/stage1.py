"""Stage 1: the language model over coarse codes.

Shapes: B batch, K codebooks modelled, T frames, S delayed steps, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.codec.base import Codec, load_codec
from ssmttm.conditions.text import TextBatch, TextStatistics, collate_text
from ssmttm.config import Config
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.slots import SlotBatch
from ssmttm.model.delay import apply_delay
from ssmttm.model.lm import MusicLM
from ssmttm.tokens.data import TokenDataset
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.validation import ValidationSet

STATISTICS_CAPTIONS = 2000


@dataclass(frozen=True)
class CodeBatch:
    """Delayed codes int64 [B, K, S] (`special` where there is no target) with their text. `first_only`: the loss is
    that of codebook 0 alone, with the others there to be read."""

    delayed_BKS: Tensor
    text: TextBatch
    count: int
    drop_pooled: bool = False
    drop_prefix: bool = False
    first_only: bool = False

    def to(self, device: torch.device) -> CodeBatch:
        return replace(self, delayed_BKS=self.delayed_BKS.to(device), text=self.text.to(device))


def text_statistics(data: TokenDataset) -> TextStatistics:
    """Mean and deviation of the training captions' states (of an even selection of them)."""
    keys = data.text.keys()
    return TextStatistics.measure([data.text.states(key) for key in keys[:: max(1, len(keys) // STATISTICS_CAPTIONS)]])


def draw_caption(data: TokenDataset, draw: Draw, generator: np.random.Generator) -> np.ndarray:
    """States [S, D] of one of the row's captions."""
    keys = data.text_keys(draw.row)
    return data.text.states(keys[generator.integers(len(keys))])


@torch.no_grad()
def decode_samples(
    codec: Codec, codes0_BT: Tensor, fine_BDT: Tensor | None, prompts: list[str]
) -> list[tuple[str, Audio]]:
    """Prompts with the sound of coarse codes and fine latents (None: zeros, what the coarse codes alone hold)."""
    coarse_BDT = codec.coarse(codes0_BT)
    if fine_BDT is None:
        fine_BDT = coarse_BDT.new_zeros(len(coarse_BDT), codec.fine_dim, coarse_BDT.shape[2])
    wav_B1N = codec.decode(coarse_BDT, fine_BDT)
    return [(prompt, Audio(wav.numpy(), codec.sample_rate)) for prompt, wav in zip(prompts, wav_B1N, strict=True)]


class Stage1Task:
    """Next-code prediction given the text; a share of samples sees the null text, for guidance."""

    name, unit = "stage1", "nats/token"

    def __init__(self, config: Config):
        self.config = config
        self.data = TokenDataset.open(config.train.data, "train", with_fine=False)
        self.validation = ValidationSet.open(config.train, with_fine=False)

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.data.info["codec"]["uri"])

    def build(self) -> nn.Module:
        stage, V = self.config.stage1, self.codec.codebook_size
        features = self.codec.coarse(torch.arange(V)[None])[0].T if stage.codebook_features else None
        module = MusicLM(stage, V, self.data.info["text"]["dim"], features)
        module.set_text_statistics(text_statistics(self.data))
        return module

    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, MusicLM)
        train = self.config.train
        return module.optimizer_groups(train.lr, train.weight_decay, self.config.stage1.pooled_lr_factor)

    def _frames(self, draw: Draw) -> int:
        frames, crop = self.data.frames(draw.row), self.config.stage1.crop_frames
        return min(frames, crop) if crop else frames

    def count(self, draw: Draw) -> int:
        return self.config.stage1.num_codebooks * self._frames(draw)

    def _delayed(self, codes: list[np.ndarray]) -> Tensor:
        K, special = self.config.stage1.num_codebooks, self.codec.codebook_size
        delayed = [apply_delay(torch.from_numpy(c[:K].astype(np.int64))[None], special)[0] for c in codes]
        longest = max(d.shape[1] for d in delayed)
        return torch.stack([F.pad(d, (0, longest - d.shape[1]), value=special) for d in delayed])

    def collate(self, draws: list[Draw]) -> CodeBatch:
        states, null, codes = [], [], []
        for draw in draws:
            row = self.data.rows[draw.row]
            generator = keyed_generator("stage1", self.config.train.seed, draw.epoch, row["id"])
            null.append(bool(generator.random() < self.config.stage1.null_probability))
            states.append(draw_caption(self.data, draw, generator))
            frames = self._frames(draw)
            start = int(generator.integers(self.data.frames(draw.row) - frames + 1))
            codes.append(self.data.codes(draw.row)[:, start : start + frames])
        return CodeBatch(self._delayed(codes), collate_text(states, null), sum(map(self.count, draws)))

    def loss(self, module: nn.Module, batch: CodeBatch) -> Tensor:
        logits_BKSV = module(batch.delayed_BKS, batch.text, batch.drop_pooled, batch.drop_prefix)
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

    @property
    def validation_rows(self) -> int:
        return len(self.validation)

    def collate_validation(self, rows: list[int], variant: str) -> CodeBatch:
        delayed = self._delayed([self.validation.codes(i) for i in rows])
        text = self.validation.text(rows, variant)
        first_only = variant == "first_codebook"
        count = (1 if first_only else self.config.stage1.num_codebooks) * sum(self.validation.frames(i) for i in rows)
        return CodeBatch(delayed, text, count, variant == "prefix_only", variant == "pooled_only", first_only)

    def summarise_validation(self, losses: dict[str, float]) -> dict[str, float]:
        return losses

    def describe(self, module: nn.Module) -> dict[str, Any]:
        assert isinstance(module, MusicLM)
        return {
            "config": self.config.stage1.model_dump(mode="json"),
            "codebook_size": module.codebook_size,
            "text_dim": module.text_dim,
        }

    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """Drawn coarse codes for validation prompts, decoded without fine latents."""
        assert isinstance(module, MusicLM)
        rows = list(range(min(count, len(self.validation))))
        if not rows:
            return []
        frames, prompts = max(self.validation.frames(i) for i in rows), [self.validation.prompt(i) for i in rows]
        pieces = [
            Piece(MusicRequest(prompt, seed=i).filled(self.config.generation), self.validation.text([i], "own"), frames)
            for i, prompt in zip(rows, prompts, strict=True)
        ]
        codes_BKT = SlotBatch.of(module, pieces).read(frames).to(next(module.parameters()).device)
        return decode_samples(self.codec, codes_BKT[:, 0], None, prompts)
