"""Ray jobs from a script: a cluster to submit them to, and each job's log on the console."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FAILURE_LINES = 40
START_TIMEOUT_S = 180  # a cluster on a busy machine takes its time before it accepts jobs
CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
    "ray.worker",
)


class JobFailedError(RuntimeError):
    """A job ended without success; the message holds the end of its log."""


@contextmanager
def job_client() -> Iterator[JobSubmissionClient]:
    """A client of the cluster at `RAY_ADDRESS`, or of one started here and stopped at the end.

    The cluster started here asks for a token, and its dashboard listens on 127.0.0.1 alone. Unless the environment
    holds one, a token for this cluster alone is drawn and handed on through the environment: nothing is read from or
    left in the home folder.
    """
    # Jobs call `python` and `ssmttm`: they must be this environment's, activated or not.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        from ray.job_submission import JobSubmissionClient

        yield JobSubmissionClient(address)
        return
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray.job_submission import JobSubmissionClient

    context = ray.init(address="local", include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
    try:
        yield JobSubmissionClient(f"http://{context.dashboard_url}")
    finally:
        ray.shutdown()


def _submit(client: JobSubmissionClient, command: Sequence[str], runtime_env: dict[str, Any]) -> str:
    """Submit, waiting for a cluster that has just started to have an agent that takes jobs."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return client.submit_job(entrypoint=shlex.join(command), runtime_env=dict(runtime_env))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
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
            sys.stdout.write(lines)
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
        KeyboardInterrupt: after stopping the job.
    """
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    with open(os.path.join(folder, "runtime_env.yaml"), encoding="utf-8") as file:
        runtime_env = yaml.safe_load(file)
    job = _submit(client, command, {"working_dir": folder, **runtime_env})
    os.makedirs(os.path.dirname(log_path), exist_ok=True)
    try:
        asyncio.run(_follow(client, job, log_path))
        status = _finished(client, job)
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    if status != "SUCCEEDED":
        tail = "\n".join(client.get_job_logs(job).splitlines()[-FAILURE_LINES:])
        reason = (client.get_job_info(job).message or "").partition("\n")[0]
        raise JobFailedError(f"{tail}\n\njob {status}: {reason}\nlog: {log_path}")
