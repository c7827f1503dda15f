"""Who plays: whether there are drums, and whether there is a bass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.hearing import parts
from ssmttm.conditions.timeline import TimelineControl, shown
from ssmttm.errors import UserError


class Part(TimelineControl[bool]):
    """Whether a part plays: one channel, 1 where it does and -1 where it does not."""

    channels, form = 1, "true or false"

    def value(self, given: Any, field: str) -> bool:
        if not isinstance(given, bool):
            raise UserError(f"{field} is {shown(given)}; give {self.form}")
        return given

    def values(self, value: bool) -> Sequence[float]:
        return [1.0 if value else -1.0]


class Drums(Part):
    """Whether there are drums."""

    name = "drums"

    def told(self, excerpt: Excerpt) -> Any:
        return parts.drums(excerpt.sound)


class Bass(Part):
    """Whether there is a bass."""

    name = "bass"

    def told(self, excerpt: Excerpt) -> Any:
        return parts.bass(excerpt.sound)
