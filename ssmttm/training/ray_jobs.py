"""Ray jobs from a script: a cluster to submit them to, and each job's log on the console."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from ssmttm.cluster import be_quiet, check_address, free_port, without_noise

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FAILURE_LINES = 40
START_TIMEOUT_S = 180  # a cluster on a busy machine takes its time before it accepts jobs


class JobFailedError(RuntimeError):
    """A job ended without success; the message holds the end of its log."""


@contextmanager
def job_client() -> Iterator[JobSubmissionClient]:
    """A client of the cluster at `RAY_ADDRESS`, or of one started here and stopped at the end.

    The cluster started here listens on 127.0.0.1 alone and asks for a token. Unless the environment holds one, a
    token for this cluster alone is drawn and handed on through the environment: nothing is read from or left in the
    home folder.

    Raises:
        UserError: if nothing answers at that address.
    """
    # Jobs call `python` and `ssmttm`: they must be this environment's, activated or not.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    be_quiet()
    address = os.environ.get("RAY_ADDRESS")
    if address:
        check_address(address)
        from ray.job_submission import JobSubmissionClient

        yield JobSubmissionClient(address)
        return
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with _exit_on_sigterm(), local_head() as url:
        from ray.job_submission import JobSubmissionClient

        yield JobSubmissionClient(url)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, through every `finally`, with exit code 143."""

    def leave(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def local_head() -> Iterator[str]:
    """A head of our own for as long as the block lasts; yields the address of its job server.

    It has its own folder and free ports, since Ray's defaults for both make two clusters on one machine answer each
    other's jobs: `ray.init` can set neither, so this is `ray start`.
    """
    folder = tempfile.mkdtemp(prefix="ssmttm-ray-")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--block", "--port=0"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}", "--disable-usage-stats"]
    with open(os.path.join(folder, "head.log"), "w+", encoding="utf-8") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_for(head, url, log)
            print(f"Ray started; its dashboard is at {url}", flush=True)
            yield url
        finally:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)  # whatever outlived its head
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for(head: subprocess.Popen[bytes], url: str, log: TextIO) -> None:
    """Wait until the job server answers.

    Raises:
        JobFailedError: with the end of its log, if the head ended or the time is over.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=1).close()
            return
        time.sleep(0.2)
    log.seek(0)
    raise JobFailedError("".join(log.readlines()[-FAILURE_LINES:]) + "\nRay did not start")


def _submit(client: JobSubmissionClient, command: Sequence[str], runtime_env: dict[str, Any]) -> str:
    """Submit, waiting for a cluster that has just started to have an agent that takes jobs."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return client.submit_job(entrypoint=shlex.join(command), runtime_env=dict(runtime_env))
        except (RuntimeError, ConnectionError) as error:
            starting = isinstance(error, ConnectionError) or "No available agent" in str(error)
            if not starting or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _finished(client: JobSubmissionClient, job: str) -> str:
    """The status of a job whose log has ended, once it is final."""
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(0.2)
    return status.value


async def _follow(client: JobSubmissionClient, job: str, log_path: str) -> None:
    with open(log_path, "w", encoding="utf-8") as log:
        async for lines in client.tail_job_logs(job):
            log.write(lines)
            log.flush()
            sys.stdout.write(without_noise(lines))
            sys.stdout.flush()


def run_job(client: JobSubmissionClient, command: Sequence[str], folder: str, log_path: str) -> None:
    """Submit a command as a job, show its log as it grows, and wait for its end.

    Args:
        client: of the cluster.
        command: program and arguments, run in a copy of `folder` on the head.
        folder: local folder to send, with a `runtime_env.yaml` that says what to leave out.
        log_path: local file for the log.

    Raises:
        JobFailedError: if it does not succeed.
        KeyboardInterrupt, SystemExit: after stopping the job.
    """
    with open(os.path.join(folder, "runtime_env.yaml"), encoding="utf-8") as file:
        runtime_env = yaml.safe_load(file)
    job = _submit(client, command, {"working_dir": folder, **runtime_env})
    os.makedirs(os.path.dirname(log_path), exist_ok=True)
    try:
        asyncio.run(_follow(client, job, log_path))
        status = _finished(client, job)
    except (KeyboardInterrupt, SystemExit):
        client.stop_job(job)
        raise
    if status != "SUCCEEDED":
        tail = "\n".join(client.get_job_logs(job).splitlines()[-FAILURE_LINES:])
        reason = (client.get_job_info(job).message or "").partition("\n")[0]
        raise JobFailedError(f"{tail}\n\njob {status}: {reason}\nlog: {log_path}")
