"""`python -m serve`: its arguments, and the port that it takes."""

from __future__ import annotations

import socket

import pytest
from serving import free_port

from serve.__main__ import HOST, check_free, read
from ssmttm.errors import UserError


def test_arguments_are_those_of_build_and_a_port() -> None:
    port, arguments = read(["port=9000", "slots=3", "bundle=a=b", 'limits={"burst": 3}'])
    assert (port, arguments.slots, arguments.bundle, arguments.limits.burst) == (9000, 3, "a=b", 3)
    assert read([])[0] == 8000


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("port=", "port is ; give a whole number from 1 to 65535"),
        ("port=0", "port is 0; give"),
        ("port=65536", "port is 65536; give"),
        ("port=99999999999999999", "give a whole number"),
        ("port=-1", "port is -1; give"),
        ("bundel=x", "bundel: unknown; the arguments are port, bundle, "),
        ("slots=0", "slots: Input should be greater than or equal to 1"),
        ('limits={"brust": 1}', "limits.brust: "),
    ],
)
def test_mistakes_are_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read([word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be had .*; choose another: port={port + 1}"):
            check_free(port)
    check_free(free_port())
