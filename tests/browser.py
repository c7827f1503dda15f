"""Chromium without a window, for tests of pages. Skips where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# In a container as root there is no sandbox; the rest keeps it from calling anywhere.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Path of the browser; skips the test, saying why, if it or Playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    return found


@contextmanager
def open_page(dark: bool = False, width: int = 900, height: int = 900) -> Iterator[Any]:
    """A Playwright page whose errors and failed requests fail the test in the end."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            scheme = "dark" if dark else "light"
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            page.on("response", lambda one: errors.append(f"{one.status} {one.url}") if one.status >= 400 else None)
            yield page
            assert not errors, errors
        finally:
            browser.close()
