"""User mistakes end in one line and exit code 2; everything else keeps its trace."""

from __future__ import annotations

import pytest

from ssmttm.errors import EXIT_USER_ERROR, MissingExtraError, UserError, exit_on_user_error


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
    assert "pip install 'ssmttm[eval]'" in str(MissingExtraError("librosa", "eval"))
