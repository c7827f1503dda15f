"""What stands before the routes: who may come in, how much they may bring, and what every answer carries."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import uuid
from contextlib import AsyncExitStack
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.limits import Keys, Limits, Places, TokenBuckets, WrongKeys, is_loopback
from serve.metrics import Metrics
from serve.pace import Pace
from serve.wire import RefusedError

logger = logging.getLogger("ssmttm.serve")

OPEN_PATHS = {"/", "/healthz", "/readyz", "/openapi.json"}
THIS_MACHINE = "127.0.0.1"  # the caller's name where there are no keys
METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
UPLOADS = {"/v1/music/extensions"}
MOST_HEADER_BYTES = 32_768
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """ASGI middleware: request ids, keys, rates, sizes, security headers, one log line per request.

    A service without keys answers those alone who call this machine by a name of its own, and no page but its own: a
    page on the web could otherwise reach it under a name that it made point here, or post a form to it. With keys there
    is no such danger, as no page can send a key that it does not know.

    An upload takes its place before its body is read, and keeps it until it is answered.

    Args:
        places: of requests for music.
        tell_id: send the request's id back; Ray Serve's proxy does so itself.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, keys: Keys, metrics: Metrics, places: Places, tell_id: bool = True
    ):
        self._app, self._limits, self._keys, self._metrics, self._places = app, limits, keys, metrics, places
        self._tell_id = tell_id
        self._buckets, self._wrong_keys = TokenBuckets(limits.per_minute, limits.burst), WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, send, self._tell_id)
        try:
            problem = await self._problem(call)
            if problem is not None:
                await call.refuse(*problem)
            else:
                await self._answer(call, scope, receive)
        except RefusedError as error:  # no place; what routes refuse, they answer
            refusal = error.refusal
            await call.refuse(refusal.status, refusal.message, {"Retry-After": str(refusal.retry_after_s)})
        except Exception:
            logger.exception("request_id=%s failed", call.request_id)
            if call.status:  # the answer has begun: only breaking it off tells that it is not whole
                raise
            await call.refuse(500, f"internal error; the log has it under request id {call.request_id}")
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(call.method if call.method in METHODS else "other", route, call.status or 499)
            logger.info(
                "request_id=%s caller=%s %s %s %d %.3f s",
                *(call.request_id, call.caller, call.method, route, call.status or 499, time.monotonic() - call.begun),
            )

    async def _answer(self, call: _Call, scope: Scope, receive: Receive) -> None:
        is_upload = call.path in UPLOADS and call.method == "POST"
        most = self._limits.upload_bytes if call.path in UPLOADS else self._limits.body_bytes
        if call.method == "HEAD":  # what GET would say, without the body: it listens no further than the headers
            scope["method"], receive = "GET", call.nothing_more
        async with AsyncExitStack() as held:
            if is_upload:
                held.enter_context(self._places.taken())
            scope.setdefault("state", {}).update(
                caller=call.caller, request_id=call.request_id, held=held, places=int(is_upload)
            )
            await self._app(scope, _capped(receive, most, call), call.send)

    async def _problem(self, call: _Call) -> tuple[int, str, dict[str, str]] | None:
        """Why a request is turned away before its body is read: status, message and headers."""
        if call.header_bytes > MOST_HEADER_BYTES:
            return 431, f"the headers are over the limit of {MOST_HEADER_BYTES} bytes; send less", {}
        if not self._keys.are_needed:
            if not is_loopback(call.host):
                return 421, "this service answers on 127.0.0.1 and localhost only; give it API keys to open it", {}
            if call.client is not None and not is_loopback(call.client):
                return 403, "this service answers this machine only; give it API keys to open it", {}
            if call.is_from_another_page:
                return 403, "this service answers to its own page only, not to one of another site", {}
            call.caller = THIS_MACHINE
        elif call.path not in OPEN_PATHS:
            authorization = call.headers.get("authorization", "")
            caller = self._keys.caller(authorization)
            if caller is None:
                # Right keys never come here, so nobody who guesses can lock them out.
                if authorization and (wait_s := await self._wrong_keys.slow(call.client or "local")):
                    return 429, "too many wrong API keys; try again later", {"Retry-After": str(math.ceil(wait_s))}
                return 401, "send your API key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            call.caller = caller
        most = self._limits.upload_bytes if call.path in UPLOADS else self._limits.body_bytes
        length = call.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            return 413, _too_large(most), {}
        if call.method == "POST" and (wait_s := self._buckets.take(call.caller)):
            return 429, "too many requests; try again later", {"Retry-After": str(math.ceil(wait_s))}
        return None


class _Call:
    """One request on its way, and what was answered."""

    def __init__(self, scope: Scope, send: Send, tell_id: bool):
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        self.method, self.path = scope["method"], scope["path"]
        # Behind proxies that the server trusts, the address that they name; None on a socket that has none.
        self.client: str | None = (scope.get("client") or (None, 0))[0]
        self._is_told = asyncio.Event()
        self.caller, self.status, self.begun = "-", 0, time.monotonic()
        host = self.headers.get("host", "")
        self.host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        wished = self.headers.get("x-request-id", "")
        self.request_id = wished if REQUEST_ID.fullmatch(wished) else uuid.uuid4().hex
        self._send = send
        self._added = {**HEADERS, "X-Request-Id": self.request_id} if tell_id else HEADERS

    @property
    def is_from_another_page(self) -> bool:
        """Whether a browser says that a page of another origin wants to change something."""
        origin = self.headers.get("origin")
        if origin is None or self.method in SAFE_METHODS:
            return False
        return origin.lower().partition("://")[2] != self.headers.get("host", "").lower()

    async def nothing_more(self) -> Message:
        """Hangs up once the headers are sent."""
        await self._is_told.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._is_told.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((n.encode(), v.encode()) for n, v in self._added.items() if n.lower().encode() not in present),
            ]
        await self._send(message)
        if self.method == "HEAD":  # the headers are all there is
            await self._send({"type": "http.response.body"})
            self._is_told.set()

    async def refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        told: dict[str, Any] = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        raw = [(name.encode(), value.encode()) for name, value in told.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _too_large(most: int) -> str:
    return f"the body is over the limit of {most} bytes; send less"


def _capped(receive: Receive, most: int, call: _Call) -> Receive:
    """Bodies are counted while they are read, as their length need not be stated, and timed: see `Pace`."""
    read, is_whole, pace = 0, False, Pace()

    async def counted() -> Message:
        nonlocal read, is_whole
        if is_whole:  # only that the caller leaves can follow, and nobody is too late for that
            return await receive()
        try:
            message = await pace.within(receive())
        except TimeoutError:
            if call.status:  # answered without it
                return {"type": "http.disconnect"}
            raise HTTPException(408, "the body came too slowly; send it again", {"Connection": "close"}) from None
        size = len(message.get("body", b""))
        read += size
        pace.moved(size)
        is_whole = not message.get("more_body", False)
        if read > most:
            raise HTTPException(413, _too_large(most))
        return message

    return counted
