"""The page: what it is made of, and in a browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browser import chromium, open_page
from serving import FakeService, call

from serve.api import make_api

SHOTS = os.environ.get("SSMTTM_SCREENSHOTS")  # a folder, for looking at them


def test_the_page_is_one_file_and_only_its_own_scripts_run() -> None:
    answer = call(make_api(FakeService()), "GET", "/")
    assert answer.headers["content-type"].startswith("text/html")
    (script,), (style,) = (re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL) for tag in ("script", "style"))
    policy = answer.headers["content-security-policy"]
    for text in (script, style):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", answer.text)
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"\son\w+=|\sstyle=", answer.text)  # the policy would not let them act


@contextmanager
def serving(service: FakeService) -> Iterator[str]:
    config = uvicorn.Config(make_api(service), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def until(page: Any, condition: str) -> None:
    """Wait for what JavaScript says; Playwright's own way of waiting is what the page's policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(100)


def inked(canvas: str) -> str:
    """JavaScript: the share of a canvas's columns that something is drawn in."""
    return f"""() => {{
        const area = document.querySelector('{canvas}');
        const data = area.getContext('2d').getImageData(0, 0, area.width, area.height).data;
        let columns = 0;
        for (let x = 0; x < area.width; x++) {{
            for (let y = 0; y < area.height; y++) {{
                if (data[4 * (y * area.width + x) + 3]) {{ columns++; break; }}
            }}
        }}
        return columns / area.width;
    }}"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (375, True)])
def test_music_plays_while_it_is_made(width: int, dark: bool, tmp_path: Path) -> None:
    chromium()
    shots = Path(SHOTS) if SHOTS else tmp_path
    with serving(FakeService(pause_s=0.6)) as url, open_page(dark, width) as page:
        page.goto(url)
        page.get_by_text("ssmttm-fake-1").wait_for()
        page.get_by_role("button", name="Funk").click()
        assert "slap bass" in page.get_by_label("Describe the music").input_value()
        page.get_by_label("Seconds").fill("8")
        page.get_by_label("Seed").fill("7")
        page.get_by_role("button", name="Make music").press("Enter")

        # Half of it is here: it plays already, and half of it is drawn.
        until(page, "document.querySelector('progress').value >= 0.4")
        assert page.evaluate("Player.current !== null && Player.context.state === 'running'")
        assert page.evaluate("Player.current.known < Player.current.samples.length")
        assert 0.3 < page.evaluate(inked(".wave")) < 0.95
        until(page, "Player.current.now() > 12000")
        page.screenshot(path=shots / f"making-{width}.png", full_page=True)

        page.get_by_text("real time").wait_for()
        assert page.evaluate(inked(".wave")) == 1
        assert page.evaluate(inked(".spectrum")) == 1
        assert "seed 7" in page.locator(".facts").inner_text()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.suggested_filename == "ssmttm-7.wav"
        assert Path(download.value.path()).read_bytes()[:4] == b"RIFF"

        # By keyboard: to the end and back, pause, go on.
        slider = page.get_by_role("slider", name="Position in the clip")
        slider.press("Home")
        slider.press("ArrowRight")
        until(page, "document.querySelector('[role=slider]').ariaValueNow >= 5")
        slider.press(" ")
        assert page.evaluate("Player.current === null")
        page.get_by_role("button", name="Play").click()
        assert page.evaluate("Player.current !== null")

        page.get_by_role("button", name="Extend").click()
        page.get_by_text("(extended)").wait_for()
        until(page, "document.querySelectorAll('.clip.done').length === 2")
        page.get_by_label("Variations").fill("2")
        page.get_by_role("button", name="Make music").click()
        until(page, "document.querySelectorAll('.clip.done').length === 4")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=shots / f"made-{width}.png", full_page=True)


@pytest.mark.slow
def test_the_page_asks_by_what_the_model_knows() -> None:
    chromium()
    service = FakeService()
    with serving(service) as url, open_page(False, 800) as page:
        page.goto(url)
        page.get_by_text("Tempo, chords, parts").click()
        assert page.get_by_label("BPM").is_visible()
        assert not page.get_by_label("Chords").is_visible()
        page.get_by_label("Describe the music").fill("calm")
        page.get_by_label("BPM").fill("120.5")
        page.get_by_label("Bars").fill("1")
        page.get_by_label("Drums").select_option("off")
        page.get_by_role("button", name="Make music").click()
        page.get_by_text("real time").wait_for()
        (request,) = service.requests
        assert (request.bpm, request.bars, request.drums, request.chords) == (120.5, 1, False, None)


@pytest.mark.slow
def test_a_clip_is_stopped_and_frees_its_place() -> None:
    service = FakeService(pause_s=1.0)
    with serving(service) as url, open_page() as page:
        page.goto(url)
        page.get_by_label("Describe the music").fill("x")
        page.get_by_label("Describe the music").press("Control+Enter")
        until(page, "document.querySelector('progress').value > 0")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("stopped").wait_for()
        deadline = time.monotonic() + 10
        while service.active:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        page.get_by_role("button", name="Remove this clip").click()
        assert page.locator(".clip").count() == 0
