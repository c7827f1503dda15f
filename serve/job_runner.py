"""Makes the clips of jobs in the background, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import uuid

from serve.delivery import Delivery, encoded
from serve.jobs import ATTEMPTS, JobStore
from serve.limits import Limits
from serve.schema import ClipForm, Job
from serve.service import Service
from serve.wire import Refusal, RefusedError

logger = logging.getLogger("ssmttm.serve")

LOOK_S = 1.0  # between looks for work
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

    def start(self, delivery: Delivery) -> None:
        """Begin to work, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work(delivery)) for _ in range(self._limits.jobs_running)]

    async def stop(self) -> None:
        """End; jobs in the making go back in line."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, caller: str, request: ClipForm, seed: int) -> Job | None:
        return await asyncio.to_thread(self._store.add, caller, request, seed, self._limits.jobs_queued)

    async def get(self, job: str, caller: str) -> Job | None:
        return await asyncio.to_thread(self._store.get, job, caller)

    async def cancel(self, job: str, caller: str) -> Job | None:
        return await asyncio.to_thread(self._store.cancel, job, caller)

    async def counts(self) -> dict[str, int]:
        return await asyncio.to_thread(self._store.counts)

    def path(self, job: Job) -> str:
        return self._store.path(job.id, job.request.format)

    async def _work(self, delivery: Delivery) -> None:
        while True:
            try:
                await asyncio.to_thread(self._store.expire)
                job = await asyncio.to_thread(self._store.claim, self._owner)
                if job is None:
                    await asyncio.sleep(LOOK_S)
                else:
                    await self._make(job, delivery)
            except Exception:  # a full disk, for one: the next look may go better
                logger.exception("jobs cannot be worked at")
                await asyncio.sleep(LOOK_S)

    async def _make(self, job: Job, delivery: Delivery) -> None:
        request = job.request.request(job.seed)
        progress = 0.0

        def on_progress(share: float) -> None:
            nonlocal progress
            progress = share

        making = asyncio.create_task(delivery.whole(request, _never_gone, on_progress))
        try:
            while not (await asyncio.wait([making], timeout=BEAT_S))[0]:
                if not await asyncio.to_thread(self._store.report, job.id, self._owner, progress):
                    return  # cancelled, or another's
            audio = making.result()
            model = await self._service.describe()
            data = await encoded(audio, job.request.format, model.id, request)
            await asyncio.to_thread(self._store.keep, job.id, self._owner, data, job.request.format)
        except RefusedError as error:
            await self._refused(job, error.refusal)
        except asyncio.CancelledError:
            self._store.release(job.id, self._owner)
            raise
        except Exception:
            logger.exception("job %s failed", job.id)
            await asyncio.to_thread(self._store.fail, job.id, self._owner, "internal error; the log has it")
        finally:
            making.cancel()

    async def _refused(self, job: Job, refusal: Refusal) -> None:
        """Try again later what could not be made now; only what was begun counts as an attempt."""
        if refusal.status not in TEMPORARY or (refusal.status != 429 and job.attempts >= ATTEMPTS):
            await asyncio.to_thread(self._store.fail, job.id, self._owner, refusal.message)
            return
        await asyncio.sleep(PAUSE_S)
        await asyncio.to_thread(self._store.release, job.id, self._owner, refusal.status != 429)


async def _never_gone() -> bool:
    return False
