"""The preprocessing job on Ray, killed in mid-run: driver, worker, and the S3 server it reads from and writes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from file_s3 import Server

from ssmttm import config, storage
from ssmttm.codec.base import Codec
from ssmttm.tokens.write import COMMIT_NAME, preprocess_local

ROOT = Path(__file__).parent.parent.parent
TRACKS, SECONDS, RATE = 40, 30.0, 24_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that keeps two workers busy for some ten seconds."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    for index in range(TRACKS):
        soundfile.write(folder / f"{index:02d}.wav", 0.1 * rng.standard_normal(round(SECONDS * RATE)), RATE)
        entry = {"licence": "CC0-1.0", "captions": [f"noise number {index}"], "split": "train" if index else "val"}
        (folder / f"{index:02d}.json").write_text(json.dumps(entry))
    return folder


@pytest.fixture(scope="module")
def undisturbed(music: Path, tiny_config: config.Config, tiny_codec: Codec, tmp_path_factory) -> dict[str, object]:
    """Files of the dataset, with sizes and digests, as one process makes it."""
    out = str(tmp_path_factory.mktemp("undisturbed"))
    values = {**tiny_config.corpus.model_dump(), "source": str(music), "out": out, "rows_per_shard": 4}
    preprocess_local(config.from_dict({**tiny_config.model_dump(), "corpus": values}))
    return storage.read_commit(out, COMMIT_NAME)["files"]


def start(source: str, out: str, codec: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    arguments = ["--preset", "tiny", f"corpus.source={source}", f"corpus.out={out}", f"codec.path={codec}"]
    variables = {**os.environ, "RAY_TMPDIR": "/tmp", **(environment or {})}
    variables.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "preprocess.py"), *arguments, "corpus.rows_per_shard=4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        cwd=ROOT,
    )


def wait_until(happened: Callable[[], bool], job: subprocess.Popen[str], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert job.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stored_shards(server: Server) -> int:
    return len(list((server.folder / "bucket").glob("tokens%2Fshards%2F*")))


def finished_shards(folder: Path) -> int:
    return len(list(folder.glob("shards/*.parquet")))


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_killed_and_started_again_it_gives_the_same_bytes(
    music: Path, undisturbed: dict[str, object], tiny_config: config.Config, tmp_path: Path, victim: str
) -> None:
    job = start(str(music), str(tmp_path), tiny_config.codec.path)
    wait_until(lambda: finished_shards(tmp_path) >= 5, job)
    if victim == "driver":
        job.kill()
        job.communicate()
        assert not (tmp_path / COMMIT_NAME).exists()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.parquet")}
        job = start(str(music), str(tmp_path), tiny_config.codec.path)
    else:
        workers = [p for p in psutil.Process(job.pid).children(recursive=True) if "Map" in " ".join(p.cmdline())]
        assert workers
        workers[0].kill()
        before = {}
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output[-3000:]
    assert storage.read_commit(str(tmp_path), COMMIT_NAME)["files"] == undisturbed
    assert all(path.stat().st_mtime_ns == modified for path, modified in before.items())  # no finished part redone


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path / "s3")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.start()
    yield made
    made.kill()


def test_on_s3_a_killed_server_costs_a_restart_and_nothing_else(
    server: Server, music: Path, undisturbed: dict[str, object], tiny_config: config.Config
) -> None:
    for folder, name in ((music, "music"), (Path(tiny_config.codec.path), "codec")):
        for path in folder.iterdir():
            storage.write_bytes(f"s3://bucket/{name}/{path.name}", path.read_bytes())
    arguments = ("s3://bucket/music", "s3://bucket/tokens", "s3://bucket/codec", server.environment)
    job = start(*arguments)
    wait_until(lambda: stored_shards(server) >= 5, job)
    server.kill()
    output, _ = job.communicate(timeout=400)
    assert job.returncode == 2, output[-3000:]
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "s3://bucket/" in line
    assert "the storage failed 6 times" in line
    assert "not-audio" not in output
    server.start()
    held = stored_shards(server)
    assert 5 <= held < len([name for name in undisturbed if name.startswith("shards/")])
    job = start(*arguments)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output[-3000:]
    assert f"{held} found finished" in output
    assert storage.read_commit("s3://bucket/tokens", COMMIT_NAME)["files"] == undisturbed
