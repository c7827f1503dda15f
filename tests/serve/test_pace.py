"""Callers who stop reading, or send a byte now and then, over real connections: their places come free again."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from serving import EXTENSIONS, GOOD, URL, FakeService, call
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve import pace
from serve.api import make_api
from serve.limits import Limits
from serve.pace import SLOWEST, Pace, Readers, middlewares
from serve.wire import Began, Event
from ssmttm.engine.request import MusicRequest

LONG = 120  # seconds of music: more than what systems hold for a reader


class LongClips(FakeService):
    """Clips of noise, at once, as long as asked for."""

    async def check(self, request: MusicRequest) -> None:
        return None

    async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        self.active += 1
        try:
            yield Began(round(request.seconds * 48_000), 48_000)
            for _ in range(round(request.seconds)):
                await asyncio.sleep(0)
                yield np.full(48_000, 0.1, np.float32)
        finally:
            self.active -= 1


@contextmanager
def serving(service: FakeService, limits: Limits | None = None) -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(Readers(make_api(service, limits)), "127.0.0.1", 0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        thread.join()


def url_of(server: uvicorn.Server) -> str:
    return "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())


def post(
    server: uvicorn.Server, url: str, body: bytes, length: int, content: str = "application/json"
) -> socket.socket:
    """A connection on which so much of a request was sent."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(server.servers[0].sockets[0].getsockname())
    head = f"POST {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def until_idle(service: FakeService, url: str) -> None:
    """Until no clip is made and no place is taken."""
    while service.active or "ssmttm_in_flight 0.0" not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.02)


@pytest.mark.parametrize("wanted", [{"stream": True}, {}, {"answer": "json"}])
def test_whoever_stops_reading_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, wanted: dict[str, object]) -> None:
    monkeypatch.setattr(pace, "STALL_S", 0.3)
    service = LongClips()
    body = json.dumps({**GOOD, "seconds": LONG, **wanted}).encode()
    with serving(service, Limits(in_flight=1)) as server:
        url = url_of(server)
        with post(server, URL, body, len(body)) as stalled:
            assert stalled.recv(12) == b"HTTP/1.1 200"
            until_idle(service, url)
            answer = httpx.post(f"{url}{URL}", json={**GOOD, "seconds": 1})
            assert answer.status_code == 200
            while server.server_state.connections:  # not merely forgotten: what was held for it is gone too
                time.sleep(0.02)
            assert sum(map(len, iter(lambda: stalled.recv(1 << 20), b""))) < LONG * 96_000


def test_whoever_reads_gets_it_all() -> None:
    with serving(LongClips()) as server:
        url = url_of(server) + URL
        for wanted in ({}, {"stream": True}):
            answer = httpx.post(url, json={**GOOD, "seconds": LONG, **wanted})
            assert soundfile.read(io.BytesIO(answer.content))[0].shape == (LONG * 48_000,)


@pytest.mark.parametrize(
    ("url", "start"), [(URL, b""), (URL, b'{"prompt": "x'), (EXTENSIONS, b""), (EXTENSIONS, b"--x\r\nContent-Disposi")]
)
def test_a_body_that_does_not_come_is_answered(url: str, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "STALL_S", 0.1)
    content = "multipart/form-data; boundary=x" if url == EXTENSIONS else "application/json"
    with serving(FakeService()) as server, post(server, url, start, 1000, content) as stalled:
        answer = b"".join(iter(lambda: stalled.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "the body came too slowly; send it again"}


def test_a_body_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "STALL_S", 0.2)

    async def drops() -> AsyncGenerator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    headers = {"content-type": "application/json"}
    answer = call(make_api(FakeService()), "POST", URL, content=drops(), headers=headers)
    assert answer.status_code == 408


def test_time_comes_back_with_what_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])

    async def take(seconds: float) -> None:
        clock[0] += seconds

    async def go() -> None:
        one = Pace(10)
        await one.within(take(9))
        one.moved(4 * SLOWEST)
        await one.within(take(4.5))
        one.moved(100 * SLOWEST)  # never more than there was
        await one.within(take(10.5))
        with pytest.raises(TimeoutError):
            await one.within(asyncio.sleep(0.01))

    asyncio.run(go())


@pytest.fixture
def _proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proxy of Ray's is once it has asked for these."""
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    assert [one.cls for one in middlewares()] == [Readers]


@pytest.mark.usefixtures("_proxy")
def test_proxies_of_ray_end_headers_without_an_end() -> None:
    with serving(FakeService()) as server:
        address = server.servers[0].sockets[0].getsockname()
        # It hangs up.
        with suppress(BrokenPipeError, ConnectionResetError), socket.create_connection(address, timeout=30) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
            for _ in range(10_300):
                one.sendall(b"x" * 10_000)
            raise AssertionError("it took 103 MB of headers")
        with httpx.Client(base_url="http://{}:{}".format(*address), timeout=30) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/healthz", headers={"X-Long": "x" * 12_000}).status_code == 200
            assert client.post(URL, json={**GOOD, "stream": True}).status_code == 200


@pytest.mark.usefixtures("_proxy")
def test_the_server_that_ray_starts_takes_it() -> None:
    """As Ray calls it: without a word about the parser. With another version, see whether it hands on a limit."""
    config = uvicorn.Config(lambda: None, factory=True, lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is H11Protocol
