"""`ssmttm listen` as a listener meets it: the command serves, Chromium listens and answers, the command reports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, open_page
from command_line import Command

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.evaluation.listening_app import Answers

PROMPT = "slow piano, as if it rained"


@pytest.fixture
def ssmttm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    time = np.arange(18_000) / 24_000
    for system, hz in (("ours", 330), ("peer", 440)):
        for item in range(3):
            wav = 0.3 * np.sin(2 * np.pi * hz * (1 + item / 4) * time)
            audio.write(
                f"{tmp_path}/{system}/{item}.wav", Audio(wav[None].astype(np.float32), 24_000), {"prompt": PROMPT}
            )
    return [f"{tmp_path}/{system}" for system in ("ours", "peer")]


def test_mistakes_are_one_line(ssmttm: Command, tmp_path: Path, folders: list[str]) -> None:
    code, _, error = ssmttm("listen")
    assert (code, error.count("\n")) == (2, 1)
    assert "give a folder of clips for each system" in error
    code, _, error = ssmttm("listen", "--results", f"{tmp_path}/r", "--answers", f"{tmp_path}/none.sqlite")
    assert code == 2
    assert "none.sqlite does not exist" in error
    assert not (tmp_path / "none.sqlite").exists()
    code, _, error = ssmttm("listen", folders[0], "--answers", f"{tmp_path}/a.sqlite")
    assert code == 2
    assert "pairs need two systems" in error


@pytest.fixture
def server(folders: list[str], tmp_path: Path) -> Iterator[str]:
    import socket

    chromium()  # skips before anything is started
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from ssmttm.cli import main; main()", "listen", *folders, "--port", str(port)]
    command += ["--answers", str(tmp_path / "answers.sqlite"), "--pairs", "2", "--ratings", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        assert f"http://127.0.0.1:{port} (answers go to " in line
        yield f"http://127.0.0.1:{port}"
        run.send_signal(signal.SIGINT)
        run.wait(60)


@pytest.mark.slow
def test_a_listener_answers_a_whole_session(server: str, ssmttm: Command, tmp_path: Path) -> None:
    pictures = os.environ.get("SSMTTM_SCREENSHOTS")
    with open_page() as page:
        page.set_default_timeout(120_000)
        for attempt in range(100):  # the server may still be preparing its clips
            try:
                page.goto(server)
                break
            except Exception:
                assert attempt < 99
                page.wait_for_timeout(500)
        page.get_by_role("button", name="Begin").click()
        kinds: list[str] = []
        reloaded = False
        while True:
            page.wait_for_selector("#count:visible, #end:visible")
            if page.is_visible("#end"):
                break
            title, count = page.inner_text("#title"), page.inner_text("#count")
            kinds.append(title)
            send = page.get_by_role("button", name="Next")
            assert send.is_disabled()
            for sound in page.locator("audio").all():
                assert page.locator("#asked input").first.is_disabled()
                sound.evaluate("sound => sound.play()")
                page.wait_for_function("sound => sound.ended", arg=sound.element_handle())
            page.wait_for_function("() => !document.querySelector('#asked fieldset').disabled")
            assert send.is_disabled()
            text = page.inner_text("#text")
            if "two" in title:
                page.get_by_label("A", exact=True).check(force=True)
            else:
                for group in page.locator("fieldset").all():
                    group.locator("input[value='2']").check(force=True)
                assert "checks your attention" in text or PROMPT in text
            if pictures:
                name = re.sub(r"\W+", "-", f"{len(kinds):02d}-{title}")
                page.screenshot(path=f"{pictures}/{name}.png", full_page=True)
            if len(kinds) == 3 and not reloaded:  # loaded again, the page goes on where it was
                reloaded = True
                page.reload()
                page.wait_for_selector("#count:visible")
                assert page.inner_text("#count") == count
                kinds.pop()
                continue
            send.click()
            page.wait_for_function(
                "before => document.getElementById('count').textContent !== before"
                " || !document.getElementById('end').hidden",
                arg=count,
            )
        assert len(kinds) == 2 + 2 + 2 + 2
    answers = Answers(str(tmp_path / "answers.sqlite")).all()
    assert len(answers) == 8
    assert {one.kind for one in answers} == {"pair", "rating", "pair-check", "rating-check"}
    code, printed, _ = ssmttm("listen", "--results", f"{tmp_path}/results", "--answers", f"{tmp_path}/answers.sqlite")
    assert code == 0
    assert "1 sessions" in printed
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["finished"] == 1
    assert (tmp_path / "results.html").exists()
