"""Routes of jobs: ranges of the file, and heads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serving import GOOD, JOBS, FakeService
from test_jobs import serving, until

URLS = ("", "/events", "/result", "/provenance")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.job_runner.LOOK_S", 0.02)
    monkeypatch.setattr("serve.job_runner.BEAT_S", 0.02)


def test_ranges_of_a_file_and_what_is_none(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService()) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            await until(client, job, lambda one: one["state"] == "done")
            url = f"{JOBS}/{job}/result"
            whole = await client.get(url)
            size = len(whole.content)
            for given, part in (
                ("bytes=0-3", slice(0, 4)),
                ("bytes=10-", slice(10, None)),
                ("bytes=-5", slice(size - 5, None)),
                ("BYTES=0-0", slice(0, 1)),
                (f"bytes=5-{size * 10}", slice(5, None)),
            ):
                answer = await client.get(url, headers={"Range": given})
                assert (answer.status_code, answer.content) == (206, whole.content[part]), given
            answer = await client.get(url, headers={"Range": "bytes=0-3,8-9"})
            assert (answer.status_code, answer.headers["content-type"][:20]) == (206, "multipart/byteranges")
            for given in ("seconds=0-3", "rows=a", "nonsense", ""):  # a unit that nobody knows is as good as none
                answer = await client.get(url, headers={"Range": given})
                assert (answer.status_code, answer.content) == (200, whole.content), given
            for given in (f"bytes={size}-", "bytes=5-2", "bytes=a-b", "bytes=", "bytes", "bytes=-", "bytes=1e3-2"):
                answer = await client.get(url, headers={"Range": given})
                assert answer.status_code == 416, given
                assert answer.headers["content-range"] == f"bytes */{size}"
                assert f"of {size} bytes; give e.g. Range: bytes=0-1023" in answer.json()["error"]
            head = await client.head(url, headers={"Range": "bytes=0-3"})
            assert (head.status_code, head.headers["content-length"], head.content) == (206, "4", b"")

    asyncio.run(go())


def test_heads_of_a_job_come_at_once_also_of_events_without_an_end(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path, FakeService(pause_s=60)) as client:
            job = (await client.post(JOBS, json=GOOD)).json()["id"]
            for url in URLS:
                head = await asyncio.wait_for(client.head(f"{JOBS}/{job}{url}"), 10)
                assert head.status_code == (409 if url in ("/result", "/provenance") else 200), url
                assert head.content == b""
            assert (await client.head(f"{JOBS}/{'0' * 32}")).status_code == 404

    asyncio.run(go())
