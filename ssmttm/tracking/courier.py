"""Delivery in the background: a thread sends what it is given, again and again while the receiver is away.

Giving neither blocks nor raises. What waits is bounded: past the bound the oldest is given up, and counted.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

RETRY_SECONDS = 5.0
FINISH_SECONDS = 30.0
BATCH_POINTS = 500  # MLflow takes at most 1,000 metrics in one request
MAX_POINTS = 100_000  # 10 MB or so
MAX_ITEMS = 10_000

Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""
Item = tuple[str, Any]
"""Kind and content of anything that is no point."""
FILES = ("artifact", "sample")  # kinds of items that are files


class UndeliverableError(Exception):
    """Raised by a receiver for what it will never take; the rest may go on."""


class UnusableError(Exception):
    """Raised where there can be no receiver at all, however long one waits."""


class Receiver(Protocol):
    """Where things go. Its methods may block, and may raise anything."""

    def points(self, points: list[Point]) -> None: ...

    def item(self, kind: str, content: Any) -> None: ...


class Courier:
    """Delivers to one receiver, points before the rest, each in the order they came; but a file that cannot be sent
    lets others pass.

    Args:
        name: of the receiver, for messages.
        connect: makes the receiver; called by the thread until it succeeds.
        kept: says where what could not be delivered can be found.
    """

    def __init__(self, name: str, connect: Callable[[], Receiver], kept: str):
        self._name, self._connect, self._kept = name, connect, kept
        self._receiver: Receiver | None = None
        self._points: deque[Point] = deque()
        self._items: deque[Item] = deque()
        self._sending: tuple[list[Point], list[Item]] = ([], [])
        self._lost_points = self._lost_items = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._warned = self._unusable = False
        self._thread = threading.Thread(target=self._work, name=f"courier-{name}", daemon=True)
        self._thread.start()

    def give(self, points: list[Point], items: list[Item]) -> None:
        """Take for delivery."""
        with self._changed:
            if not self._unusable:
                self._points += points
                self._items += items
                self._trim()
                self._changed.notify()

    def close(self) -> None:
        """Ask for the end: what is left is sent if it can be sent in `FINISH_SECONDS`. Returns at once."""
        with self._changed:
            self._deadline = time.monotonic() + FINISH_SECONDS
            self._closing.set()
            self._changed.notify()

    def join(self) -> None:
        """After `close`, wait for the end, and say in one line what was not delivered."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._changed:
            points = len(self._points) + len(self._sending[0]) + self._lost_points
            items = len(self._items) + len(self._sending[1]) + self._lost_items
        lost = [
            f"{count:,} {what}" for count, what in ((points, "points"), (items, "files, tags or parameters")) if count
        ]
        if lost:
            print(
                f"warning: {self._name} was not given {' and '.join(lost)}; {self._kept}", file=sys.stderr, flush=True
            )

    # The thread

    def _work(self) -> None:
        while self._take():
            points, items = self._sending
            try:
                if self._receiver is None:
                    self._receiver = self._connect()
                if points:
                    self._receiver.points(points)
                for kind, content in items:
                    self._receiver.item(kind, content)
            except UndeliverableError as error:
                self._warn(f"refuses some of what it is given: {_reason(error)}")
                with self._changed:
                    self._lost_points += len(points)
                    self._lost_items += len(items)
            except UnusableError as error:
                self._warn(f"is not used: {_reason(error)}")
                with self._changed:
                    self._unusable, self._sending = True, ([], [])
                    self._points.clear()
                    self._items.clear()
                return
            except Exception as error:  # every client raises its own
                self._warn(f"cannot be reached, the run goes on and what belongs there waits: {_reason(error)}")
                self._put_back()
                if not self._pause():
                    return
                continue
            self._sending = ([], [])

    def _take(self) -> bool:
        """Choose what to send next, waiting for it; False at the end."""
        with self._changed:
            while not self._points and not self._items:
                if self._closing.is_set():
                    return False
                self._changed.wait()
            if self._points:
                count = min(BATCH_POINTS, len(self._points))
                self._sending = ([self._points.popleft() for _ in range(count)], [])
            else:
                self._sending = ([], [self._items.popleft()])
        return True

    def _put_back(self) -> None:
        with self._changed:
            self._points.extendleft(reversed(self._sending[0]))
            for item in self._sending[1]:
                if item[0] in FILES:
                    self._items.append(item)
                else:
                    self._items.appendleft(item)
            self._sending = ([], [])
            self._trim()

    def _pause(self) -> bool:
        """Wait before the next try; False if there is no time for one."""
        if not self._closing.wait(RETRY_SECONDS):
            return True
        time.sleep(min(1.0, RETRY_SECONDS))
        return time.monotonic() < self._deadline

    def _trim(self) -> None:
        while len(self._points) > MAX_POINTS:
            self._points.popleft()
            self._lost_points += 1
        while len(self._items) > MAX_ITEMS:
            self._items.popleft()
            self._lost_items += 1

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            print(f"warning: {self._name} {what}", file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
    """The first words of an error, in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:200]
