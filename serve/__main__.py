"""The service on this machine, on a port of its own: `python -m serve port=9000 bundle=URI ...`.

`serve run serve.app:build bundle=URI ...` is the same, on the port that Serve has, 8000.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from ray import serve as ray_serve

from serve.app import Arguments, build
from ssmttm.errors import UserError, exit_on_user_error

HOST, PORT = "127.0.0.1", 8000


def read(words: Sequence[str]) -> tuple[int, Arguments]:
    """The port, and the arguments of `build`.

    Raises:
        UserError: naming the argument that is none, or what it may be.
    """
    given = dict(word.partition("=")[::2] for word in words)
    port = given.pop("port", str(PORT))
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65_536):
        raise UserError(f"port is {port}; give a whole number from 1 to 65535")
    try:
        return int(port), Arguments.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(["port", *Arguments.model_fields])
        said = f"unknown; the arguments are {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"{name}: {said}") from None


def check_free(port: int) -> None:
    """Raises UserError if something listens on the port already: Serve would say so a minute later, and at length."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be had ({error.strerror}); choose another: port={port + 1}") from None


def main(words: Sequence[str]) -> None:
    with exit_on_user_error():
        port, arguments = read(words)
        check_free(port)
        application = build(arguments)
    ray_serve.start(http_options={"host": HOST, "port": port})
    ray_serve.run(application, blocking=True)


if __name__ == "__main__":
    main(sys.argv[1:])
