"""The listening test over HTTP: one page and four routes, and one sqlite file of answers.

Names of systems and files never leave the server. A session is an id that the server draws; the order of trials follows
from it, so a page that is loaded again goes on where it was. Clips are asked for by trial and side. Of a listener
nothing is kept but the answers: no name, address or time.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ssmttm import audio, storage
from ssmttm.errors import UserError
from ssmttm.evaluation.listening import CHECK_TEXT, Answer, Stimuli, Trial, TrialCounts, analyse, plan, read_stimuli

MAX_BODY_BYTES = 2000
CACHED_CLIPS = 64  # encoded, about half a megabyte each
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_TABLES = """
CREATE TABLE IF NOT EXISTS test (id INTEGER PRIMARY KEY CHECK (id = 0), content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS answers (
  session TEXT NOT NULL REFERENCES sessions (id), trial INTEGER NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
  systems TEXT NOT NULL, expected TEXT NOT NULL, preference TEXT, quality INTEGER, relevance INTEGER,
  PRIMARY KEY (session, trial));
"""


class Answers:
    """The file behind a test; safe to open from several threads and processes.

    Args:
        path: a local file, made if it is not there.
    """

    def __init__(self, path: str):
        self._path = storage.local_path(path)
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        try:
            with self._open() as database:
                database.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is not a file of answers ({error}); give another name") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=30)) as database, database:
            yield database

    def settle(self, systems: list[str], items: list[str], counts: TrialCounts) -> None:
        """Note what the test consists of.

        Raises:
            UserError: if the file has answers of another test.
        """
        content = json.dumps({"systems": systems, "items": items, "settings": asdict(counts)}, sort_keys=True)
        with self._open() as database:
            database.execute("INSERT OR IGNORE INTO test VALUES (0, ?)", (content,))
            (stored,) = database.execute("SELECT content FROM test").fetchone()
        if stored != content:
            raise UserError(f"{self._path} holds answers of another test; name another file with --answers")

    def begin(self, session: str) -> None:
        with self._open() as database:
            database.execute("INSERT INTO sessions VALUES (?)", (session,))

    def knows(self, session: str) -> bool:
        with self._open() as database:
            return database.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None

    def done(self, session: str) -> set[int]:
        """The trials a session has answered."""
        with self._open() as database:
            rows = database.execute("SELECT trial FROM answers WHERE session = ?", (session,))
            return {number for (number,) in rows}

    def add(
        self,
        session: str,
        number: int,
        trial: Trial,
        preference: str | None = None,
        quality: int | None = None,
        relevance: int | None = None,
    ) -> bool:
        """Keep an answer; False if the trial was answered before, and nothing changes."""
        row = (session, number, trial.kind, trial.item, json.dumps(trial.systems), json.dumps(trial.expected))
        with self._open() as database:
            added = database.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, preference, quality, relevance),
            )
            return added.rowcount == 1

    def all(self) -> list[Answer]:
        """Every answer, by session and trial."""
        with self._open() as database:
            rows = database.execute("SELECT * FROM answers ORDER BY session, trial").fetchall()
        return [
            Answer(session, trial, kind, item, tuple(json.loads(systems)), json.loads(expected), *given)
            for session, trial, kind, item, systems, expected, *given in rows
        ]

    def number_of_trials(self) -> int:
        """Trials of a session of this test."""
        with self._open() as database:
            row = database.execute("SELECT content FROM test").fetchone()
        if row is None:
            raise UserError(f"{self._path} holds no test; start one with: ssmttm listen FOLDER...")
        counts = json.loads(row[0])["settings"]
        return counts["pairs"] + counts["ratings"] + counts["anchors"] + 2 * counts["checks"]


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


def make_app(stimuli: Stimuli, answers: Answers, counts: TrialCounts, page: str) -> FastAPI:
    """The routes of a test whose page is HTML.

    Raises:
        UserError: if the answers are of another test, or there are no two systems to pair.
    """
    plan("any", stimuli.systems, stimuli.items, counts)
    answers.settle(stimuli.systems, stimuli.items, counts)
    app = FastAPI(title="ssmttm listening test", docs_url=None, redoc_url=None, openapi_url=None)

    @lru_cache(maxsize=CACHED_CLIPS)
    def encoded(item: str, system: str) -> bytes:
        return audio.to_bytes(stimuli.clip(item, system), "flac")  # without metadata, which would name the system

    def trials_of(session: str) -> list[Trial] | None:
        if not answers.knows(session):
            return None
        return plan(session, stimuli.systems, stimuli.items, counts)

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
        return JSONResponse(state(session, plan(session, stimuli.systems, stimuli.items, counts)))

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


def serve(folders: Sequence[str], answers: str, host: str, port: int, counts: TrialCounts, page: str) -> None:
    """Serve the test until it is interrupted. No access log is kept: it would hold addresses.

    Raises:
        UserError: see `read_stimuli` and `make_app`.
    """
    import uvicorn

    app = make_app(read_stimuli(folders), Answers(answers), counts, page)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)


def results(answers: str) -> dict[str, Any]:
    """What was answered, see `listening.analyse`.

    Raises:
        UserError: if the file holds no test.
    """
    if not storage.exists(answers):
        raise UserError(f"{answers} does not exist; name the file that the answers are kept in with --answers")
    stored = Answers(answers)
    return analyse(stored.all(), stored.number_of_trials())
