"""Which sample comes when, to which worker, and its random draws: functions of seed, epoch and sample id alone.

So neither the number of workers, nor a restart, nor the speed of the loader can change what is learnt from.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError

T = TypeVar("T")


def keyed_generator(*key: object) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by the text of `key`; equal on every machine and process."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


class Draw(NamedTuple):
    """One use of a dataset row."""

    row: int
    epoch: int


class SampleOrder:
    """An endless sequence of draws: a fresh seeded permutation of all rows in each epoch."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows, self.seed = num_rows, seed
        self._permutations: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> Draw:
        epoch, place = divmod(index, self.num_rows)
        if epoch not in self._permutations:
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            self._permutations[epoch] = keyed_generator("order", self.seed, epoch).permutation(self.num_rows)
        return Draw(int(self._permutations[epoch][place]), epoch)

    def global_batch(self, position: int, size: int) -> list[Draw]:
        """The draws of the optimizer step that consumes batch number `position`."""
        return [self[position * size + offset] for offset in range(size)]


class BatchShape(NamedTuple):
    """Sequences per worker and forward pass, and forward passes per optimizer step."""

    micro: int
    accumulation: int


def batch_shape(config: TrainConfig, world_size: int) -> BatchShape:
    """Divide the global batch evenly over workers, then into the fewest equal forward passes of at most
    `micro_batch` sequences.

    Raises:
        UserError: if the global batch cannot be divided over the workers.
    """
    if config.global_batch % world_size:
        raise UserError(
            f"train.global_batch={config.global_batch} cannot be divided over train.workers={world_size}; "
            f"use a multiple of {world_size}"
        )
    per_worker = config.global_batch // world_size
    micro = max(size for size in range(1, min(config.micro_batch, per_worker) + 1) if per_worker % size == 0)
    return BatchShape(micro, per_worker // micro)


def share(draws: list[Draw], shape: BatchShape, rank: int, world_size: int) -> list[list[Draw]]:
    """The micro-batches of one worker: forward pass m takes a contiguous run of the global batch, worker r its
    r-th part."""
    return [
        draws[(m * world_size + rank) * shape.micro : (m * world_size + rank + 1) * shape.micro]
        for m in range(shape.accumulation)
    ]


class Prefetcher(Generic[T]):
    """Makes items 0, 1, 2, ... of `make` in a background thread, a few ahead; an error there is raised here."""

    def __init__(self, make: Callable[[int], T], start: int, depth: int = 3):
        self.wait_seconds = 0.0
        self._queue: queue.Queue[T | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, start), name="prefetch", daemon=True)
        self._thread.start()

    def _work(self, make: Callable[[int], T], position: int) -> None:
        while not self._stop.is_set():
            try:
                item: T | BaseException = make(position)
            except BaseException as error:
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            position += 1

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
