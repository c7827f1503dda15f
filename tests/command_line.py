"""The command `ssmttm`, called in process by the tests of its verbs."""

from __future__ import annotations

import sys

import pytest

from ssmttm import cli


class Command:
    """`ssmttm` in process: exit code, then what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["ssmttm", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        out, err = self._capsys.readouterr()
        return int(exit_info.value.code or 0), out, err
