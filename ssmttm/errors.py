"""The one exception for mistakes a user can mend, and how entry points show it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """Bad input or configuration: the message is one line that names the input and the remedy."""


class DamagedError(UserError):
    """Something stored is not what its digest, its description or its kind says."""


class MissingExtraError(UserError):
    """An optional dependency is needed; names the extra that brings it."""

    def __init__(self, module: str, extra: str):
        super().__init__(f"{module} is not installed; install it with: pip install 'ssmttm[{extra}]'")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError`, also one that a Ray task raised, into one line on stderr and exit code 2; let every other
    exception show its trace. What is printed meanwhile never fails for a terminal that lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except Exception as error:
        told = getattr(error, "cause", None)  # Ray's own exception is pages long
        if not isinstance(told, UserError):
            told = error
        if not isinstance(told, UserError):
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
