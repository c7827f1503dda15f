"""How many threads torch computes with on a CPU. Sums over several are added in another order, so the last bits of a
result depend on their number: what must be the same everywhere is computed with a fixed one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def torch_threads(number: int = 1) -> Iterator[None]:
    """Torch on `number` threads in the calling thread; also a decorator. Threads that first use torch meanwhile keep
    this number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def iterate_with_threads(items: Iterator[Item], number: int) -> Iterator[Item]:
    """The same items, each made with `number` threads of torch; whoever takes them keeps their own between two."""
    while True:
        with torch_threads(number):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
