"""The HTTP surface: routes over anything that can describe a model and make clips. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import ssmttm
from serve import page, problems
from serve.delivery import TOO_LATE, Delivery, GoneError, IsGone, as_json, as_wav_stream, encoded
from serve.guard import Guard
from serve.job_routes import add_job_routes
from serve.job_runner import JobRunner
from serve.jobs import JobsError
from serve.limits import ENDING, Keys, Limits, Places
from serve.metrics import MEDIA_TYPE, Metrics
from serve.schema import MEDIA_TYPES, ClipList, Error, Health, Model, ModelList, MusicForm, Upload
from serve.service import Service
from serve.uploads import Uploads
from serve.wire import LostError, Refusal, RefusedError
from ssmttm.audio import Audio
from ssmttm.engine.request import MAX_SEED, MusicRequest, draw_seed
from ssmttm.errors import UserError

READY_S = 5.0
FORM_LIMITS = {"max_files": 1, "max_fields": 40, "max_part_size": 65_536}
COMMON: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "the model cannot make this"},
    401: {"model": Error, "description": "no or unknown API key"},
    403: {"model": Error, "description": "without keys: for this machine and the service's own page only"},
    408: {"model": Error, "description": "the body came too slowly"},
    413: {"model": Error, "description": "the body is too large"},
    415: {"model": Error, "description": "the body is of another Content-Type"},
    422: {"model": Error, "description": "a field is missing, unknown or out of bounds"},
    421: {"model": Error, "description": "without keys: for callers who name this machine only"},
    429: {"model": Error, "description": "too much at a time; Retry-After says when to come back"},
    431: {"model": Error, "description": "the headers are too large"},
    503: {"model": Error, "description": "interrupted, or not ready yet"},
    504: {"model": Error, "description": "no audio was made in time"},
}
AUDIO: dict[str, Any] = {
    "model": ClipList,
    "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()},
    "description": "the clip, an audio file; with answer=json or several variations, JSON",
}

MUSIC = {200: AUDIO, **{status: COMMON[status] for status in (400, 415, 422, 503, 504)}}


def refused(refusal: Refusal) -> JSONResponse:
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return problems.told(refusal.status, refusal.message, headers)


async def _refuse_input(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problems.of_input(request, error)


async def _refuse_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problems.of_route(request, error)


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return refused(error.refusal)


async def _refuse_job(_: Request, error: Exception) -> JSONResponse:
    return refused(Refusal(503, f"{error}; try again later", 30))


async def _say_nothing(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it; the log has it


class Answers:
    """What the routes share: a bound on requests in flight, and the forms an answer has.

    Args:
        places: of requests in flight; an upload has one already.
    """

    def __init__(self, service: Service, limits: Limits, metrics: Metrics, places: Places):
        self._service, self._places = service, places
        self._delivery = Delivery(service, metrics, limits.deadline_s)

    async def answer(self, wanted: list[MusicRequest], request: Request, form: MusicForm) -> Response:
        model = await self._service.describe()
        if form.stream:
            return await self._stream(wanted[0], request, model)
        with self._places.taken(len(wanted) - request.state.places):
            made = [asyncio.ensure_future(self._delivery.whole(one, self._is_gone(request))) for one in wanted]
            try:
                clips = await asyncio.gather(*made)
            finally:
                for task in made:
                    task.cancel()
                await asyncio.wait(made)
        if form.answer == "json" or len(wanted) > 1:
            pairs = zip(clips, wanted, strict=True)
            data = [await as_json(clip, form.format, model.id, one) for clip, one in pairs]
            content = ClipList(data=data).model_dump_json(exclude_unset=True)
            return Response(content, media_type="application/json")
        data = await encoded(clips[0], form.format, model.id, wanted[0])
        headers = headers_of(model, wanted[0], form.format)
        return Response(data, media_type=MEDIA_TYPES[form.format], headers=headers)

    def _is_gone(self, request: Request) -> IsGone:
        async def is_gone() -> bool:
            if self._places.are_closed:
                raise RefusedError(ENDING)
            return await request.is_disconnected()

        return is_gone

    async def _stream(self, wanted: MusicRequest, request: Request, model: Model) -> Response:
        place = ExitStack()
        place.enter_context(self._places.taken(1 - request.state.places))
        with place:
            clip = await self._delivery.begin(wanted, self._is_gone(request))
            kept = place.pop_all()
        return _Stream(as_wav_stream(clip, model.id, wanted), kept, headers_of(model, wanted, "wav"))


class _Stream(StreamingResponse):
    """Audio as it is made. Its place is given back however the answer ends, even before its first byte."""

    def __init__(self, body: AsyncGenerator[bytes], place: ExitStack, headers: dict[str, str]):
        super().__init__(body, media_type=MEDIA_TYPES["wav"], headers=headers)
        self._body, self._place = body, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()
            self._place.close()


def headers_of(model: Model, made: MusicRequest, extension: str) -> dict[str, str]:
    return {
        "X-Seed": str(made.seed),
        "X-Model": model.id,
        "X-AI-Generated": "true",
        "Content-Disposition": f'inline; filename="{model.id}-{made.seed}.{extension}"',
    }


def requests_of(form: MusicForm, audio: Audio | None = None) -> list[MusicRequest]:
    """One per variation, of consecutive seeds."""
    seed = draw_seed() if form.seed is None else form.seed
    return [form.request((seed + number) % (MAX_SEED + 1), audio) for number in range(form.variations)]


def make_api(
    service: Service,
    limits: Limits | None = None,
    keys: Keys | None = None,
    jobs: JobRunner | None = None,
    tell_id: bool = True,
) -> FastAPI:
    """The routes and their OpenAPI document. `state.end` refuses whoever comes, gives jobs back, and returns when the
    clips in the making are made, or broken off after `limits.grace_s`.

    Args:
        keys: none leaves it open to this machine.
        jobs: without it there are no jobs.
        tell_id: see `Guard`.
    """
    limits, keys, metrics = limits or Limits(), keys or Keys(), Metrics()
    places, uploads = Places(limits.in_flight, metrics.in_flight.set), Uploads(limits.given_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if jobs is not None:
            jobs.start(Delivery(service, metrics, limits.deadline_s))
        yield
        if jobs is not None:
            await jobs.stop()

    api = FastAPI(
        title="ssmttm",
        version=ssmttm.__version__,
        description="Music from text. Every file says in its metadata that it is AI-generated, and from what.",
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={status: COMMON[status] for status in (401, 403, 408, 413, 421, 429, 431)},
        exception_handlers={
            RequestValidationError: _refuse_input,
            HTTPException: _refuse_route,
            RefusedError: _refuse,
            GoneError: _say_nothing,
            JobsError: _refuse_job,
        },
    )
    api.add_middleware(Guard, limits=limits, keys=keys, metrics=metrics, places=places, tell_id=tell_id)
    answers = Answers(service, limits, metrics, places)

    async def end() -> None:
        ending = asyncio.ensure_future(places.close(limits.grace_s))
        if jobs is not None:
            await jobs.stop()
        await ending

    api.state.end = end

    @api.post("/v1/music/generations", response_class=Response, responses=MUSIC)
    async def generate(form: MusicForm, request: Request) -> Response:
        """Make a clip. The headers X-Seed and X-Model name what reproduces it."""
        return await answers.answer(requests_of(form), request, form)

    @api.post("/v1/music/extensions", response_class=Response, responses=MUSIC, form_limits=FORM_LIMITS)
    async def extend(request: Request, form: Annotated[Upload, Form(media_type="multipart/form-data")]) -> Response:
        """Continue audio that you send (WAV, FLAC, OGG or MP3): it comes back with `seconds` of music after it."""
        decoded = uploads.decoded(form.audio.file, await service.describe(), form.variations)
        try:
            async with asyncio.timeout(limits.deadline_s):
                given = await request.state.held.enter_async_context(decoded)
        except TimeoutError:
            return refused(TOO_LATE)
        except UserError as error:
            return refused(Refusal(400, str(error)))
        return await answers.answer(requests_of(form, given), request, form)

    @api.get("/v1/models")
    async def models() -> ModelList:
        """The model behind this service, with its limits and defaults."""
        return ModelList(data=[await service.describe()])

    @api.get("/healthz")
    async def healthz() -> Health:
        """Whether this ingress is alive."""
        return Health(status="ok")

    @api.get("/readyz", responses={503: COMMON[503]})
    async def readyz() -> Health:
        """Whether clips can be made: answers once the models are loaded, and stays quick while clips are made."""
        try:
            async with asyncio.timeout(READY_S):
                await service.describe()
                ready = await service.counters()
        except (TimeoutError, LostError):
            ready = []
        if not ready or places.are_closing:
            raise HTTPException(503, "no language model is ready; try again later", {"Retry-After": "5"})
        return Health(status="ok")

    @api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Counters in Prometheus' text format: of this ingress, and of all language models."""
        states = {} if jobs is None else await jobs.counts()
        return Response(metrics.text(await service.counters(), states), media_type=MEDIA_TYPE)

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        """The page."""
        return HTMLResponse(page.HTML, headers={"Content-Security-Policy": page.POLICY})

    if jobs is not None:
        add_job_routes(api, service, jobs)
    return api
