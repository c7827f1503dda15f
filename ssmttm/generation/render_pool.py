"""One thread that renders windows of many pieces, several in a call where they have one shape."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from ssmttm.generation.fine import Window
from ssmttm.generation.render import Renderer, Track
from ssmttm.threads import torch_threads

BATCH = 8


class PoolClosedError(RuntimeError):
    """The pool was closed before a window was rendered."""


@dataclass(eq=False)
class _Job:
    track: Track
    window: Window
    audio: Future[Tensor] = field(default_factory=Future)


class RenderPool:
    """Renders for tracks that live in other threads.

    Args:
        batch: windows in a call at most; default: `BATCH` on a GPU, one on a CPU, which renders them no faster together
            and keeps everyone waiting for all.
        deterministic: one window at a time on one thread of torch, so that neither how many wait nor the machine
            chooses between kernels.
    """

    def __init__(self, renderer: Renderer, batch: int | None = None, deterministic: bool = False):
        self.renderer = renderer
        self._batch = 1 if deterministic else batch or (1 if renderer.device.type == "cpu" else BATCH)
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        run = torch_threads()(self._run) if deterministic else self._run
        self._thread = threading.Thread(target=run, name="render-pool", daemon=True)
        self._thread.start()

    def render(self, track: Track, codes_BKT: Tensor) -> Tensor:
        """The audio [B, 1, N] of a track's next window, given the codes that it wants. Waits until it is rendered.

        Raises:
            PoolClosedError: after `close`.
        """
        job = _Job(track, track.window(codes_BKT))
        with self._changed:
            if self._closed:
                raise PoolClosedError("the renderer is closed")
            self._jobs.append(job)
            self._changed.notify()
        return job.audio.result()

    def close(self) -> None:
        """End the thread; windows that wait are not rendered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[_Job]:
        """The shortest window, the oldest of several, and others of its shape; none at the end. A short one
        begins a piece that nobody hears yet, or ends one, and costs the others little."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            if self._closed:
                return []
            shape = min(self._jobs, key=lambda job: job.window.owned).window.shape
            taken = [job for job in self._jobs if job.window.shape == shape][: self._batch]
            self._jobs = deque(job for job in self._jobs if job not in taken)
            return taken

    def _run(self) -> None:
        while jobs := self._take():
            try:
                finished = self.renderer.complete([job.window for job in jobs])
            except BaseException as error:  # belongs to those who wait
                for job in jobs:
                    job.audio.set_exception(error)
                continue
            for job, done in zip(jobs, finished, strict=True):
                try:
                    job.audio.set_result(job.track.hear(done))
                except BaseException as error:
                    job.audio.set_exception(error)
        for job in self._jobs:
            job.audio.set_exception(PoolClosedError("the renderer is closed"))
