"""How long a caller may keep the service waiting, who sends too slowly as who does not read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STALL_S = 60.0
SLOWEST = 16_384  # bytes per second; music streamed as WAV is heard at three times as many or more
PIECE = 1 << 16

Value = TypeVar("Value")


class Pace:
    """`stall_s` at a time, and for every `SLOWEST` bytes that are moved a second of it comes back: neither a caller who
    does nothing nor one who moves a byte now and then stays for ever."""

    def __init__(self, stall_s: float | None = None):
        self._most_s = self._left_s = STALL_S if stall_s is None else stall_s

    async def within(self, moving: Awaitable[Value]) -> Value:
        """What it gives.

        Raises:
            TimeoutError: if it takes longer than is left.
        """
        begun = time.monotonic()
        async with asyncio.timeout(max(self._left_s, 0.0)):
            value = await moving
        self._left_s -= time.monotonic() - begun
        return value

    def moved(self, count: int) -> None:
        """So many bytes came, or went."""
        self._left_s = min(self._left_s + count / SLOWEST, self._most_s)


class Readers:
    """ASGI middleware: a caller who does not read their answer is hung up on, and is then as gone as one who left.

    It stands directly behind the HTTP server, whose connection it needs: closed in the usual way it would wait for what
    was not read. In a deployment that server is Ray Serve's proxy (see `middlewares`).

    Args:
        stall_s: see `Pace`; by default `STALL_S`.
    """

    def __init__(self, app: ASGIApp, stall_s: float | None = None):
        self._app, self._stall_s = app, stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Uvicorn hands out a method of what holds the connection; other servers, and clients of tests, may not.
        connection = getattr(getattr(send, "__self__", None), "transport", None)
        if scope["type"] != "http" or connection is None:
            await self._app(scope, receive, send)
            return
        connection.set_write_buffer_limits(high=0)  # a piece is sent when the system has taken the one before
        pace = Pace(self._stall_s)

        async def paced(message: Message) -> None:
            for piece in _pieces(message):
                try:
                    await pace.within(send(piece))
                except TimeoutError:
                    connection.abort()
                pace.moved(len(piece.get("body", b"")))

        await self._app(scope, receive, paced)


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxies, which take them from RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH before they listen.

    They also read requests with h11 from then on, which ends headers at 16 KiB. The parser that uvicorn prefers takes a
    header of any size, and for 100 MB the proxy is deaf for a minute. Ray does not hand on uvicorn's own setting.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = uvicorn.config.HTTP_PROTOCOLS["h11"]
    return [Middleware(Readers)]


def _pieces(message: Message) -> Iterator[Message]:
    """A long body in parts; whoever waits for the last of them, an empty one, waits for all."""
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= PIECE:
        yield message
        return
    for start in range(0, len(body), PIECE):
        yield {"type": "http.response.body", "body": body[start : start + PIECE], "more_body": True}
    yield {**message, "body": b""}
