"""The one exception for mistakes a user can mend, and how entry points show it."""

from __future__ import annotations

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
    """Turn a `UserError` into one line on stderr and exit code 2; let every other exception show its trace."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
