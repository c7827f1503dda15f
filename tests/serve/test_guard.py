"""What stands before the routes: methods, origins, addresses, headers, wrong keys, and places that uploads take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from serving import BASE, EXTENSIONS, GOOD, URL, FakeService, call, client_of
from test_api import wav

from serve import limits as limits_module
from serve.api import make_api
from serve.limits import Keys, Limits

KEY = "a-key-of-twenty-letters"
RIGHT = {"Authorization": f"Bearer {KEY}"}
WRONG = {"Authorization": "Bearer not-the-key-of-anybody"}


@pytest.mark.parametrize("url", ["/", "/healthz", "/readyz", "/v1/models", "/metrics", "/openapi.json", "/none", URL])
def test_head_says_what_get_says_without_the_body(url: str) -> None:
    api = make_api(FakeService())
    get, head = call(api, "GET", url), call(api, "HEAD", url)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if url != "/metrics":  # they count the request itself
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "127.0.0.1:8000", 200),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 200),
        ("http://LOCALHOST:8000", "localhost:8000", 200),
        ("http://[::1]:8000", "[::1]:8000", 200),
        ("https://evil.example", "127.0.0.1:8000", 403),
        ("http://127.0.0.1:9000", "127.0.0.1:8000", 403),  # another program of this machine
        ("http://127.0.0.1", "127.0.0.1:8000", 403),
        ("http://127.0.0.1.evil.example", "127.0.0.1", 403),
        ("null", "127.0.0.1:8000", 403),  # a file, or a page in a sandbox
        ("", "127.0.0.1:8000", 403),
    ],
)
def test_an_open_service_takes_orders_from_its_own_page_only(origin: str | None, host: str, status: int) -> None:
    """A form needs no leave of the browser to be posted to another site."""
    service = FakeService()
    api = make_api(service)
    headers = {"Host": host, **({} if origin is None else {"Origin": origin})}
    files = {"audio": ("a", wav(1.0))}
    form = call(api, "POST", EXTENSIONS, data={"prompt": "x", "seconds": "1"}, files=files, headers=headers)
    assert form.status_code == status
    assert call(api, "POST", URL, json=GOOD, headers=headers).status_code == status
    assert bool(service.requests) == (status == 200)
    assert call(api, "GET", "/v1/models", headers=headers).status_code == 200


def test_with_keys_any_page_that_knows_one_may_ask() -> None:
    api = make_api(FakeService(), keys=Keys([KEY]))
    headers = {"Host": "music.example", "Origin": "https://page.example"}
    assert call(api, "POST", URL, json=GOOD, headers=headers).status_code == 401
    assert call(api, "POST", URL, json=GOOD, headers={**headers, **RIGHT}).status_code == 200


def ask(api: Any, client: tuple[str, int] | None, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
    """As from an address. The server has put the one there that a proxy named, if it trusts the proxy."""
    import httpx

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(api, client=client, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as one:
            return await one.request(method, "/v1/models", headers=headers)

    return asyncio.run(go())


def test_an_open_service_answers_this_machine_only_also_behind_a_proxy() -> None:
    api = make_api(FakeService())
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert ask(api, (address, 1)).status_code == 200
    assert ask(api, None).status_code == 200  # a socket of this machine
    for address in ("192.0.2.7", "2001:db8::7", "evil", ""):
        answer = ask(api, (address, 1))
        assert answer.status_code == 403
        assert "API keys" in answer.json()["error"]


def test_names_that_callers_give_themselves_count_for_nothing() -> None:
    """Rates and jobs belong to the machine, however often it calls itself something else."""
    api = make_api(FakeService(), Limits(per_minute=1, burst=2))

    async def go() -> list[int]:
        async with client_of(api) as client:
            headers = [{"X-Forwarded-For": f"127.0.0.{number}", "X-Real-IP": f"::{number}"} for number in range(4)]
            return [(await client.post(URL, json=GOOD, headers=one)).status_code for one in headers]

    assert asyncio.run(go()) == [200, 200, 429, 429]


def test_headers_have_a_limit() -> None:
    api = make_api(FakeService())
    answer = call(api, "GET", "/v1/models", headers={"X-Long": "x" * 40_000})
    assert answer.status_code == 431
    assert "32768 bytes" in answer.json()["error"]
    answer = call(api, "GET", "/v1/models", headers={f"X-{number}": "x" * 40 for number in range(1000)})
    assert answer.status_code == 431


def test_wrong_keys_are_slowed_and_right_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    free = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await free.wait()

    monkeypatch.setattr(limits_module, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(limits_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    api = make_api(FakeService(), keys=Keys([KEY]))

    async def go() -> None:
        async with client_of(api) as client:
            first = [(await client.get("/v1/models", headers=WRONG)).status_code for _ in range(10)]
            assert (first, slept) == ([401] * 10, [])
            waiting = [asyncio.create_task(client.get("/v1/models", headers=WRONG)) for _ in range(2)]
            while len(slept) < 2:
                await asyncio.sleep(0)
            assert slept == [2.0, 2.0]
            more = [await client.get("/v1/models", headers=WRONG) for _ in range(20)]
            assert {(answer.status_code, answer.headers["retry-after"]) for answer in more} == {(429, "2")}
            # The same address, in the middle of it all.
            assert (await client.get("/v1/models", headers=RIGHT)).status_code == 200
            assert (await client.post(URL, json=GOOD, headers=RIGHT)).status_code == 200
            # No key at all is no guess.
            assert (await client.get("/v1/models")).status_code == 401
            free.set()
            assert [(await answer).status_code for answer in waiting] == [401, 401]

    asyncio.run(go())


def test_who_is_slowed_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.limits import MOST_SLOWED_IN_ALL, WRONG_KEYS_AT_ONCE, WrongKeys

    free = asyncio.Event()
    monkeypatch.setattr(limits_module, "asyncio", SimpleNamespace(sleep=lambda _: free.wait()))
    monkeypatch.setattr(limits_module, "time", SimpleNamespace(monotonic=lambda: 100.0))

    async def go() -> None:
        wrong = WrongKeys()
        addresses = [f"192.0.2.{number}" for number in range(MOST_SLOWED_IN_ALL + 5)]
        for address in addresses:
            assert [await wrong.slow(address) for _ in range(WRONG_KEYS_AT_ONCE)] == [0.0] * WRONG_KEYS_AT_ONCE
        waiting = [asyncio.create_task(wrong.slow(address)) for address in addresses]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(pending) == MOST_SLOWED_IN_ALL
        assert {task.result() for task in done} == {2.0}
        for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::2"):  # one customer
            for _ in range(WRONG_KEYS_AT_ONCE // 2):
                assert await wrong.slow(address) == 0.0
        assert await wrong.slow("2001:db8:1:2::3") == 2.0
        free.set()
        await asyncio.gather(*pending)
        assert not wrong._slowed

    asyncio.run(go())


def test_an_upload_takes_its_place_before_its_body_is_read() -> None:
    service = FakeService()
    api = make_api(service, Limits(in_flight=2, burst=100))

    async def go() -> None:
        free, read = asyncio.Event(), 0

        async def body() -> AsyncGenerator[bytes]:
            nonlocal read
            read += 1
            yield b"--x\r\n"
            await free.wait()

        headers = {"content-type": "multipart/form-data; boundary=x"}
        async with client_of(api) as client:
            held = [asyncio.create_task(client.post(EXTENSIONS, content=body(), headers=headers)) for _ in range(2)]
            while read < 2:
                await asyncio.sleep(0)
            third = await client.post(EXTENSIONS, content=body(), headers=headers)
            assert (third.status_code, third.headers["retry-after"], read) == (429, "5", 2)
            assert (await client.post(URL, json=GOOD)).status_code == 429
            assert (await client.get("/v1/models")).status_code == 200
            free.set()
            assert {(await answer).status_code for answer in held} <= {400, 422}
            for stream in (False, True):  # all places are free again, and one is enough
                files = {"audio": ("a", wav(1.0))}
                fields = {"prompt": "x", "seconds": "1", "stream": str(stream)}
                assert (await client.post(EXTENSIONS, data=fields, files=files)).status_code == 200
            assert (await client.post(URL, json={**GOOD, "variations": 2})).status_code == 200
            assert "ssmttm_in_flight 0.0" in (await client.get("/metrics")).text

    asyncio.run(go())
