"""A generator that makes tones at once, and a client without a network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from starlette.middleware import Middleware

from serve.pace import Readers
from serve.schema import MEDIA_TYPES, Model
from serve.wire import Began, Event, LostError, Refusal
from ssmttm.engine.request import MusicRequest

URL = "/v1/music/generations"
EXTENSIONS = "/v1/music/extensions"
JOBS = "/v1/music/jobs"
GOOD = {"prompt": "calm piano", "seconds": 1}
RATE = 24_000
BASE = "http://127.0.0.1"


class FakeService:
    """Ten pieces per clip.

    Args:
        pause_s: before each.
        fails_at: the piece in whose place it is lost.
        refusal: what comes in the place of everything.
    """

    def __init__(self, pause_s: float = 0.0, fails_at: int | None = None, refusal: Refusal | None = None):
        self.pause_s, self.fails_at, self.refusal = pause_s, fails_at, refusal
        self.requests: list[MusicRequest] = []
        self.active = 0

    async def describe(self) -> Model:
        return Model(
            id="ssmttm-fake-1",
            sample_rate=RATE,
            max_seconds=60,
            max_prompt_chars=99,
            max_prompt_tokens=20,
            formats=list(MEDIA_TYPES),
            defaults={"steps": 2},
            asked_by={"prompt": "calm piano", "bpm": 96.5, "bars": 8, "drums": False},
        )

    async def check(self, request: MusicRequest) -> Refusal | None:
        if request.seconds > 60:
            return Refusal(400, f"seconds is {request.seconds:g}; give a length above 0 and up to 60")
        return self.refusal

    async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        self.requests.append(request)
        self.active += 1
        try:
            refusal = await self.check(request)
            if refusal is not None:
                yield refusal
                return
            samples = tone(request)
            yield Began(len(samples), RATE)
            for number, piece in enumerate(np.array_split(samples, 10)):
                await asyncio.sleep(self.pause_s)
                if number == self.fails_at:
                    raise LostError("gone")
                yield piece
        finally:
            self.active -= 1

    async def counters(self) -> list[dict[str, float]]:
        names = ("slots", "in_use", "waiting", "frames", "frames_per_second", "refused", "cancelled")
        return [dict.fromkeys(names, 1.0), dict.fromkeys(names, 2.0)]


def tone(request: MusicRequest) -> np.ndarray:
    """The samples of a request; other seeds sound different."""
    time = np.arange(round(request.seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + request.seed % 100) * time)).astype(np.float32)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def impatient() -> list[Middleware]:
    """`serve.pace.middlewares` with little patience."""
    return [Middleware(Readers, stall_s=2)]


def client_of(api: FastAPI, **arguments: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, **{"base_url": BASE, **arguments})


def call(api: FastAPI, method: str, url: str, **arguments: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        async with client_of(api) as client:
            return await client.request(method, url, **arguments)

    return asyncio.run(go())
