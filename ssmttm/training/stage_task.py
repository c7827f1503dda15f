"""What the tasks of both stages share: token shards, the codec they belong to, captions, samples.

Shapes: B batch, T frames, D latent or state dimensions, S text positions, N samples.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.conditions.base import Conditions, FrameControl
from ssmttm.conditions.registry import control_of
from ssmttm.conditions.text import TextStatistics, token_states
from ssmttm.config import Config
from ssmttm.tokens.read import TokenDataset
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.progress import flops_per_token
from ssmttm.training.task import Task
from ssmttm.training.validation import ValidationSet

StageName = Literal["stage1", "stage2"]
STATISTICS_CAPTIONS = 2000
CONTROLS_DROPPED = 0.1  # share of training samples without any control by frame


class Asked(NamedTuple):
    """What a training sample is asked by: its draw, a caption's states [S, D] and whether they are dropped, and which
    frames of its row it is."""

    draw: Draw
    states_SD: np.ndarray
    is_null: bool
    start: int
    frames: int


class StageTask(Task):
    """A task that learns from token shards; `name` is its section of the configuration too."""

    data: TokenDataset

    def __init__(self, config: Config, with_fine: bool):
        self.config = config
        self.data = TokenDataset.open(config.train.data, "train", with_fine)
        self.validation = ValidationSet.open(config.train, with_fine)

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.data.info["codec"]["uri"])

    @property
    def validation_rows(self) -> int:
        return len(self.validation)

    @property
    def widths(self) -> dict[str, int]:
        """Of each condition that the shards hold."""
        return {"text": self.data.info["text"]["dim"], **self.data.controls}

    def conditions(self, asked: list[Asked], alone: float = 0.0) -> Conditions:
        """Captions and controls of training samples. Each control is dropped as often as its conditioner says, and all
        of them together in `CONTROLS_DROPPED` of the samples; every choice is keyed by seed, epoch and sample id.

        Args:
            alone: share of the samples with a known control in which these are learned without the text. A caption
                that tells tempo and key leaves little to learn from beats and chords.
        """
        controls = {name: self._control(name, asked) for name in self.data.controls}
        has_controls_B = [
            any(bool(one.known_BT[place].any()) for one in controls.values()) for place in range(len(asked))
        ]
        nulls = [
            one.is_null or (has_controls and self._keyed(one, "alone").random() < alone)
            for one, has_controls in zip(asked, has_controls_B, strict=True)
        ]
        return Conditions({"text": token_states([one.states_SD for one in asked], nulls), **controls})

    def _keyed(self, asked: Asked, *what: str) -> np.random.Generator:
        row = self.data.rows[asked.draw.row]
        return keyed_generator(*what, self.config.train.seed, asked.draw.epoch, row["id"])

    def _control(self, name: str, asked: list[Asked]) -> FrameControl:
        dropout, rows = control_of(name).dropout, []
        for one in asked:
            values_CT = self.data.control(one.draw.row, name)[:, one.start : one.start + one.frames]
            is_dropped = self._keyed(one, "control", name).random() < dropout
            is_dropped = is_dropped or self._keyed(one, "controls").random() < CONTROLS_DROPPED
            rows.append(np.full_like(values_CT, np.nan) if is_dropped else values_CT)
        return FrameControl.of(rows)

    def frames(self, draw: Draw) -> int:
        """Of a training sequence."""
        frames, crop = self.data.frames(draw.row), getattr(self.config, self.name).crop_frames
        return min(frames, crop) if crop else frames

    @abstractmethod
    def describe(self, module: nn.Module) -> dict[str, Any]:
        """What `model.json` needs to rebuild the module."""

    @abstractmethod
    def sample(self, module: nn.Module, count: int) -> list[tuple[str, Audio]]:
        """Audio made by the trained module for validation prompts: (prompt, audio)."""

    def flops(self) -> float:
        frames = sum(self.frames(Draw(row, 0)) for row in range(len(self.data))) / len(self.data)
        return flops_per_token(self.config, self.name, self.data.info, frames)

    def remedy(self) -> str:
        return f"lower train.lr, or look for broken rows in {self.config.train.data}"


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
