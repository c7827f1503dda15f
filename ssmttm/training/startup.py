"""What comes before the first optimizer step, and how long each part of it takes."""

from __future__ import annotations

import time


class StartUp:
    """Times since a job began, in parts of which each ends where the next begins.

    Args:
        began: seconds since 1970, by the clock of the machine where the job was started.
        parts: names and seconds of what is over already.
    """

    def __init__(self, began: float, parts: dict[str, float] | None = None):
        self.began, self.parts = began, dict(parts or {})

    def over(self, part: str) -> None:
        """Note that this part ends now."""
        self.parts[part] = time.time() - self.began - sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"first step after {sum(self.parts.values()):.1f} s ({parts})"
