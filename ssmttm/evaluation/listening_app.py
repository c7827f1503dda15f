"""The listening test over HTTP: one page and four routes. Names of systems and files never leave the server.

A session is an id that the server draws; the order of trials follows from it, so a page that is loaded again goes on
where it was. Clips are asked for by trial and side.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ssmttm import audio
from ssmttm.evaluation.listening import CHECK_TEXT, Settings, Stimuli, Trial, plan
from ssmttm.evaluation.listening_store import Answers

MAX_BODY_BYTES = 2000
CACHED_CLIPS = 64  # encoded, about half a megabyte each
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Given(BaseModel):
    """An answer as the page sends it; which fields a trial needs follows from its kind."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preference: Literal["a", "b", "same"] | None = None
    quality: int | None = Field(None, ge=1, le=5)
    relevance: int | None = Field(None, ge=1, le=5)


def _problem(trial: Trial, given: Given, has_text: bool) -> str | None:
    is_pair = trial.kind.startswith("pair")
    wanted = {"preference"} if is_pair else {"quality", "relevance"} if has_text else {"quality"}
    got = {name for name in ("preference", "quality", "relevance") if getattr(given, name) is not None}
    return None if got == wanted else f"this question takes {' and '.join(sorted(wanted))}"


def make_app(stimuli: Stimuli, answers: Answers, settings: Settings) -> FastAPI:
    """The routes of a test.

    Raises:
        UserError: if the answers are of another test, or there are no two systems to pair.
    """
    plan("any", stimuli.systems, stimuli.items, settings)
    answers.settle(stimuli.systems, stimuli.items, settings)
    app = FastAPI(title="ssmttm listening test", docs_url=None, redoc_url=None, openapi_url=None)
    page = (resources.files("ssmttm.evaluation") / "listening.html").read_text("utf-8")

    @lru_cache(maxsize=CACHED_CLIPS)
    def encoded(item: str, system: str) -> bytes:
        return audio.to_bytes(stimuli.clip(item, system), "flac")  # without metadata, which would name the system

    def trials_of(session: str) -> list[Trial] | None:
        if not answers.knows(session):
            return None
        return plan(session, stimuli.systems, stimuli.items, settings)

    def asks_text(trial: Trial) -> bool:
        return trial.kind == "rating-check" or trial.item in stimuli.prompts

    def state(session: str, trials: list[Trial]) -> dict[str, Any]:
        done = answers.done(session)
        number = next((i for i in range(len(trials)) if i not in done), None)
        content: dict[str, Any] = {"session": session, "done": len(done), "trials": len(trials), "next": None}
        if number is not None:
            trial = trials[number]
            is_check = trial.kind == "rating-check"
            content["next"] = {
                "trial": number,
                "kind": trial.kind.removesuffix("-check"),
                "check": is_check,  # no secret: its text says so
                "text": CHECK_TEXT if is_check else stimuli.prompts.get(trial.item),
                "relevance": asks_text(trial),
                "sides": ["a", "b"][: len(trial.systems)],
            }
        return content

    @app.middleware("http")
    async def guard(request: Request, go_on: Any) -> Response:
        length = request.headers.get("content-length", "0")
        chunked = "transfer-encoding" in request.headers
        if chunked or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            response: Response = JSONResponse({"error": "the request is too long"}, 413)
        else:
            response = await go_on(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.post("/api/sessions")
    def begin() -> Response:
        session = secrets.token_urlsafe(18)
        answers.begin(session)
        return JSONResponse(state(session, plan(session, stimuli.systems, stimuli.items, settings)))

    @app.get("/api/sessions/{session}")
    def look(session: str) -> Response:
        trials = trials_of(session)
        return JSONResponse(state(session, trials)) if trials else JSONResponse({"error": "no such session"}, 404)

    @app.get("/api/sessions/{session}/clips/{number}/{side}")
    def clip(session: str, number: int, side: Literal["a", "b"]) -> Response:
        trials, place = trials_of(session), "ab".index(side)
        if not trials or not 0 <= number < len(trials) or place >= len(trials[number].systems):
            return JSONResponse({"error": "no such clip"}, 404)
        trial = trials[number]
        return Response(encoded(trial.item, trial.systems[place]), media_type="audio/flac")

    @app.post("/api/sessions/{session}/answers/{number}")
    def answer(session: str, number: int, given: Given) -> Response:
        trials = trials_of(session)
        if not trials or not 0 <= number < len(trials):
            return JSONResponse({"error": "no such question"}, 404)
        if problem := _problem(trials[number], given, asks_text(trials[number])):
            return JSONResponse({"error": problem}, 422)
        if not answers.add(session, number, trials[number], given.preference, given.quality, given.relevance):
            return JSONResponse({"error": "this question has its answer already"}, 409)
        return JSONResponse(state(session, trials))

    return app
