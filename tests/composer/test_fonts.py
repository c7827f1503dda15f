"""Which soundfonts are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmttm.composer import fonts
from ssmttm.composer.fonts import find_soundfonts
from ssmttm.errors import UserError


def test_the_variable_names_a_file_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Two.sf3", "Mine.sf2", "notes.txt"):
        (tmp_path / name).write_bytes(b"RIFF")
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(tmp_path / "Mine.sf2"))
    assert [(font.path, font.name) for font in find_soundfonts()] == [(str(tmp_path / "Mine.sf2"), "Mine")]
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(tmp_path))
    assert [font.name for font in find_soundfonts()] == ["Mine", "Two"]
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(tmp_path / "absent.sf2"))
    with pytest.raises(UserError, match="SSMTTM_SOUNDFONT"):
        find_soundfonts()


def test_of_the_system_those_that_are_known_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may hold fonts of one piano alone; and links by which one font has several names."""
    monkeypatch.delenv("SSMTTM_SOUNDFONT", raising=False)
    monkeypatch.setattr(fonts, "SYSTEM_FOLDERS", (str(tmp_path),))
    for name in ("FluidR3_GM.sf2", "MuseScore_General_Lite.sf3", "Piano.sf2"):
        (tmp_path / name).write_bytes(b"RIFF")
    (tmp_path / "MuseScore_General.sf3").symlink_to(tmp_path / "MuseScore_General_Lite.sf3")
    found = find_soundfonts()
    assert [font.name for font in found] == ["FluidR3_GM", "MuseScore_General_Lite", "TimGM6mb"]
    assert [font.licence.rpartition(", ")[2] for font in found] == ["MIT licence", "MIT licence", "GNU GPL version 2"]


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSMTTM_SOUNDFONT", raising=False)
    monkeypatch.setattr(fonts, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="SSMTTM_SOUNDFONT"):
        find_soundfonts()
