"""What stands before the routes: who may come in, how much they may bring, and what every answer carries."""

from __future__ import annotations

import json
import logging
import math
import re
import time
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.limits import Keys, Limits, TokenBuckets, is_loopback
from serve.metrics import Metrics
from serve.pace import Pace

logger = logging.getLogger("ssmttm.serve")

OPEN_PATHS = {"/", "/healthz", "/readyz", "/openapi.json"}
METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
UPLOADS = {"/v1/music/extensions"}
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

    A service without keys answers those alone who call this machine by a name of its own: a page on the web could
    otherwise reach it under a name that it made point here.

    Args:
        tell_id: send the request's id back; Ray Serve's proxy does so itself.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Keys, metrics: Metrics, tell_id: bool = True):
        self._app, self._limits, self._keys, self._metrics = app, limits, keys, metrics
        self._tell_id = tell_id
        self._buckets = TokenBuckets(limits.per_minute, limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, send, self._tell_id)
        problem = self._problem(call)
        try:
            if problem is not None:
                await call.refuse(*problem)
            else:
                scope.setdefault("state", {}).update(caller=call.caller, request_id=call.request_id)
                most = self._limits.upload_bytes if call.path in UPLOADS else self._limits.body_bytes
                await self._app(scope, _capped(receive, most, call), call.send)
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

    def _problem(self, call: _Call) -> tuple[int, str, dict[str, str]] | None:
        """Why a request is turned away before its body is read: status, message and headers."""
        if not self._keys.are_needed:
            if not is_loopback(call.host):
                return 421, "this service answers on 127.0.0.1 and localhost only; give it API keys to open it", {}
            call.caller = call.client
        elif call.path not in OPEN_PATHS:
            caller = self._keys.caller(call.headers.get("authorization", ""))
            if caller is None:
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
        self.method, self.path = scope["method"], scope["path"]
        self.client = (scope.get("client") or ("local", 0))[0]
        self.caller, self.status, self.begun = "-", 0, time.monotonic()
        host = self.headers.get("host", "")
        self.host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        wished = self.headers.get("x-request-id", "")
        self.request_id = wished if REQUEST_ID.fullmatch(wished) else uuid.uuid4().hex
        self._send = send
        self._added = {**HEADERS, "X-Request-Id": self.request_id} if tell_id else HEADERS

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((n.encode(), v.encode()) for n, v in self._added.items() if n.lower().encode() not in present),
            ]
        await self._send(message)

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
