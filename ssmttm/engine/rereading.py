"""How stage 1 writes more than it was trained on: every so many steps it begins anew, from the prompt and the last few
steps. So what it has read always begins with the prompt and is no longer than in training; otherwise what the text
said fades in the state, and music drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssmttm.config import GenerationConfig
from ssmttm.errors import UserError


@dataclass(frozen=True)
class Rereading:
    """It begins anew at step `frames + every`, and each `every` steps from there, with the last `frames` steps; never
    where `every` is 0."""

    every: int = 0
    frames: int = 0

    @classmethod
    def of(cls, config: GenerationConfig) -> Rereading:
        return cls(config.reread_every, config.reread_frames)

    def check(self, num_codebooks: int) -> None:
        """Raises UserError if codes that are delayed would be read in part: they go as far back as there are
        codebooks."""
        if self.every and self.frames < num_codebooks:
            raise UserError(
                f"generation.reread_frames={self.frames} are too few for {num_codebooks} codebooks; give as many"
            )

    def is_due(self, step: int) -> bool:
        """Whether the steps before this one are read anew."""
        return self.every > 0 and step > self.frames and (step - self.frames) % self.every == 0

    def longest_read(self, frames: int) -> int:
        """The most frames that are read in one go, in a piece of so many."""
        return min(frames, self.frames + self.every) if self.every else frames


NEVER = Rereading()
