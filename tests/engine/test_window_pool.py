"""Who is served first, and how many at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssmttm.engine.windows import BATCH, WindowPool


class Kitchen:
    """A renderer that works when it is told to, and notes what it makes together."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.go, self.began = threading.Event(), threading.Event()
        self.made: list[list[int]] = []

    def complete(self, windows: list[Any]) -> list[Any]:
        self.began.set()
        assert self.go.wait(10)
        self.made.append([window.owned for window in windows])
        return windows


class Guest:
    """A track whose next window owns so many frames."""

    def __init__(self, owned: int):
        self._window = SimpleNamespace(owned=owned, shape=(owned,))

    def window(self, codes_BKT: torch.Tensor) -> Any:
        return self._window

    def hear(self, done: Any) -> torch.Tensor:
        return torch.full((1,), float(done.owned))


def order_of(device: str, frames: list[int], **settings: Any) -> list[list[int]]:
    """What is made together, in order, if all wait while a first window (of no frames) is made."""
    kitchen = Kitchen(device)
    pool: Any = WindowPool(kitchen, **settings)  # type: ignore[arg-type]
    with ThreadPoolExecutor(len(frames) + 1) as threads:
        heard = [threads.submit(pool.render, Guest(0), torch.empty(0))]
        assert kitchen.began.wait(10)
        for count, owned in enumerate(frames, 1):
            heard.append(threads.submit(pool.render, Guest(owned), torch.empty(0)))
            while len(pool._jobs) < count:
                pass
        kitchen.go.set()
        assert [int(audio.result(10)) for audio in heard] == [0, *frames]
    pool.close()
    return kitchen.made[1:]


def test_short_windows_come_first_and_the_oldest_of_a_kind() -> None:
    assert order_of("cpu", [9, 9, 2, 9, 4, 2]) == [[2], [2], [4], [9], [9], [9]]


@pytest.mark.parametrize("settings", [{}, {"batch": 3}])
def test_windows_of_one_shape_are_made_together_on_a_gpu(settings: dict[str, int]) -> None:
    most = settings.get("batch", BATCH)
    made = order_of("cuda", [9] * (most + 1) + [2], **settings)
    assert made == [[2], [9] * most, [9]]


def test_one_at_a_time_if_bits_count() -> None:
    assert order_of("cuda", [9, 9], batch=2, deterministic=True) == [[9], [9]]
