"""cluster/start_head.sh, with a stand-in for Ray."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "cluster" / "start_head.sh"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, and a `ray` that writes down what it is asked."""
    (tmp_path / "cluster").mkdir()
    shutil.copy(SCRIPT, tmp_path / "cluster")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    ray = tmp_path / ".venv" / "bin" / "ray"
    ray.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    ray.chmod(0o755)
    return tmp_path


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = str(checkout / "cluster" / "start_head.sh")
    return subprocess.run(["bash", script, *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
@pytest.mark.parametrize("spelling", ["{}={}", "{} {}"])
def test_a_busy_port_is_named_and_nothing_is_started(checkout: Path, busy: int, option: str, spelling: str) -> None:
    others = {"--port", "--dashboard-port"} - {option}
    words = [*(f"{other}={free()}" for other in others), *spelling.format(option, busy).split()]
    done = start(checkout, *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == (
        f"error: port {busy} is in use, perhaps by a head that runs here already: stop that with .venv/bin/ray stop, "
        f"or give another {option}"
    )
    assert "Submit a job" not in done.stdout
    assert "start" not in (checkout / "asked").read_text().split()


def test_with_free_ports_the_head_is_started_with_the_options_given(checkout: Path) -> None:
    words = [f"--port={free()}", f"--dashboard-port={free()}", "--num-cpus", "4"]
    done = start(checkout, *words)
    assert done.returncode == 0, done.stderr
    asked = (checkout / "asked").read_text().splitlines()[-1]
    assert asked == f"start --head --dashboard-host 127.0.0.1 --disable-usage-stats {' '.join(words)}"
    assert "Submit a job" in done.stdout
