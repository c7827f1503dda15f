"""Streams of latents cut into blocks at fixed frames, each with its surroundings.

A convolution's output changes in its last bits with the length of its input. So that they do not change with how a
stream was cut, every block is computed from a window that depends on absolute frames and the stream's end alone.

Shapes: B batch, D dimensions, T code frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_FRAMES = 64  # owned by a block; 0.74 s at DAC's 44.1 kHz, 0.85 s at EnCodec's 24 kHz


@dataclass(frozen=True)
class ChunkState:
    """A stream between two chunks: frames [B, D, T] still needed, the first `context` of which are done and only
    surround what follows."""

    waiting_BDT: Tensor
    context: int


class CodecBlock(NamedTuple):
    """Frames [B, D, T] of which those after the first `context` are the block's own `owned`; the rest follow it."""

    frames_BDT: Tensor
    context: int
    owned: int


def cut_blocks(
    fresh_BDT: Tensor, state: ChunkState | None, before: int, after: int, final: bool, block: int = BLOCK_FRAMES
) -> tuple[list[CodecBlock], ChunkState]:
    """The blocks that are complete with the next frames of a stream.

    Args:
        fresh_BDT: any number of frames, none included.
        state: what the call before returned; None for the first.
        before, after: frames that surround a block, fewer only where the stream begins and ends.
        final: no frames follow; the rest becomes blocks too, the last one shorter.
        block: frames that a block owns.
    """
    waiting_BDT, context = fresh_BDT, 0
    if state is not None:
        waiting_BDT, context = torch.cat([state.waiting_BDT, fresh_BDT], dim=-1), state.context
    blocks = []
    while (ready := waiting_BDT.shape[-1] - context) > 0 and (final or ready >= block + after):
        done = context + min(block, ready)
        blocks.append(CodecBlock(waiting_BDT[..., : done + after].contiguous(), context, done - context))
        context = min(before, done)
        waiting_BDT = waiting_BDT[..., done - context :]
    return blocks, ChunkState(waiting_BDT, context)
