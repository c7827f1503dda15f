"""Bundles and checkpoints from anyone: each of some four hundred is refused in one line, soon, at little cost, and with
nothing fetched."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import BUNDLES, CHECKPOINTS, Change, make

from ssmttm.bundle.load import load_bundle
from ssmttm.errors import UserError
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore, Progress, load_checkpoint

SECONDS, BYTES = 5, 1 << 30  # what refusing one may take
HANGS = 120


def good_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    state = {"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4)}
    moments = {f"exp_avg.{name}": value for name, value in state.items()}
    made = Checkpoint(Progress(2, 3, 0, 100, 2.5), state, {**moments, "step": torch.tensor(2.0)}, None, "stage1")
    return Path(CheckpointStore(str(folder), 2).save(made))


@contextmanager
def unplugged() -> Iterator[list[Any]]:
    """Whom anything here wants to talk to, which it may not; and an end to what hangs."""
    asked: list[Any] = []

    def refuse(one: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("no network here")

    def hangs(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    connect, resolve = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = lambda *where, **_: refuse(where, where)  # type: ignore[assignment,arg-type]
    signal.alarm(HANGS)
    try:
        yield asked
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        socket.socket.connect, socket.getaddrinfo = connect, resolve  # type: ignore[method-assign]


def refusal(load: Callable[[str], object], folder: Path) -> str:
    with unplugged() as asked, pytest.raises(UserError) as error:
        load(str(folder))
    assert asked == []
    return str(error.value)


def check_line(message: str, folder: Path) -> None:
    assert message.isprintable(), message
    assert len(message) < 700
    assert str(folder) in message


@pytest.mark.parametrize("name", list(BUNDLES)[::3])  # the slow test below has all
def test_a_bundle_that_is_refused(bundle_uri: str, tmp_path: Path, name: str) -> None:
    folder = make(Path(bundle_uri), tmp_path / "bundle", name, BUNDLES[name], "bundle.json")
    check_line(refusal(lambda uri: load_bundle(uri, "cpu"), folder), folder)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(good_checkpoint(tmp_path / "good"), tmp_path / "bad", name, CHECKPOINTS[name], "checkpoint.json")
    check_line(refusal(load_checkpoint, folder), folder)


def test_there_are_enough_of_them_and_the_good_ones_load(bundle_uri: str, tmp_path: Path) -> None:
    assert len(BUNDLES) + len(CHECKPOINTS) > 300
    nothing: Change = lambda folder: None  # noqa: E731
    load_bundle(str(make(Path(bundle_uri), tmp_path / "bundle", "as it is", nothing, "bundle.json")), "cpu")
    good = good_checkpoint(tmp_path / "good")
    assert (
        load_checkpoint(str(make(good, tmp_path / "again", "as it is", nothing, "checkpoint.json"))).progress.step == 2
    )


def run_all(good: Path, out: Path) -> None:
    """All of them in this process: who is not refused, or takes more than it may, is named on stdout."""
    load_bundle(str(good), "cpu")  # what is imported and set up once is not counted
    checkpoint = good_checkpoint(out / "good")
    loaders: list[tuple[str, Path, dict[str, Change], Callable[[str], object]]] = [
        ("bundle.json", good, BUNDLES, lambda uri: load_bundle(uri, "cpu")),
        ("checkpoint.json", checkpoint, CHECKPOINTS, load_checkpoint),
    ]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for commit, whole, cases, load in loaders:
        for name, change in cases.items():
            folder = make(whole, out / "bad", name, change, commit)
            before = time.process_time()
            try:
                check_line(refusal(load, folder), folder)
                if (took := time.process_time() - before) > SECONDS:
                    print(f"{name}: {took:.1f} s", flush=True)
            except BaseException as error:  # pytest's failures among them
                print(f"{name}: {type(error).__name__} {error}", flush=True)
            shutil.rmtree(folder)
    print("all done")


@pytest.mark.slow
def test_all_of_them_within_five_seconds_and_a_gigabyte(bundle_uri: str, tmp_path: Path) -> None:
    """Each in 5 s of this process' time, and none with more than 1 GiB of addresses beyond those of the good one."""
    script = "import sys, pathlib, test_hostile as t; t.run_all(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    words = [sys.executable, "-c", script, bundle_uri, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=900)
    assert done.stdout == "all done\n", done.stdout + done.stderr[-2000:]
