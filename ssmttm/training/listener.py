"""What the trainer tells a tracker."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Gets figures and files of a run. Calls return at once and never raise."""

    def begin(self, step: int) -> None: ...

    def metrics(self, values: dict[str, float], step: int) -> None: ...

    def checkpoint(self, uri: str, step: int) -> None: ...

    def artifacts(self, uris: list[str]) -> None: ...

    def samples(self, uris: list[str], step: int) -> None: ...
