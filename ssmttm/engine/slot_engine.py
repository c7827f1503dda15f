"""The loop that keeps slots busy: requests wait their turn, join the batch, and hand over frames as they are written.

One thread runs the batch. Everything else only talks to it: `submit`, `cancel` and `close` may be called from any
thread. Shapes: K codebooks, T frames.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from ssmttm.engine.piece import Piece
from ssmttm.engine.slots import NEVER, Member, Rereading, SlotBatch
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads
from ssmttm.model.lm import MusicLM

JOINING = 8  # requests whose prompts are read together, at most: the others' frames wait meanwhile


class QueueFullError(RuntimeError):
    """All slots are taken and as many requests wait as may."""


class CancelledError(RuntimeError):
    """The request was cancelled."""


class DeadlineError(TimeoutError):
    """The request was not done in time."""


class EngineClosedError(RuntimeError):
    """The engine was closed, or has failed; the cause is the exception that it failed with."""


class CodeStream:
    """What `SlotEngine.submit` gives: an iterator over the frames of a piece, int64 [K] each, as they are written.

    It raises `CancelledError`, `DeadlineError` or `EngineClosedError` where it ends early, at once.
    """

    def __init__(self, piece: Piece, codebooks: int, deadline: float | None):
        self.piece, self.deadline = piece, deadline
        self._codebooks = codebooks
        self._written: deque[np.ndarray] = deque()
        self._changed = threading.Condition()
        self._wanted, self._ended = 0, False
        self._error: BaseException | None = None

    def __iter__(self) -> CodeStream:
        return self

    def __next__(self) -> np.ndarray:
        codes_KT = self.read(1)
        if codes_KT.shape[1] == 0:
            raise StopIteration
        return codes_KT[:, 0]

    def read(self, frames: int) -> np.ndarray:
        """The next `frames` frames [K, T] once all are written; fewer only where the request ends."""
        with self._changed:
            self._wanted = frames
            self._changed.wait_for(lambda: self._ended or len(self._written) >= frames)
            if self._error is not None:
                raise self._error
            taken = [self._written.popleft() for _ in range(min(frames, len(self._written)))]
        return np.stack(taken, axis=1) if taken else np.zeros((self._codebooks, 0), np.int64)

    @property
    def ended(self) -> bool:
        """Whether nothing more will be written."""
        return self._ended

    def cancel(self) -> None:
        """Free the slot at the next step, or the place in line; does nothing if the request has ended."""
        self.end(CancelledError("the request was cancelled"))

    def push(self, codes_K: np.ndarray) -> None:
        """For the engine: one more frame."""
        with self._changed:
            self._written.append(codes_K)
            if len(self._written) >= self._wanted:
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """For the engine: nothing follows."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()


@dataclass
class EngineMetrics:
    """Counted since the start. `waiting` and `in_use` are of now; seconds are those the loop was busy."""

    slots: int
    waiting: int = 0
    in_use: int = 0
    requests: int = 0
    refused: int = 0
    cancelled: int = 0
    expired: int = 0
    steps: int = 0
    frames: int = 0
    prefill_seconds: float = 0.0
    step_seconds: float = 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames of all requests together, over the time the loop was busy."""
        busy = self.prefill_seconds + self.step_seconds
        return self.frames / busy if busy else 0.0


class SlotEngine:
    """Writes codes for many requests at once, each in a slot of a batch that changes from step to step.

    Args:
        lm: in evaluation mode.
        slots: requests in the batch at most.
        text_tokens: the longest prompt.
        waiting: requests that may wait for a slot.
        deterministic, rereading: see `SlotBatch`; where deterministic, torch takes one thread.
        compiled: let torch.compile fuse the step on a CPU; where that fails a warning says so.

    Raises:
        UserError: if the model's state grows with the stream.
    """

    def __init__(
        self,
        lm: MusicLM,
        slots: int = 8,
        text_tokens: int = 96,
        waiting: int = 32,
        deterministic: bool = False,
        compiled: bool = False,
        rereading: Rereading = NEVER,
    ):
        if not lm.fixed_state:
            raise UserError(
                f"a stream of the backbone {lm.config.backbone} remembers ever more, and slots have a fixed size; "
                "serve a bundle of prefix_simba, prefix_mamba or cross_simba"
            )
        self._codebooks = lm.config.num_codebooks
        self._batch = SlotBatch(lm, slots, text_tokens, deterministic, rereading)
        self._compiled, self._most_waiting = compiled, waiting
        self._metrics = EngineMetrics(slots)
        self._streams: set[CodeStream] = set()  # all that have not ended
        self._waiting: deque[CodeStream] = deque()
        self._active: dict[Member, CodeStream] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        run = torch_threads()(self._run) if deterministic else self._run
        self._thread = threading.Thread(target=run, name="slot-engine", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def submit(self, piece: Piece, deadline_s: float | None = None) -> CodeStream:
        """Put a piece into the batch, or in line for it.

        Args:
            deadline_s: seconds from now by which its last frame must be written.

        Raises:
            UserError: if its text or length is beyond the limits.
            QueueFullError: if too many wait already.
            EngineClosedError: after `close`, or a failure.
        """
        self._batch.check(piece)
        stream = CodeStream(piece, self._codebooks, None if deadline_s is None else time.monotonic() + deadline_s)
        with self._changed:
            if self._closed:
                raise self._end_of_service()
            if len(self._streams) >= self._metrics.slots + self._most_waiting:
                self._metrics.refused += 1
                raise QueueFullError(
                    f"{self._metrics.slots} requests are being made and {self._most_waiting} wait; try again later"
                )
            self._metrics.requests += 1
            self._streams.add(stream)
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    def metrics(self) -> EngineMetrics:
        """A snapshot."""
        with self._changed:
            return replace(self._metrics, waiting=len(self._waiting), in_use=len(self._active))

    def close(self) -> None:
        """End all requests, waiting ones too, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> SlotEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_of_service(self) -> EngineClosedError:
        error = EngineClosedError("the engine has failed" if self._failure else "the engine is closed")
        error.__cause__ = self._failure
        return error

    def _run(self) -> None:
        try:
            self._batch.warm_up(self._compiled)
            self._ready.set()
            while self._admit():
                self._step()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            self._failure = error
        with self._changed:
            self._closed = True
            left = list(self._streams)
            self._streams.clear()
            self._waiting.clear()
            self._active.clear()
        for stream in left:
            stream.end(self._end_of_service())
        self._ready.set()

    def _admit(self) -> bool:
        """Let those go who are done with, let others join; wait while there is nobody. False: the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            if self._closed:
                return False
            self._drop_ended()
            gone = [member for member, stream in self._active.items() if stream not in self._streams]
            for member in gone:
                del self._active[member]
            room = min(self._batch.free + len(gone), JOINING)
            rows = self._batch.free_rows + sum(len(member.rows) for member in gone)
            joining: list[CodeStream] = []
            while self._waiting and len(joining) < room and self._waiting[0].piece.request.rows <= rows:
                joining.append(self._waiting.popleft())  # in their order: who takes many rows is not passed by
                rows -= joining[-1].piece.request.rows
        if gone:
            self._batch.leave(gone)
        if joining:
            self._join(joining)
        return True

    def _drop_ended(self) -> None:
        """Forget those who were cancelled since, or are too late."""
        cancelled = {stream for stream in self._streams if stream.ended}
        now = time.monotonic()
        late = {stream for stream in self._streams - cancelled if stream.deadline is not None and stream.deadline < now}
        for stream in late:
            stream.end(DeadlineError("the request was not done by its deadline"))
        if cancelled or late:
            self._streams -= cancelled | late
            self._waiting = deque(stream for stream in self._waiting if stream in self._streams)
            self._metrics.cancelled += len(cancelled)
            self._metrics.expired += len(late)

    def _join(self, joining: list[CodeStream]) -> None:
        start = time.perf_counter()
        members = self._batch.join([stream.piece for stream in joining])
        with self._changed:
            self._active.update(zip(members, joining, strict=True))
            self._metrics.prefill_seconds += time.perf_counter() - start

    def _step(self) -> None:
        if not self._active:  # all have left
            return
        start = time.perf_counter()
        written = self._batch.step()
        done = []
        for member, codes_K, is_frame, is_last in zip(self._batch.members, *written, strict=True):
            if is_frame:
                self._active[member].push(codes_K)
            if is_last:
                done.append(member)
        if done:
            self._batch.leave(done)
        with self._changed:
            for member in done:
                stream = self._active.pop(member)
                stream.end()
                self._streams.remove(stream)
            self._metrics.steps += 1
            self._metrics.frames += int(written.is_frame_n.sum())
            self._metrics.step_seconds += time.perf_counter() - start
