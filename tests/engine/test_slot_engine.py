"""The loop under many threads: order, cancellation, limits, failure, end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from batches import piece_of
from test_engine import make_lm
from test_slots import TOKENS, alone, make_piece

from ssmttm.conditions.text import collate_text
from ssmttm.engine.piece import Piece
from ssmttm.engine.slot_engine import (
    CancelledError,
    DeadlineError,
    EngineClosedError,
    QueueFullError,
    SlotEngine,
)
from ssmttm.engine.slots import SlotBatch
from ssmttm.errors import UserError

LONG = 100_000  # frames: never done by itself


@pytest.fixture
def engine() -> Iterator[SlotEngine]:
    with SlotEngine(make_lm(), slots=3, text_tokens=TOKENS, waiting=4) as engine:
        yield engine


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_frames_arrive_while_others_are_written(engine: SlotEngine) -> None:
    stream = engine.submit(make_piece(1, LONG))
    assert next(stream).shape == (1,)
    assert stream.read(5).shape == (1, 5)
    assert not stream.ended


def test_threads_get_what_each_request_gives_alone() -> None:
    lm = make_lm(3)
    pieces = [make_piece(number, 5 + 7 * number % 30) for number in range(24)]
    random = np.random.default_rng(0)
    delays = random.uniform(0, 0.05, len(pieces))

    def make(engine: SlotEngine, piece: Piece, delay: float) -> np.ndarray:
        time.sleep(delay)
        return np.stack(list(engine.submit(piece)), axis=1)

    with SlotEngine(lm, slots=5, text_tokens=TOKENS, waiting=24) as engine, ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda pair: make(engine, *pair), zip(pieces, delays, strict=True)))
        metrics = engine.metrics()
    for piece, codes in zip(pieces, found, strict=True):
        assert np.array_equal(codes, alone(lm, piece))
    assert metrics.requests == 24
    assert metrics.frames == sum(piece.frames for piece in pieces)
    assert metrics.in_use == metrics.waiting == 0
    assert metrics.steps < metrics.frames  # really together
    assert metrics.frames_per_second > 0
    assert metrics.prefill_seconds > 0


def test_cancelling_frees_the_slot(engine: SlotEngine) -> None:
    streams = [engine.submit(make_piece(number, LONG)) for number in range(5)]
    eventually(lambda: (engine.metrics().in_use, engine.metrics().waiting) == (3, 2))
    streams[0].cancel()
    streams[4].cancel()  # waits for a slot
    for stream in (streams[0], streams[4]):
        with pytest.raises(CancelledError):
            next(stream)
    assert next(streams[3]) is not None  # has its turn now
    eventually(lambda: (engine.metrics().in_use, engine.metrics().waiting) == (3, 0))
    assert engine.metrics().cancelled == 2
    streams[0].cancel()  # again: nothing happens
    assert not streams[1].ended


def test_whoever_waits_for_a_frame_hears_of_the_cancellation(engine: SlotEngine) -> None:
    stream = engine.submit(make_piece(1, LONG))
    threading.Timer(0.2, stream.cancel).start()
    with pytest.raises(CancelledError):
        stream.read(LONG)


def test_a_full_queue_is_an_error_at_once(engine: SlotEngine) -> None:
    streams = [engine.submit(make_piece(number, LONG)) for number in range(7)]
    with pytest.raises(QueueFullError, match="3 requests are being made and 4 wait"):
        engine.submit(make_piece(8, 1))
    assert engine.metrics().refused == 1
    streams[2].cancel()
    eventually(lambda: engine.metrics().cancelled == 1)
    engine.submit(make_piece(8, 1))


def test_deadlines_end_requests_in_slots_and_in_line(engine: SlotEngine) -> None:
    slow = [engine.submit(make_piece(number, LONG), deadline_s=0.2) for number in range(5)]
    for stream in slow:
        with pytest.raises(DeadlineError):
            stream.read(LONG)
    quick = engine.submit(make_piece(9, 3), deadline_s=60)
    assert len(list(quick)) == 3
    assert engine.metrics().expired == 5


def test_a_request_beyond_the_limits_is_refused(engine: SlotEngine) -> None:
    with pytest.raises(UserError, match="over the limit of 9"):
        engine.submit(piece_of(collate_text([np.zeros((10, 6), np.float16)]), 5))


def test_closing_ends_everything() -> None:
    before = set(threading.enumerate())
    engine = SlotEngine(make_lm(), slots=2, text_tokens=TOKENS)
    streams = [engine.submit(make_piece(number, LONG)) for number in range(4)]
    next(streams[0])
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(stream.read, LONG) for stream in streams]
        engine.close()
        for outcome in outcomes:
            assert isinstance(outcome.exception(timeout=20), EngineClosedError)
    with pytest.raises(EngineClosedError, match="is closed"):
        engine.submit(make_piece(1, 1))
    engine.close()
    assert "slot-engine" not in {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.parametrize("place", ["join", "step"])
def test_a_failure_reaches_everyone(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    engine = SlotEngine(make_lm(), slots=2, text_tokens=TOKENS)
    streams = [engine.submit(make_piece(number, LONG)) for number in range(4)]
    next(streams[0])

    def broken(*_: object) -> None:
        raise ArithmeticError("out of numbers")

    monkeypatch.setattr(SlotBatch, place, broken)
    streams[0].cancel()  # so that another joins
    for stream in streams[1:]:
        with pytest.raises(EngineClosedError, match="has failed") as caught:
            stream.read(LONG)
        assert isinstance(caught.value.__cause__, ArithmeticError)
    with pytest.raises(EngineClosedError, match="has failed"):
        engine.submit(make_piece(1, 1))
    engine.close()


def test_an_idle_engine_rests(engine: SlotEngine) -> None:
    assert len(list(engine.submit(make_piece(1, 5)))) == 5
    eventually(lambda: engine.metrics().in_use == 0)
    steps = engine.metrics().steps
    start = time.thread_time()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1 + time.thread_time() - start
    assert engine.metrics().steps == steps
