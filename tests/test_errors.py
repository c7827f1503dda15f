"""User mistakes end in one line and exit code 2; everything else keeps its trace."""

from __future__ import annotations

import io
import sys

import pytest

from ssmttm.errors import EXIT_USER_ERROR, MissingExtraError, UserError, exit_on_user_error

SAID = "flûte 静か 🎹 \udcff"


class TaskError(Exception):
    """As Ray raises what a task of its raised: pages of traces, with what it was as its cause."""

    def __init__(self, cause: Exception):
        super().__init__("Traceback\n  of many lines")
        self.cause = cause


def test_user_error_becomes_one_line_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, exit_on_user_error():
        raise UserError("runs/x is missing; train first")
    assert stopped.value.code == EXIT_USER_ERROR == 2
    captured = capsys.readouterr()
    assert captured.err == "error: runs/x is missing; train first\n"
    assert captured.out == ""


def test_other_exceptions_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        _ = 1 / 0


def test_missing_extra_names_the_remedy() -> None:
    assert "pip install 'ssmttm[eval]'" in str(MissingExtraError("sklearn", "eval"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "shift-jis", "utf-8"])
def test_a_terminal_that_lacks_a_character_fails_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO(), io.BytesIO()
    for name, raw in zip(("stdout", "stderr"), shown, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, write_through=True))

    @exit_on_user_error()
    def command() -> None:
        print(SAID)
        raise UserError(f"{SAID} is wrong")

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    out, err = (raw.getvalue() for raw in shown)
    assert out.startswith(b"fl")
    assert err.startswith(b"error: fl")
    assert err.endswith(b" is wrong\n")
    assert err.count(b"\n") == 1


def test_a_mistake_that_a_ray_task_met_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        raise TaskError(UserError("x is wrong"))
    assert capsys.readouterr().err == "error: x is wrong\n"


def test_what_else_a_ray_task_met_passes_through() -> None:
    with pytest.raises(TaskError), exit_on_user_error():
        raise TaskError(KeyError("ours"))
