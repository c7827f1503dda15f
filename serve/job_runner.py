"""Makes the clips of jobs in the background, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serve.delivery import Delivery, encoded
from serve.jobs import ATTEMPTS, JobsError, JobStore
from serve.limits import Limits
from serve.schema import ClipForm, Job
from serve.service import Service
from serve.wire import Refusal, RefusedError

logger = logging.getLogger("ssmttm.serve")

Value = TypeVar("Value")
LOOK_S = 1.0  # between looks for work
LONGEST_LOOK_S = 30.0  # while they fail
BEAT_S = 2.0  # between signs of life
PAUSE_S = 3.0  # before a job that could not be made now goes back in line
TEMPORARY = {429, 503, 504}


class JobRunner:
    """Workers over a `JobStore`. A job that its process left behind, by dying, is begun again by whoever sees it.

    Args:
        limits: `jobs_running` and `jobs_queued` of them.
    """

    def __init__(self, store: JobStore, service: Service, limits: Limits):
        self._store, self._service, self._limits = store, service, limits
        self._owner = uuid.uuid4().hex
        self._tasks: list[asyncio.Task[None]] = []
        # One thread: what was asked of the store before the end comes before the end.
        self._thread = ThreadPoolExecutor(1, "jobs")
        self.ended = False

    def start(self, delivery: Delivery) -> None:
        """Begin to work, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work(delivery)) for _ in range(self._limits.jobs_running)]

    async def stop(self) -> None:
        """End; jobs in the making go back in line, for whoever comes next."""
        self.ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._call(self._store.give_back, self._owner)
        except JobsError as error:  # then they are taken over from the dead
            logger.error("jobs cannot be given back: %s", error)

    async def add(self, caller: str, request: ClipForm, seed: int) -> Job | None:
        return await self._call(self._store.add, caller, request, seed, self._limits.jobs_queued)

    async def get(self, job: str, caller: str) -> Job | None:
        return await self._call(self._store.get, job, caller)

    async def cancel(self, job: str, caller: str) -> Job | None:
        return await self._call(self._store.cancel, job, caller)

    async def path(self, job: Job) -> str | None:
        return await self._call(self._store.path, job.id)

    async def counts(self) -> dict[str, int]:
        """Jobs by state; none while they cannot be read."""
        try:
            return await self._call(self._store.counts)
        except JobsError:
            return {}

    async def _call(self, method: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._thread, method, *arguments)

    async def _work(self, delivery: Delivery) -> None:
        pause_s = LOOK_S
        while True:
            try:
                await self._call(self._store.expire)
                job = await self._call(self._store.claim, self._owner)
                if job is not None:
                    await self._make(job, delivery)
                pause_s = LOOK_S
            except JobsError as error:  # a full disk, for one: a later look may go better
                pause_s = min(2 * pause_s, LONGEST_LOOK_S)
                logger.error("%s; looking again in %.0f s", error, pause_s)
                job = None
            except Exception:
                logger.exception("jobs cannot be worked at")
                job = None
            if job is None:
                await asyncio.sleep(pause_s)

    async def _make(self, job: Job, delivery: Delivery) -> None:
        progress = 0.0

        def on_progress(share: float) -> None:
            nonlocal progress
            progress = share

        making = asyncio.create_task(self._made(job, delivery, on_progress))
        try:
            while not (await asyncio.wait([making], timeout=BEAT_S))[0]:
                try:
                    if not await self._call(self._store.report, job.id, self._owner, progress):
                        return  # cancelled, or another's
                except JobsError as error:
                    logger.error("job %s: %s", job.id, error)
            making.result()
        except RefusedError as error:
            await self._refused(job, error.refusal)
        except JobsError as error:
            logger.error("job %s: %s", job.id, error)
            await self._refused(job, Refusal(503, str(error)))
        except Exception:
            logger.exception("job %s failed", job.id)
            await self._call(self._store.fail, job.id, self._owner, "internal error; the log has it")
        finally:
            making.cancel()

    async def _made(self, job: Job, delivery: Delivery, on_progress: Callable[[float], None]) -> None:
        """Signs of life go on until the file is there: long ones take a while to encode."""
        request = job.request.request(job.seed)
        audio = await delivery.whole(request, _never_gone, on_progress)
        model = await self._service.describe()
        data = await encoded(audio, job.request.format, model.id, request)
        await asyncio.to_thread(self._store.keep, job.id, self._owner, data, job.request.format)

    async def _refused(self, job: Job, refusal: Refusal) -> None:
        """Try again later what could not be made now; only what was begun counts as an attempt."""
        if refusal.status not in TEMPORARY or (refusal.status != 429 and job.attempts >= ATTEMPTS):
            await self._call(self._store.fail, job.id, self._owner, refusal.message)
            return
        await asyncio.sleep(PAUSE_S)
        if refusal.status == 429:
            await self._call(self._store.give_back, self._owner, job.id)
        else:
            await self._call(self._store.release, job.id, self._owner)


async def _never_gone() -> bool:
    return False
