"""The routes over a service that makes nothing: what is accepted, refused and answered."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from serve.api import Clip, make_api
from serve.schema import Model, MusicRequest
from ssmttm.audio import Audio, to_bytes

URL = "/v1/music/generations"
GOOD = {"prompt": "calm piano", "seconds": 1}


class FakeService:
    def __init__(self) -> None:
        self.requests: list[MusicRequest] = []

    async def describe(self) -> Model:
        return Model(id="ssmttm-fake-1", sample_rate=24_000, max_seconds=60, max_prompt_chars=99, defaults={"steps": 2})

    async def create(self, request: MusicRequest) -> Clip:
        self.requests.append(request)
        if request.seconds > 60:
            return Clip(error="seconds is 61; give a length above 0 and up to 60")
        clip = Audio(np.zeros((1, round(request.seconds * 24_000)), np.float32), 24_000)
        return Clip(to_bytes(clip, request.format, {"prompt": request.prompt}), request.seed or 7, clip.seconds, 0.5)


def call(method: str, url: str, service: FakeService | None = None, **arguments: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=make_api(service or FakeService()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url, **arguments)

    return asyncio.run(go())


@pytest.mark.parametrize(("extension", "media"), [("wav", "audio/wav"), ("flac", "audio/flac"), ("ogg", "audio/ogg")])
def test_a_clip_comes_back_as_a_file(extension: str, media: str) -> None:
    answer = call("POST", URL, json={**GOOD, "seed": 3, "format": extension})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media
    assert answer.headers["x-seed"] == "3"
    assert answer.headers["x-model"] == "ssmttm-fake-1"
    assert answer.headers["x-ai-generated"] == "true"
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(samples), rate) == (24_000, 24_000)


def test_every_field_reaches_the_generator() -> None:
    service = FakeService()
    fields = {"seed": 0, "guidance": 2.0, "temperature": 0.5, "top_k": 10, "steps": 4, "format": "ogg"}
    call("POST", URL, service, json={**GOOD, **fields})
    assert service.requests[0].model_dump() == {**GOOD, **fields}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": "long"}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"guidance": -1}, "guidance"),
        ({"temperature": 100}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"steps": 0}, "steps"),
        ({"format": "exe"}, "format"),
        ({"tempo": 100}, "tempo"),
    ],
)
def test_bad_fields_are_named(change: dict[str, Any], named: str) -> None:
    service = FakeService()
    answer = call("POST", URL, service, json={**GOOD, **change})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{named}: ")
    assert not service.requests


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"prompt": "x", "seconds": NaN}', b'{"prompt": "x", "guidance": Infinity}']
)
def test_bad_bodies_are_answered_in_json(body: bytes) -> None:
    answer = call("POST", URL, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_what_the_generator_refuses_is_the_callers_mistake() -> None:
    answer = call("POST", URL, json={**GOOD, "seconds": 61})
    assert answer.status_code == 400
    assert answer.json() == {"error": "seconds is 61; give a length above 0 and up to 60"}


def test_models_and_health() -> None:
    assert call("GET", "/healthz").json() == {"status": "ok"}
    (model,) = call("GET", "/v1/models").json()["data"]
    assert model["id"] == "ssmttm-fake-1"
    assert model["max_seconds"] == 60


def test_the_openapi_document_describes_the_surface() -> None:
    document = call("GET", "/openapi.json").json()
    assert set(document["paths"]) == {URL, "/v1/models", "/healthz"}
    request = document["components"]["schemas"]["MusicRequest"]
    assert request["additionalProperties"] is False
    assert request["examples"]
    assert set(document["paths"][URL]["post"]["responses"]["200"]["content"]) >= {
        "audio/wav",
        "audio/flac",
        "audio/ogg",
    }
