"""The reverse proxy's configuration: its limits are the service's, and what it does where nginx is installed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from cluster_files import CLUSTER

from serve.limits import Limits

CONFIGURATION = (CLUSTER / "nginx.conf").read_text()
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
KEY = "a-key-of-twenty-letters"


def told(name: str) -> list[str]:
    return re.findall(rf"^\s*{name} (.+);", CONFIGURATION, flags=re.MULTILINE)


def test_its_limits_are_those_of_the_service() -> None:
    units = {"k": 2**10, "m": 2**20}
    sizes = [int(one[:-1]) * units[one[-1]] for one in told("client_max_body_size")]
    assert sizes == [Limits().body_bytes, Limits().upload_bytes]
    (patience,) = told("proxy_read_timeout")
    assert int(patience.rstrip("s")) > Limits().deadline_s


def test_callers_cannot_name_themselves_and_audio_is_not_held_back() -> None:
    assert "X-Forwarded-For $remote_addr" in told("proxy_set_header")
    assert told("proxy_buffering") == ["off"]
    assert {"client_header_timeout", "client_body_timeout", "send_timeout", "limit_conn"} <= set(
        re.findall(r"^\s*(\w+)", CONFIGURATION, flags=re.MULTILINE)
    )


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx with this configuration on other ports, before the service over a generator that makes tones."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
    from serving import FakeService, free_port

    from serve.api import make_api
    from serve.limits import Keys

    folder = tmp_path_factory.mktemp("nginx")
    front, back = free_port(), free_port()
    text = CONFIGURATION.replace("127.0.0.1:8080", f"127.0.0.1:{front}").replace("127.0.0.1:8000", f"127.0.0.1:{back}")
    (folder / "nginx.conf").write_text(text.replace("/tmp/ssmttm-nginx", f"{folder}/nginx"))
    api = make_api(FakeService(pause_s=0.05), keys=Keys([KEY]))
    server = uvicorn.Server(uvicorn.Config(api, port=back, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    # As root its workers would be somebody else, who may not enter the test's folder.
    globally = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", globally])
    url = f"http://127.0.0.1:{front}"
    try:
        for _ in range(200):
            try:
                if httpx.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        server.should_exit = True
        thread.join(20)


@pytest.mark.slow
def test_huge_headers_end_at_the_proxy(proxy: str) -> None:
    host, port = proxy.removeprefix("http://").split(":")
    for size in (9_000, 103 * 2**20):
        with socket.create_connection((host, int(port)), timeout=60) as one:
            with suppress(BrokenPipeError, ConnectionResetError):  # it hangs up
                one.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: ")
                for _ in range(0, size, 9_000):
                    one.sendall(b"x" * 9_000)
            if size == 9_000:
                answer = one.recv(65_536)
                assert b" 400 " in answer.splitlines()[0]
                assert b'{"error": "the headers cannot be read, or are over 32 KiB; send less"}' in answer
        assert httpx.get(f"{proxy}/healthz").status_code == 200


@pytest.mark.slow
def test_bodies_have_the_limits_of_the_service(proxy: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{proxy}/v1/music/generations"
    large = httpx.post(url, content=b"x" * 70_000, headers={**headers, "Content-Type": "application/json"})
    assert (large.status_code, large.json()) == (413, {"error": "the body is too large; send less"})
    upload = httpx.post(
        f"{proxy}/v1/music/extensions", data={"prompt": "x"}, files={"audio": b"x" * 2**20}, headers=headers
    )
    assert upload.status_code == 400
    assert "cannot be decoded" in upload.json()["error"]
    assert httpx.get(f"{proxy}/x" + "y" * 9000).status_code == 414
    with httpx.stream("POST", url, json={"prompt": "x", "seconds": 1, "stream": True}, headers=headers) as stream:
        pieces = [len(piece) for piece in stream.iter_raw()]
    assert stream.status_code == 200
    assert len(pieces) > 5  # as they were made
    assert httpx.get(f"{proxy}/v1/models").status_code == 401


@pytest.mark.slow
def test_the_service_learns_who_calls_from_the_proxy_alone(proxy: str) -> None:
    """Wrong keys count by address: another name in a header does not make another caller."""
    wrong = {"Authorization": "Bearer not-the-key-of-anybody"}

    async def go() -> list[int]:
        async with httpx.AsyncClient(base_url=proxy, timeout=60) as client:
            names = [{"X-Forwarded-For": f"192.0.2.{number}", **wrong} for number in range(30)]
            return [
                one.status_code for one in await asyncio.gather(*(client.get("/v1/models", headers=n) for n in names))
            ]

    statuses = asyncio.run(go())
    assert 429 in statuses
    assert httpx.get(f"{proxy}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
