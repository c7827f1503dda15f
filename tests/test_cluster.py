"""How a job finds its Ray, and what of Ray's output it does not show."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ssmttm import cluster
from ssmttm.cluster import QUIET_LINES, be_quiet, check_address, without_noise
from ssmttm.errors import EXIT_USER_ERROR, UserError

ROOT = Path(__file__).parent.parent


class Answer(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


def refused(address: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        check_address(address)
    assert time.monotonic() - start < 20  # Ray's own clients wait for minutes, or for ever
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"RAY_ADDRESS={address} does not answer as a Ray cluster (")
    return str(error.value)


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_an_address_where_nothing_listens_is_refused(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{unused.getsockname()[1]}"
        assert "Connection refused" in refused(address)


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_an_address_that_takes_connections_and_is_silent_is_refused(silent: int, scheme: str) -> None:
    refused(f"{scheme}127.0.0.1:{silent}")


def test_another_servers_address_is_refused(web: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "something else listens there" in refused(f"127.0.0.1:{web}")
    monkeypatch.setattr(Answer, "code", 404)
    assert "answer 404" in refused(f"http://127.0.0.1:{web}")


def test_a_name_that_nobody_knows_is_refused() -> None:
    refused("no-such-host.invalid:6379")


@pytest.mark.parametrize("code", [200, 401])
def test_a_job_server_is_let_through_also_if_it_asks_for_a_token(
    web: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answer, "code", code)
    check_address(f"http://127.0.0.1:{web}")


@pytest.mark.parametrize("job", ["train_stage1", "preprocess", "train_codec", "evaluate", "demo"])
@pytest.mark.slow
def test_jobs_end_in_one_line_where_ray_address_points_nowhere(
    job: str, tiny_tokens: str, tmp_path: Path, tiny_folder: Path, bundle_uri: str
) -> None:
    words = {
        "train_stage1": [f"train.data={tiny_tokens}", f"train.out={tmp_path}", f"codec.path={tiny_folder}/codec"],
        "preprocess": [
            f"corpus.source={tiny_folder}/corpus", f"corpus.out={tmp_path}/tokens", f"codec.path={tiny_folder}/codec"
        ],
        "train_codec": [f"corpus.source={tiny_folder}/corpus", f"codec.path={tmp_path}/codec"],
        "evaluate": [
            f"evaluate.bundle={bundle_uri}", f"train.data={tiny_tokens}", f"corpus.source={tiny_folder}/corpus",
            f"evaluate.out={tmp_path}/out",
        ],
        "demo": ["--out", str(tmp_path / "demo")],
    }[job]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--preset", "tiny", *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    lines = [line for line in done.stderr.splitlines() if "it/s" not in line and "%|" not in line and line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: RAY_ADDRESS=127.0.0.1:1 does not answer as a Ray cluster (Connection refused)")


RECORDS = {
    "ray._private.worker": "Started a local Ray instance. View the dashboard at http://127.0.0.1:8265",
    "ray._private.authentication.authentication_token_setup": "Token authentication is enabled for this Ray cluster. "
    "Set RAY_AUTH_MODE=disabled to opt out.",
    "ray._private.runtime_env.packaging": "Ignoring upload to cluster for these files: [PosixPath('.gitignore')]",
    "ray._private.runtime_env.working_dir": "Directory '.git' is now ignored by default",
    "ray.dashboard.modules.job.sdk": "WebSocket closed for job raysubmit_82dwBCBU89PAtNFq with close code 1000",
}
KEPT = {
    "ray._private.worker": "Failed to connect to the default Ray cluster address",
    "ray._private.authentication.authentication_token_setup": "Token authentication is disabled for this Ray cluster. "
    "Anyone with network access to the cluster can run arbitrary code",
}


def test_advice_to_turn_authentication_off_and_chatter_are_not_shown_and_warnings_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    be_quiet()
    for name, message in RECORDS.items():
        logging.getLogger(name).warning(message)
    assert not caplog.records
    for name, message in {**KEPT}.items():
        logging.getLogger(name).warning(message)
    for name, message in RECORDS.items():
        logging.getLogger(name).error(message)
    assert [record.getMessage() for record in caplog.records] == [*KEPT.values(), *RECORDS.values()]


NOISE = """\
2026-12-01 10:53:25,917	INFO job_manager.py:581 -- Runtime env is setting up.
Running entrypoint for job raysubmit_Twh8YGHjzWT27GYE: ssmttm corpus compose
[2026-12-01 10:58:36,688 E 1 2] core_worker.cc:2465: Actor with class name: 'MapWorker' and ID: '7' has constructor \
arguments in the object store and max_restarts > 0. If the arguments go out of scope, the restart will fail.
INFO 2026-12-01 13:03:43,801 controller 5415 -- Deploying new version of Deployment(name='Renderer', app='ssmttm').
INFO 2026-12-01 13:03:43,828 proxy 192.0.2.2 -- Got updated endpoints: {}.
Task ServeController.listen_for_change failed. There are infinite retries remaining, so the task will be retried.
Reporting training result 1: TrainingReport(checkpoint=None, metrics={'step': 2}, validation=False) from rank 0
"""
OURS = """\
WARNING 2026-12-01 13:03:43,801 controller 5415 -- Deployment 'Renderer' has 1 replica that took long to start.
INFO 2026-12-01 13:04:03,161 ssmttm_MusicAPI vyv019fm -- POST /v1/generate 200 2.3ms
step 10/20  loss 1.0
error: s3://bucket/tokens does not exist
[2026-12-01 10:58:36,688 E 1 2] core_worker.cc:99: the raylet died
Traceback (most recent call last):
"""


def test_what_means_nothing_is_left_out_of_a_jobs_log_and_nothing_else() -> None:
    assert without_noise(NOISE) == ""
    assert without_noise(OURS) == OURS
    assert without_noise(NOISE + OURS) == OURS
    assert without_noise("\rpreprocess:   6%|") == "\rpreprocess:   6%|"
    for pattern in QUIET_LINES:
        assert re.search(pattern, NOISE, flags=re.MULTILINE), pattern
