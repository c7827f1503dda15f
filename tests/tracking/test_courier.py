"""Delivery to a receiver that is away, blocks, refuses, or is not there at all."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from ssmttm.tracking import courier
from ssmttm.tracking.courier import Courier, Point, UndeliverableError, UnusableError

KEPT = "the run keeps them"


class Receiver:
    """Takes what comes; `error` is raised and `gate` waited for, if set."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.items: list[tuple[str, Any]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Event()

    def _enter(self) -> None:
        self.called.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error

    def points(self, points: list[Point]) -> None:
        self._enter()
        assert len(points) <= courier.BATCH_POINTS
        self.values += [value for _, value, *_ in points]

    def item(self, kind: str, content: Any) -> None:
        self._enter()
        self.items.append((kind, content))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(courier, "FINISH_SECONDS", 1.0)


def points(first: int, end: int) -> list[Point]:
    return [("loss", float(step), 0, step) for step in range(first, end)]


def ended(sender: Courier) -> float:
    start = time.monotonic()
    sender.close()
    sender.join()
    return time.monotonic() - start


def test_all_arrives_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = Receiver()
    sender = Courier("Receiver", lambda: receiver, KEPT)
    for step in range(2000):
        sender.give(points(step, step + 1), [("tags", step)])
    assert ended(sender) < 1.0
    assert receiver.values == list(range(2000))
    assert receiver.items == [("tags", step) for step in range(2000)]
    assert capsys.readouterr().err == ""


def test_what_waits_is_sent_when_the_receiver_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = Receiver()
    sender = Courier("Receiver", lambda: receiver, KEPT)
    sender.give(points(0, 3), [])
    time.sleep(0.1)
    receiver.error = ConnectionError("gone\naway")
    for step in range(3, 1500):
        sender.give(points(step, step + 1), [])
    sender.give([], [("tags", "x")])
    time.sleep(0.2)
    assert receiver.values == [0, 1, 2]
    receiver.error = None
    ended(sender)
    assert receiver.values == list(range(1500))
    assert receiver.items == [("tags", "x")]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: Receiver cannot be reached, the run goes on and what belongs there waits: gone away"


def test_a_receiver_that_cannot_be_made_is_asked_for_again() -> None:
    receiver, tries = Receiver(), iter(range(3))

    def connect() -> Receiver:
        if next(tries) < 2:
            raise ConnectionError
        return receiver

    sender = Courier("Receiver", connect, KEPT)
    sender.give(points(0, 5), [])
    ended(sender)
    assert receiver.values == [0, 1, 2, 3, 4]


def test_a_receiver_that_blocks_holds_up_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = Receiver()
    receiver.gate.clear()
    sender = Courier("Receiver", lambda: receiver, KEPT)
    sender.give(points(0, 1), [])
    assert receiver.called.wait(5)
    start = time.monotonic()
    for step in range(1, 10_000):
        sender.give(points(step, step + 1), [])
    assert time.monotonic() - start < 1.0
    assert 0.9 < ended(sender) < 2.0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: Receiver was not given 10,000 points; {KEPT}"
    receiver.gate.set()


def test_past_the_bound_the_oldest_is_given_up_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(courier, "MAX_POINTS", 100)
    monkeypatch.setattr(courier, "MAX_ITEMS", 2)
    receiver = Receiver()
    receiver.gate.clear()
    sender = Courier("Receiver", lambda: receiver, KEPT)
    sender.give(points(0, 1), [])
    assert receiver.called.wait(5)
    for step in range(1, 301):
        sender.give(points(step, step + 1), [])
    sender.give([], [("tags", number) for number in range(5)])
    receiver.gate.set()
    ended(sender)
    assert receiver.values == [0, *range(201, 301)]
    assert [content for _, content in receiver.items] == [3, 4]
    lost = f"warning: Receiver was not given 200 points and 3 files, tags or parameters; {KEPT}\n"
    assert capsys.readouterr().err == lost


def test_what_is_refused_does_not_hold_up_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = Receiver()
    receiver.error = UndeliverableError("bad name")
    sender = Courier("Receiver", lambda: receiver, KEPT)
    sender.give(points(0, 3), [("tags", 1)])
    time.sleep(0.1)
    receiver.error = None
    sender.give(points(3, 5), [])
    ended(sender)
    assert receiver.values == [3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "warning: Receiver refuses some of what it is given: bad name",
        f"warning: Receiver was not given 3 points and 1 files, tags or parameters; {KEPT}",
    ]


def test_where_there_can_be_no_receiver_nothing_waits(capsys: pytest.CaptureFixture[str]) -> None:
    def connect() -> Receiver:
        raise UnusableError("not installed")

    sender = Courier("Receiver", connect, KEPT)
    sender.give(points(0, 3), [("tags", 1)])
    time.sleep(0.1)
    sender.give(points(3, 5), [])
    assert ended(sender) < 0.5
    assert capsys.readouterr().err == "warning: Receiver is not used: not installed\n"


def test_a_file_that_cannot_be_sent_lets_others_pass(capsys: pytest.CaptureFixture[str]) -> None:
    class NoFiles(Receiver):
        def item(self, kind: str, content: Any) -> None:
            if kind in ("artifact", "sample"):
                raise PermissionError("no credentials")
            super().item(kind, content)

    receiver = NoFiles()
    sender = Courier("Receiver", lambda: receiver, KEPT)
    sender.give(points(0, 3), [("artifact", "a"), ("sample", ("b", 1)), ("tags", 1), ("tags", 2)])
    sender.give(points(3, 5), [("status", "FINISHED")])
    assert 0.5 < ended(sender) < 2.0
    assert receiver.values == [0, 1, 2, 3, 4]
    assert receiver.items == [("tags", 1), ("tags", 2), ("status", "FINISHED")]
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"warning: Receiver was not given 2 files, tags or parameters; {KEPT}"
    ]
