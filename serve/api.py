"""The HTTP surface: routes over anything that can describe a model and make clips. Knows nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

import ssmttm
from serve.schema import MEDIA_TYPES, Error, Health, Model, ModelList, MusicRequest


@dataclass(frozen=True)
class Clip:
    """What the generator answers: an encoded file with its seed, length and making time, or why there is none."""

    data: bytes = b""
    seed: int = 0
    seconds: float = 0.0
    wall_s: float = 0.0
    error: str | None = None


class Service(Protocol):
    """The generator as the routes see it."""

    async def describe(self) -> Model: ...

    async def create(self, request: MusicRequest) -> Clip: ...


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    # The framework's own answer repeats the input, and fails where that cannot be JSON (NaN).
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 422)


def make_api(service: Service) -> FastAPI:
    """The routes and their OpenAPI document."""
    api = FastAPI(
        title="ssmttm",
        version=ssmttm.__version__,
        description="Music from text. Every file says in its metadata that it is AI-generated, and from what.",
        exception_handlers={RequestValidationError: _refuse},
    )
    audio = {"content": {media: {} for media in MEDIA_TYPES.values()}, "description": "the clip, an audio file"}

    @api.post(
        "/v1/music/generations",
        response_class=Response,
        responses={200: audio, 400: {"model": Error}, 422: {"model": Error}},
    )
    async def create(request: MusicRequest) -> Response:
        """Make a clip. The headers X-Seed and X-Model name what reproduces it."""
        model, clip = await service.describe(), await service.create(request)
        if clip.error is not None:
            return JSONResponse({"error": clip.error}, 400)
        headers = {
            "X-Seed": str(clip.seed),
            "X-Model": model.id,
            "X-AI-Generated": "true",
            "X-Real-Time-Factor": f"{clip.seconds / clip.wall_s:.2f}",
            "Content-Disposition": f'inline; filename="{model.id}-{clip.seed}.{request.format}"',
        }
        return Response(clip.data, media_type=MEDIA_TYPES[request.format], headers=headers)

    @api.get("/v1/models")
    async def models() -> ModelList:
        """The model behind this service, with its limits and defaults."""
        return ModelList(data=[await service.describe()])

    @api.get("/healthz")
    async def healthz() -> Health:
        """Answers once the model is loaded, and stays quick while clips are being made."""
        await service.describe()
        return Health(status="ok")

    return api
