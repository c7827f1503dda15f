"""How stage 1 writes more than it was trained on: with R `reread_frames`, it begins anew at step 2R and every R steps
from there, from the prompt and the last R steps. So what it has read is never older than 2R steps, and always begins
with the prompt, as in training; without it, what the text said fades in the state, and music drifts.
"""

from __future__ import annotations


def is_due(step: int, reread_frames: int) -> bool:
    """Whether the steps before this one are read anew."""
    return reread_frames > 0 and step >= 2 * reread_frames and step % reread_frames == 0


def longest_read(frames: int, reread_frames: int) -> int:
    """The most frames that are read in one go, in a piece of so many."""
    return min(frames, 2 * reread_frames) if reread_frames else frames
