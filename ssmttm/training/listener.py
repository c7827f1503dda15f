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


class Listeners:
    """Several listeners as one."""

    def __init__(self, *listeners: Listener):
        self._listeners = listeners

    def begin(self, step: int) -> None:
        for listener in self._listeners:
            listener.begin(step)

    def metrics(self, values: dict[str, float], step: int) -> None:
        for listener in self._listeners:
            listener.metrics(values, step)

    def checkpoint(self, uri: str, step: int) -> None:
        for listener in self._listeners:
            listener.checkpoint(uri, step)

    def artifacts(self, uris: list[str]) -> None:
        for listener in self._listeners:
            listener.artifacts(uris)

    def samples(self, uris: list[str], step: int) -> None:
        for listener in self._listeners:
            listener.samples(uris, step)
