"""Routes of jobs: clips that are made in the background, for pieces longer than a caller wants to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from serve.delivery import made_from
from serve.job_runner import JobRunner
from serve.jobs import LOST
from serve.problems import told
from serve.schema import MEDIA_TYPES, ClipForm, Error, Job, Provenance
from serve.service import Service
from serve.wire import RefusedError
from ssmttm.engine.request import draw_seed

LOOK_S = 0.5  # between looks for progress
ENDS = {"done", "failed", "cancelled"}
JobId = Annotated[str, Path(alias="id", min_length=32, max_length=32, pattern="^[0-9a-f]{32}$")]
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "no such job, or it has expired"}}
UNDONE: dict[int | str, dict[str, Any]] = {409: {"model": Error, "description": "the job is not done"}}
GONE: dict[str, Any] = {"model": Error, "description": "the file is lost"}


FILE: dict[str, Any] = {"content": {media: {} for media in MEDIA_TYPES.values()}}
RANGES: dict[int | str, dict[str, Any]] = {
    206: {"content": {**FILE["content"], "multipart/byteranges": {}}, "description": "the ranges that were asked for"},
    416: {"model": Error, "description": "the range is not one of this file"},
}


class _File(FileResponse):
    """A file, or the range of it that is asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # RFC 9110, 14.2: units that nobody knows count as not given.
        unit = Headers(scope=scope).get("range", "bytes=").partition("=")[0].strip().lower()
        if unit != "bytes":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() != b"range"]}

        async def in_json(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _BadRangeError
            await send(message)

        try:
            await super().__call__(scope, receive, in_json)
        except _BadRangeError:
            size = self.headers["content-length"]
            message = f"the range is not one of this file of {size} bytes; give e.g. Range: bytes=0-1023, or none"
            await told(416, message, {"Content-Range": f"bytes */{size}"})(scope, receive, send)


class _BadRangeError(Exception):
    pass


def add_job_routes(api: FastAPI, service: Service, jobs: JobRunner) -> None:
    """Add them to an API; callers see their own jobs only."""

    async def own(job_id: str, request: Request) -> Job:
        job = await jobs.get(job_id, request.state.caller)
        if job is None:
            raise HTTPException(404, "there is no such job, or it has expired")
        return job

    async def done(job_id: str, request: Request) -> Job:
        job = await own(job_id, request)
        if job.state != "done":
            why = f" ({job.error})" if job.error else ""
            raise HTTPException(409, f"the job is {job.state}{why}; there is no file")
        return job

    @api.post(
        "/v1/music/jobs",
        status_code=202,
        responses={400: {"model": Error}, 415: {"model": Error}, 422: {"model": Error}},
    )
    async def begin(form: ClipForm, request: Request, response: Response) -> Job:
        """Begin a job."""
        seed = draw_seed() if form.seed is None else form.seed
        refusal = await service.check(form.request(seed))
        if refusal is not None:
            raise RefusedError(refusal)
        job = await jobs.add(request.state.caller, form, seed)
        if job is None:
            raise HTTPException(429, "too many jobs are waiting; try again later", {"Retry-After": "60"})
        response.headers["Location"] = f"/v1/music/jobs/{job.id}"
        return job

    @api.get("/v1/music/jobs/{id}", responses=MISSING)
    async def read(job_id: JobId, request: Request) -> Job:
        """How far it is."""
        return await own(job_id, request)

    @api.get(
        "/v1/music/jobs/{id}/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "jobs"},
            **MISSING,
        },
    )
    async def events(job_id: JobId, request: Request) -> Response:
        """How far it is, as server-sent events: the job, whenever it changes, until it ends."""
        job = await own(job_id, request)

        async def told(job: Job | None) -> AsyncGenerator[str]:
            last = None
            while job is not None and not await request.is_disconnected():
                if job != last:
                    yield f"event: job\ndata: {job.model_dump_json()}\n\n"
                if job.state in ENDS:
                    return
                last = job
                await asyncio.sleep(LOOK_S)
                if jobs.ended:  # browsers ask again by themselves
                    return
                job = await jobs.get(job_id, request.state.caller)

        return StreamingResponse(told(job), media_type="text/event-stream")

    @api.get(
        "/v1/music/jobs/{id}/result",
        response_class=FileResponse,
        responses={200: FILE, **RANGES, **MISSING, **UNDONE, 410: GONE},
    )
    async def result(job_id: JobId, request: Request) -> Response:
        """The file."""
        job = await done(job_id, request)
        path = await jobs.path(job)
        if path is None:
            raise HTTPException(410, LOST)
        name = f"{(await service.describe()).id}-{job.seed}.{job.request.format}"
        return _File(path, media_type=MEDIA_TYPES[job.request.format], filename=name)

    @api.get("/v1/music/jobs/{id}/provenance", responses={**MISSING, **UNDONE}, response_model_exclude_unset=True)
    async def provenance(job_id: JobId, request: Request) -> Provenance:
        """What made the file, as the file says it too."""
        job = await done(job_id, request)
        return Provenance(**made_from((await service.describe()).id, job.request.request(job.seed)))

    @api.delete("/v1/music/jobs/{id}", responses=MISSING)
    async def cancel(job_id: JobId, request: Request) -> Job:
        """End it, or delete its file."""
        job = await jobs.cancel(job_id, request.state.caller)
        if job is None:
            raise HTTPException(404, "there is no such job, or it has expired")
        return job
