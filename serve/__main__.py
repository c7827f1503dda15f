"""The service on this machine, on a port of its own: `python -m serve port=9000 bundle=URI ...`.

`serve run serve.app:build bundle=URI ...` is the same, on the port that Serve has, 8000.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError
from ray import serve as ray_serve

from serve.app import Arguments, build
from ssmttm.cluster import be_quiet
from ssmttm.errors import UserError, exit_on_user_error

HOST, PORT = "127.0.0.1", 8000
APP = "ssmttm"
MARGIN_S = 10.0


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
    be_quiet()
    ray_serve.start(http_options={"host": HOST, "port": port})
    ray_serve.run(application, name=APP)
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    print(f"the service answers on http://{HOST}:{port}; Ctrl-C or SIGTERM ends it", flush=True)
    asked.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    end(arguments.limits.grace_s)


def end(grace_s: float) -> None:
    """Let clips in the making be made, and give jobs back, before Serve ends: it closes its connections first."""
    print(f"ending: clips in the making have {grace_s:g} s, jobs go on at the next start", flush=True)
    try:
        ray_serve.get_app_handle(APP).broadcast("end").results(timeout_s=grace_s + MARGIN_S)
    except Exception as error:  # then as Serve ends by itself
        print(f"the service could not be told to end ({error}); clips may break off", file=sys.stderr)
    with suppress(TimeoutError):
        ray_serve.delete(APP)  # when the last answer is out
    ray_serve.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
