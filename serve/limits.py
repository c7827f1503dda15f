"""What callers may do: keys, rates and sizes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from pydantic import BaseModel, ConfigDict, Field

from serve.wire import Refusal, RefusedError
from ssmttm import storage
from ssmttm.errors import UserError

KEYS_VARIABLE = "SSMTTM_API_KEYS"
SHORTEST_KEY = 16
MOST_BUCKETS = 10_000
LOOK_S = 0.2  # between looks whether all have left
WRONG_KEYS_AT_ONCE, WRONG_KEYS_PER_MINUTE = 10, 30  # of each address; later ones wait
MOST_SLOWED, MOST_SLOWED_IN_ALL = 2, 100  # answers that wait; more are refused at once
BUSY = Refusal(429, "too many requests are being answered; try again later", 5)
ENDING = Refusal(503, "the service is ending; try again when it is back", 10)


class Limits(BaseModel):
    """Bounds of the service, beside those of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(65_536, ge=1024, description="size of a request's body")
    upload_bytes: int = Field(64 * 2**20, ge=1024, description="size of the body of an upload")
    given_seconds: float = Field(
        600, gt=0, description="seconds of callers' own audio that are held at a time; more get 429"
    )
    in_flight: int = Field(64, ge=1, description="requests for music that are answered at a time; more get 429")
    per_minute: float = Field(60, gt=0, description="requests for music that each key may make, on average")
    burst: int = Field(20, ge=1, description="and at once")
    deadline_s: float = Field(
        120, gt=0, description="seconds without new audio after which a request ends, waiting for its turn included"
    )
    grace_s: float = Field(
        60, ge=0, description="seconds that clips in the making are given when the service ends; jobs go on after it"
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


class Places:
    """A bound on the requests for music that are answered at a time.

    Args:
        most: of them.
        on_change: told how many there are.
    """

    def __init__(self, most: int, on_change: Callable[[int], None] = lambda _: None):
        self._most, self._on_change, self._count = most, on_change, 0
        self.are_closing = False  # nobody is taken in any more
        self.are_closed = False  # those who are in are to go

    async def close(self, grace_s: float) -> None:
        """Take nobody in any more; until all have left, or `grace_s` is over."""
        self.are_closing = True
        end = time.monotonic() + grace_s
        while self._count and time.monotonic() < end:
            await asyncio.sleep(LOOK_S)
        self.are_closed = True

    @contextmanager
    def taken(self, count: int = 1) -> Iterator[None]:
        """Raises RefusedError if there are not as many, or they are closing."""
        if self.are_closing and count > 0:  # whoever is in stays in
            raise RefusedError(ENDING)
        if self._count + count > self._most:
            raise RefusedError(BUSY)
        self._change(count)
        try:
            yield
        finally:
            self._change(-count)

    def _change(self, count: int) -> None:
        self._count += count
        self._on_change(self._count)


class WrongKeys:
    """Slows down who sends wrong keys, by address: after some, each answer waits its turn. Few wait at a time, so that
    they cost next to nothing. It is asked about wrong keys alone: right ones from the same address never wait."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(WRONG_KEYS_PER_MINUTE, WRONG_KEYS_AT_ONCE)
        self._slowed: Counter[str] = Counter()

    async def slow(self, address: str) -> float:
        """Wait before a wrong key is answered. Returns 0, or the seconds to wait elsewhere where too many wait here."""
        address = _neighbourhood(address)
        wait_s = self._buckets.take(address)
        if not wait_s:
            return 0.0
        if self._slowed[address] >= MOST_SLOWED or self._slowed.total() >= MOST_SLOWED_IN_ALL:
            return wait_s
        self._slowed[address] += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._slowed[address] -= 1
            self._slowed += Counter()  # forgets those at 0
        return 0.0


def _neighbourhood(address: str) -> str:
    """An address, or the network of IPv6 that one customer has."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((known, 64), strict=False)) if known.version == 6 else address
