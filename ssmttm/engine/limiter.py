"""The end of the line: loud samples are bent, surplus ones cut. Shapes: B clips, N samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

KNEE, CEILING = 0.85, 0.98


def soft_limit(samples: Tensor) -> Tensor:
    """Bend samples beyond ±0.85 towards ±0.98 (tanh): continuous in value and slope, never clipped.

    It looks at one sample at a time, so streams need no second pass over the piece.
    """
    room = CEILING - KNEE
    beyond = samples.abs() - KNEE
    bent = samples.sign() * (KNEE + room * torch.tanh(beyond.clamp(min=0) / room))
    return torch.where(beyond > 0, bent, samples)


def finish(audio: Iterator[Tensor], samples: int) -> Iterator[Tensor]:
    """Limit rendered audio [B, 1, N], cut it to `samples` in all, and yield what is not empty as [B, N] on the CPU."""
    for audio_B1N in audio:
        piece_BN = soft_limit(audio_B1N[:, 0, :samples].float()).cpu()
        samples -= piece_BN.shape[1]
        if piece_BN.shape[1]:
            yield piece_BN
