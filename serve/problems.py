"""What a caller is told whose request cannot be taken: one line that names the field and says what to send."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve.schema import ClipForm, MusicForm, Upload
from ssmttm.engine.request import BOUNDS

LONGEST = 600  # characters of a message; longer ones repeat what the caller sent
BODIES = {
    "application/json": 'a JSON object as application/json, e.g. {"prompt": "calm piano", "seconds": 10}',
    "multipart/form-data": "a form as multipart/form-data with the fields prompt and audio, which is a file",
}
FORMS: dict[str, type[ClipForm]] = {
    "/v1/music/generations": MusicForm,
    "/v1/music/extensions": Upload,
    "/v1/music/jobs": ClipForm,
}


def told(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that says what is wrong. Whatever of the caller's own is in the message, it can be sent."""
    line = " ".join(message.encode(errors="backslashreplace").decode().split())
    shown = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    return JSONResponse({"error": shown}, status, headers)


def of_input(request: Request, error: RequestValidationError) -> JSONResponse:
    """For what does not fit the schema. The framework's own answer repeats the input, and fails where that cannot be
    JSON (NaN)."""
    first: dict[str, Any] = dict(error.errors()[0])
    place, *names = first["loc"]
    form = FORMS.get(request.url.path) if place == "body" else None
    if form is None:
        return told(422, ": ".join([*map(str, names), first["msg"]]))
    wanted = "multipart/form-data" if form is Upload else "application/json"
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted and not (wanted == "application/json" and given.endswith("+json")):
        named = f"has the Content-Type {given}" if given else "has no Content-Type"
        return told(415, f"the body {named}; send {BODIES[wanted]}")
    if first["type"] == "json_invalid":
        return told(422, f"the body is no JSON ({first['ctx']['error']}, character {names[0]}); send {BODIES[wanted]}")
    if not names:
        if first["type"] == "value_error":  # fields that exclude one another
            return told(422, str(first["ctx"]["error"]))
        return told(422, f"the body is {_kind(error.body)}; send {BODIES[wanted]}")
    name = str(names[0])[:60]
    return told(422, f"{name}: {_of_field(form, name, first)}")


def of_route(request: Request, error: HTTPException) -> JSONResponse:
    """For what the framework says before a route is reached, or when a body cannot be read at all."""
    message, headers = str(error.detail), error.headers
    if error.status_code == 404 and message == "Not Found":
        message = "there is no such path; /openapi.json lists them all"
    elif error.status_code == 405:
        allowed = (headers or {}).get("Allow", "GET")
        message = f"this path does not take {request.method}; it takes {allowed}"
    elif error.status_code == 400 and request.url.path in FORMS:
        is_upload = FORMS[request.url.path] is Upload
        body = BODIES["multipart/form-data" if is_upload else "application/json"]
        message = f"the body cannot be read ({message.rstrip('.')}); send {body}"
    return told(error.status_code, message, headers)


def _of_field(form: type[ClipForm], name: str, error: Mapping[str, Any]) -> str:
    fields = form.model_fields
    if error["type"] == "extra_forbidden":
        near = get_close_matches(name, fields, 1)
        return f"unknown; did you mean {near[0]}?" if near else f"unknown; the fields are {', '.join(fields)}"
    if error["type"] == "missing":
        return f"it is missing; give {fields[name].description}"
    if name == "audio":
        return f"give {fields[name].description}, not text"
    if name in BOUNDS:
        return f"give {BOUNDS[name].told()}, or leave it out"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return error["msg"]


def _kind(body: Any) -> str:
    if body is None:
        return "empty"
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(body), "an object with a name that is no text")  # half of a surrogate pair
