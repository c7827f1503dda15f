"""Who may come in, how often and with how much."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from serving import EXTENSIONS, GOOD, URL, FakeService, call, client_of

from serve.api import make_api
from serve.limits import Keys, Limits, TokenBuckets, check_exposure, is_loopback
from serve.wire import Began, Event
from ssmttm.engine.request import MusicRequest
from ssmttm.errors import UserError

KEY, OTHER = "a-key-of-twenty-letters", "another-key-of-twenty-letters"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"# ours\n{KEY}\n\n{OTHER}\n")
    keys = Keys.read(str(tmp_path / "keys"))
    assert keys.are_needed
    assert keys.caller(f"Bearer {KEY}") != keys.caller(f"bearer {OTHER}")
    assert keys.caller(f"Bearer {KEY}") == keys.caller(f"Bearer {KEY}")
    for wrong in ("", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xe9"):
        assert keys.caller(wrong) is None
    monkeypatch.delenv("SSMTTM_API_KEYS", raising=False)
    assert not Keys.read(None).are_needed
    monkeypatch.setenv("SSMTTM_API_KEYS", f"{KEY}, {OTHER}")
    assert Keys.read(None).caller(f"Bearer {OTHER}")


def test_unfit_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Keys.read(str(tmp_path / "none"))
    (tmp_path / "keys").write_text("# nothing\n")
    with pytest.raises(UserError, match="is empty"):
        Keys.read(str(tmp_path / "keys"))
    with pytest.raises(UserError, match="has 5 characters"):
        Keys(["short"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_an_open_service_stays_on_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, Keys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])
def test_an_open_service_starts_nowhere_else(host: str) -> None:
    with pytest.raises(UserError, match="without API keys"):
        check_exposure(host, Keys())
    check_exposure(host, Keys([KEY]))


def test_a_key_is_asked_for_before_anything_is_read() -> None:
    service = FakeService()
    api = make_api(service, keys=Keys([KEY]))
    for headers in ({}, bearer(OTHER), {"Authorization": KEY}):
        for method, url in (("POST", URL), ("POST", EXTENSIONS), ("GET", "/v1/models"), ("GET", "/metrics")):
            answer = call(api, method, url, json=GOOD, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert not service.requests
    assert call(api, "POST", URL, json=GOOD, headers=bearer(KEY)).status_code == 200
    for url in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert call(api, "GET", url).status_code == 200


def test_an_open_service_answers_to_names_of_this_machine_only() -> None:
    api = make_api(FakeService())
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert call(api, "GET", "/v1/models", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        assert call(api, "GET", "/v1/models", headers={"Host": host}).status_code == 421
    with_keys = make_api(FakeService(), keys=Keys([KEY]))
    headers = {"Host": "music.example", **bearer(KEY)}
    assert call(with_keys, "GET", "/v1/models", headers=headers).status_code == 200


def test_buckets_fill_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("serve.limits.time.monotonic", lambda: clock[0])
    buckets = TokenBuckets(per_minute=60, burst=2)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1]
    assert buckets.take("b") == 0
    clock[0] += 0.5
    assert buckets.take("a") == pytest.approx(0.5)
    clock[0] += 0.6
    assert buckets.take("a") == 0
    clock[0] += 3600
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1]


def test_each_key_has_a_rate_of_its_own() -> None:
    api = make_api(FakeService(), Limits(per_minute=1, burst=2), Keys([KEY, OTHER]))

    async def go() -> list[int]:
        async with client_of(api) as client:
            answers = [await client.post(URL, json=GOOD, headers=bearer(key)) for key in (KEY, KEY, KEY, OTHER)]
            assert 0 < int(answers[2].headers["retry-after"]) <= 60
            return [answer.status_code for answer in answers]

    assert asyncio.run(go()) == [200, 200, 429, 200]


def post_in_pieces(api: FastAPI, url: str, size: int, content_type: str, start: bytes = b"") -> int:
    """Status of a body without a stated length."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield start
        for _ in range(size // 1000):
            yield b"x" * 1000

    return call(api, "POST", url, content=pieces(), headers={"content-type": content_type}).status_code


def test_large_bodies_are_refused_before_they_are_read() -> None:
    service = FakeService()
    api = make_api(service, Limits(body_bytes=2000, upload_bytes=8000))
    large = call(api, "POST", URL, json={**GOOD, "prompt": "x" * 3000})
    assert large.status_code == 413
    assert "2000 bytes" in large.json()["error"]
    assert call(api, "POST", EXTENSIONS, data={"prompt": "x"}, files={"audio": b"x" * 9000}).status_code == 413
    assert post_in_pieces(api, URL, 5000, "application/json") == 413
    part = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
    assert post_in_pieces(api, EXTENSIONS, 20_000, "multipart/form-data; boundary=x", part) == 413
    assert call(api, "POST", URL, json=GOOD, headers={"content-length": "-1"}).status_code == 413
    assert not service.requests


def test_every_answer_has_an_id_and_security_headers(caplog: pytest.LogCaptureFixture) -> None:
    api = make_api(FakeService())
    with caplog.at_level(logging.INFO, "ssmttm.serve"):
        answer = call(api, "POST", URL, json=GOOD, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert "request_id=mine-1" in caplog.text
    assert f"POST {URL} 200" in caplog.text
    for url in ("/v1/models", "/none", "/"):
        answer = call(api, "GET", url, headers={"X-Request-Id": "a b\n"[:3], "Origin": "https://example.org"})
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_what_fails_inside_is_not_told_outside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeService):
        async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
            raise ValueError("secret at /home/somebody/model.py")
            yield Began(0, 1)

    with caplog.at_level(logging.ERROR):
        answer = call(make_api(Broken()), "POST", URL, json=GOOD, headers={"X-Request-Id": "r1"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; the log has it under request id r1"}
    assert "secret at" in caplog.text
    for url, method in (("/none", "GET"), (URL, "GET"), (URL, "PUT")):
        answer = call(make_api(Broken()), method, url)
        assert answer.status_code in (404, 405)
        assert set(answer.json()) == {"error"}


def test_listeners_who_leave_free_their_place() -> None:
    """A client that stops listening, before its first audio or after it, ends the making of its clip."""

    async def leave(api: FastAPI, body: bytes, after: int) -> None:
        sent: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, object]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "POST", "path": URL, "raw_path": URL.encode(), "query_string": b""}
        scope |= {"http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1)}
        scope["headers"] = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
        serving = asyncio.create_task(api(scope, receive, sent.put))  # type: ignore[arg-type]
        for _ in range(after):
            await sent.get()
        await asyncio.sleep(0.05)
        gone.set()
        await asyncio.wait_for(serving, 10)

    async def go() -> None:
        service = FakeService(pause_s=0.3)
        api = make_api(service, Limits(in_flight=4, burst=1000))
        for stream in (True, False):
            for after in (0, 3) if stream else (0,):
                body = json.dumps({**GOOD, "stream": stream}).encode()
                await asyncio.gather(*(leave(api, body, after) for _ in range(4)))
                await asyncio.sleep(0.05)
                assert service.active == 0
        service.pause_s = 0.0
        async with client_of(api) as client:  # all places are free again
            answers = await asyncio.gather(*(client.post(URL, json=GOOD) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4

    asyncio.run(go())


def test_samples_that_no_file_holds_stay_within_it() -> None:
    from ssmttm.engine.files import pcm16

    assert np.frombuffer(pcm16(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)), "<i2").tolist() == [
        -32768,
        -32768,
        0,
        32767,
        32767,
    ]
