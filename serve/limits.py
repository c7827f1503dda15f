"""What callers may do: keys, rates and sizes."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import ip_address

from pydantic import BaseModel, ConfigDict, Field

from ssmttm import storage
from ssmttm.errors import UserError

KEYS_VARIABLE = "SSMTTM_API_KEYS"
SHORTEST_KEY = 16
MOST_BUCKETS = 10_000


class Limits(BaseModel):
    """Bounds of the service, beside those of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(65_536, ge=1024, description="size of a request's body")
    upload_bytes: int = Field(64 * 2**20, ge=1024, description="size of the body of an upload")
    in_flight: int = Field(64, ge=1, description="requests for music that are answered at a time; more get 429")
    per_minute: float = Field(60, gt=0, description="requests for music that each key may make, on average")
    burst: int = Field(20, ge=1, description="and at once")
    deadline_s: float = Field(
        120, gt=0, description="seconds without new audio after which a request ends, waiting for its turn included"
    )
    jobs_queued: int = Field(100, ge=0, description="jobs that may wait; more get 429")
    jobs_running: int = Field(2, ge=1, description="jobs that are made at a time by each ingress")
    jobs_keep_s: float = Field(86_400, gt=0, description="seconds after which a job and its file are forgotten")


class Keys:
    """API keys, kept as digests. None at all leaves the service open.

    Args:
        keys: as callers send them.

    Raises:
        UserError: if one is too short to be a secret.
    """

    def __init__(self, keys: Iterable[str] = ()):
        self._digests = []
        for key in keys:
            if len(key) < SHORTEST_KEY:
                raise UserError(f"an API key has {len(key)} characters; make keys of at least {SHORTEST_KEY}")
            self._digests.append(hashlib.sha256(key.encode()).digest())

    @classmethod
    def read(cls, uri: str | None) -> Keys:
        """From a file, or without one from the environment (SSMTTM_API_KEYS): one key per line or between commas.

        Raises:
            UserError: if the file is missing or holds no key, or a key is too short.
        """
        if uri is None:
            return cls(_split(os.environ.get(KEYS_VARIABLE, "")))
        if not storage.exists(uri):
            raise UserError(f"the file of API keys {uri} does not exist; write one key per line into it")
        keys = _split(storage.read_bytes(uri).decode())
        if not keys:
            raise UserError(f"the file of API keys {uri} is empty; write one key per line into it")
        return cls(keys)

    @property
    def are_needed(self) -> bool:
        return bool(self._digests)

    def caller(self, authorization: str) -> str | None:
        """A short name of the caller for logs and limits, from an Authorization header; None if the key is unknown.

        Every key is compared with, in constant time, so that the answer's time tells nothing.
        """
        scheme, _, key = authorization.partition(" ")
        sent = hashlib.sha256(key.strip().encode(errors="replace")).digest()
        matches = [hmac.compare_digest(sent, digest) for digest in self._digests]
        return sent.hex()[:12] if any(matches) and scheme.lower() == "bearer" else None


def _split(text: str) -> list[str]:
    words = [word.strip() for line in text.splitlines() if not line.startswith("#") for word in line.split(",")]
    return [word for word in words if word]


def is_loopback(host: str) -> bool:
    """Whether a host can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, keys: Keys) -> None:
    """Raises UserError where anybody on a network could use an open service."""
    if not keys.are_needed and not is_loopback(host):
        raise UserError(
            f"without API keys the service may listen on 127.0.0.1 only, not on {host}; "
            f"set {KEYS_VARIABLE} or keys=FILE"
        )


class TokenBuckets:
    """A bucket of tokens per caller: a request takes one, and they come back at a steady rate."""

    def __init__(self, per_minute: float, burst: int):
        self._rate, self._burst = per_minute / 60, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was counted

    def take(self, caller: str) -> float:
        """0 if there was a token, otherwise the seconds until there is one."""
        now = time.monotonic()
        tokens, counted = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(tokens + (now - counted) * self._rate, self._burst)
        is_allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if is_allowed else tokens, now)
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if is_allowed else (1 - tokens) / self._rate
