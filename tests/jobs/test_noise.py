"""What a person reads who starts a job: its own lines, and nothing alarming that means nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from ssmttm.cluster import free_port
from ssmttm.training.ray_jobs import local_head

ROOT = Path(__file__).parent.parent.parent
MOST = 15
# Progress: steps and validations of a training, bars, and the demo's steps.
UNITS = "(it|clip|book|part|file|task|piece)"
PROGRESS = re.compile(rf"step \d+(/\d+)?  |%\||s/{UNITS}\]|{UNITS}/s\]|\[\w+\] (step \d|\d+ s)")
FOREIGN = re.compile(r"WARNING|Traceback|Exception|RAY_AUTH_MODE=disabled|core_worker\.cc|TrainingReport")
# Ray's own words for a machine that has too much to do, as one may that runs tests.
OVERLOADED = re.compile(
    r"^Failed to send resource request [^\n]* CPU being overloaded.*?^ray\.exceptions\.GetTimeoutError[^\n]*\n",
    re.MULTILINE | re.DOTALL,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def own_lines(text: str) -> list[str]:
    """Lines beside progress, without the colours and the worker's name that Ray puts before them."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n")
    plain = re.sub(r"^\(\w+ pid=\d+[^)]*\) ?", "", plain, flags=re.MULTILINE)
    lines = [line.strip() for line in OVERLOADED.sub("", plain).splitlines()]
    return [line for line in lines if line and not PROGRESS.search(line)]


def check(lines: list[str]) -> None:
    shown = "\n".join(lines)
    assert len(lines) <= MOST, f"{len(lines)} lines:\n{shown}"
    assert not [line for line in lines if FOREIGN.search(line)], shown


@pytest.mark.parametrize("launch", ["local", "ray", "ray beside another"])
def test_a_training_prints_its_own_lines(
    launch: str, tiny_tokens: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tracking, as it is by default, in a home that holds no token yet, and also where a Ray runs already."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with local_head() if launch == "ray beside another" else nullcontext():
        train(launch.split()[0], tiny_tokens, tiny_folder, tmp_path)


def train(launch: str, tiny_tokens: str, tiny_folder: Path, tmp_path: Path) -> None:
    words = [f"train.data={tiny_tokens}", f"train.out={tmp_path}", f"codec.path={tiny_folder}/codec"]
    words += [f"train.launch={launch}", "train.cpus_per_worker=0.5"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train_stage1.py"), "--preset", "tiny", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout
    lines = own_lines(done.stdout)
    check(lines)
    assert any(line.startswith("stage1 finished: ") for line in lines), "the job's own lines are shown"


def test_the_service_prints_its_own_lines(bundle_uri: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-m", "serve", f"port={free_port()}", f"bundle={bundle_uri}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    # On a busy machine Serve rightly says that it is slow.
    environment |= {"RAY_SERVE_SLOW_STARTUP_WARNING_S": "600", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120"}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as service:  # type: ignore[call-overload]
        said = []
        for line in service.stdout:
            said.append(line)
            if line.startswith("the service answers on "):
                break
        service.send_signal(signal.SIGTERM)
        rest, _ = service.communicate(timeout=300)
    lines = own_lines("".join(said) + rest)
    check(lines)
    assert any(line.startswith("the service answers on ") for line in lines), "\n".join(lines)
