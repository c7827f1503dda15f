"""The Ray that a job works on: found within a bounded time, and silent where it has nothing to say.

What is not shown is listed here, by name and with the reason, and nowhere else. It is still in Ray's own log files.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ssmttm.errors import UserError

CONNECT_S = 15.0

# Lines that Ray's processes print, by a pattern.
QUIET_LINES = (
    # One for each checkpoint; the run's own lines say the same.
    r"^Reporting training result \d+: TrainingReport\(",
    # Of actors that Ray Data and Ray Train make for themselves, whose arguments stay as long as the job does.
    r"core_worker\.cc:\d+: Actor with class name: .* has constructor arguments in the object store and max_restarts",
    # Of every submitted job: that it begins, and the command that was given.
    r"INFO job_manager\.py:\d+ -- Runtime env is setting up\.",
    r"^Running entrypoint for job raysubmit_\w+: ",
    # Of Serve's proxy and controller: which replicas come and go. Their warnings are shown, and what replicas say.
    r"^INFO \S+ \S+ (proxy|controller) \S+ -- ",
    # Of Serve's controller as it ends, about calls to it that it leaves.
    r"^Task ServeController\.\w+ failed\. There are infinite retries remaining",
)
# Python loggers of Ray's, by what of theirs is not shown.
QUIET_LOGGERS = {
    # Where Ray was found or started; `connect` says it in a line.
    "ray._private.worker": r"^(Using address|Connecting to existing|Connected to|Started a local)",
    # Advice to turn authentication off, and where the token lies, which the guides say. That a cluster asks for no
    # token is shown.
    "ray._private.authentication.authentication_token_setup": r"^(Token authentication is enabled|Generated new auth)",
    # Of Serve: that it starts, has started and ends, which the service says itself.
    "ray.serve": r"^(Started|Connecting to existing|Application '\w+' is ready|Deleting app)",
    # Of submitted jobs: which files are packed, left out and sent, and that their log has ended. What fails is raised.
    "ray.dashboard.modules.dashboard_sdk": r"",
    "ray.dashboard.modules.job.sdk": r"",
    "ray._private.runtime_env.packaging": r"",
    "ray._private.runtime_env.working_dir": r"",
}
# Warnings of libraries, by how they begin.
QUIET_WARNINGS = (
    # scikit-learn's, of a corpus of a dozen tracks; the evaluation says how many clips its figures rest on.
    "The number of unique classes is greater than 50%",
)


def be_quiet() -> None:
    """Leave out of this process's output, and of what Ray shows of its workers, what is listed above."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "|".join(QUIET_LINES))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" in sys.modules:  # which reads that variable when it is imported
        from ray._private import ray_logging

        for printer in (ray_logging.stdout_deduplicator, ray_logging.stderr_deduplicator):
            printer.skip_re = re.compile(os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"])
    for message in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name, pattern in QUIET_LOGGERS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Without) for one in logger.filters):
            logger.addFilter(_Without(pattern))


class _Without(logging.Filter):
    """Drops records that begin as the pattern says, errors never."""

    def __init__(self, pattern: str):
        super().__init__()
        self._pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not self._pattern.search(record.getMessage())


def without_noise(text: str) -> str:
    """Lines of a job's log without those that are not shown."""
    quiet = re.compile("|".join(QUIET_LINES))
    return "".join(line for line in text.splitlines(keepends=True) if not quiet.search(line))


def check_address(address: str) -> None:
    """Refuse an address of a cluster, `host:port` or that of its job server, where none answers.

    Raises:
        UserError: after `CONNECT_S` at the latest.
    """
    try:
        if address.startswith(("http://", "https://")):
            _ask(address)
        elif re.fullmatch(r"(ray://)?[^/]+:\d+", address):
            _reach(address)
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address} does not answer as a Ray cluster ({error}); start that cluster, correct the "
            "address, or unset RAY_ADDRESS to have a Ray started here"
        ) from None


def _ask(address: str) -> None:
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=CONNECT_S).close()
    except urllib.error.HTTPError as answer:
        if answer.code not in (401, 403):  # asks for the token
            raise OSError(f"answer {answer.code}") from None
    except urllib.error.URLError as error:
        raise OSError(getattr(error.reason, "strerror", None) or str(error.reason)) from None


def _reach(address: str) -> None:
    """Both kinds of address speak gRPC; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    import grpc

    channel = grpc.insecure_channel(f"{host}:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
    except grpc.FutureTimeoutError:
        raise OSError(f"something else listens there, or nothing for {CONNECT_S:g} s") from None
    finally:
        channel.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect() -> None:
    """Attach this process to the cluster that RAY_ADDRESS names (inside a submitted job, its own), else start one here
    that ends with the process.

    Raises:
        UserError: if there is no cluster at that address.
    """
    be_quiet()
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    # An http address is that of the job server, which `ray job submit` reads from the same variable.
    if not address or address == "local" or address.startswith("http"):
        port = free_port()
        # Ray Train asks for its cluster's address in processes that were not told; with a second Ray on the machine it
        # would find two, and end in traces. So what is started now is started with the address it will have.
        own = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}
        with _environment(own):
            context = ray.init(address="local")
        print(f"Ray started; its dashboard is at http://{context.dashboard_url}", flush=True)
        return
    check_address(address)
    told = {} if address == "auto" else {"runtime_env": {"env_vars": {"RAY_ADDRESS": address}}}
    try:
        ray.init(address=address, **told)
    except ConnectionError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"RAY_ADDRESS={address} cannot be used ({reason}); correct or unset it") from None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
