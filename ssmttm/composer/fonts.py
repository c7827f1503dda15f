"""Which General MIDI soundfonts pieces may be played through, and under which licences they are."""

from __future__ import annotations

import glob
import importlib.util
import os
from dataclasses import dataclass

from ssmttm.errors import UserError

ENVIRONMENT_VARIABLE = "SSMTTM_SOUNDFONT"
SYSTEM_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/sounds/sf3")

# General MIDI fonts, with their licences as their distributors state them (Debian's copyright files, the fonts' own
# read-me files).
KNOWN = {
    "TimGM6mb": "TimGM6mb by Tim Brechbill, GNU GPL version 2",
    "FluidR3_GM": "FluidR3 GM by Frank Wen, MIT licence",
    "MuseScore_General": "MuseScore General by S. Christian Collins, MIT licence",
}


@dataclass(frozen=True)
class SoundFont:
    """`name` is the file's base name without extension; `licence` a sentence for notices."""

    path: str
    name: str

    @property
    def licence(self) -> str:
        for name, text in KNOWN.items():
            if self.name.startswith(name):
                return text
        return f"{self.name}, see the file's own licence"


def find_soundfonts() -> tuple[SoundFont, ...]:
    """The file that `SSMTTM_SOUNDFONT` names, or all in the folder that it names; else those of the system that are
    known to be General MIDI, and the one that pretty_midi carries. By name, each name once.

    Raises:
        UserError: if the variable names neither, or there is no soundfont at all.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        found = _in_folder(named) if os.path.isdir(named) else [named] if os.path.isfile(named) else []
        if not found:
            raise UserError(
                f"{ENVIRONMENT_VARIABLE}={named} is no file, nor a folder with any; give .sf2 or .sf3 soundfonts"
            )
    else:
        system = [path for folder in SYSTEM_FOLDERS for path in _in_folder(folder)]
        found = [path for path in system if _describe(path).name.startswith(tuple(KNOWN))]
        package = importlib.util.find_spec("pretty_midi")  # found, not imported: only its data file is wanted
        for folder in (package.submodule_search_locations or []) if package else []:
            found += _in_folder(folder)
    fonts: dict[str, SoundFont] = {}
    for path in found:
        font = _describe(path)
        fonts.setdefault(font.name, font)
    if not fonts:
        raise UserError(
            f"no General MIDI soundfont found; set {ENVIRONMENT_VARIABLE} to a .sf2 file or pip install 'ssmttm[demo]'"
        )
    return tuple(fonts[name] for name in sorted(fonts))


def _in_folder(folder: str) -> list[str]:
    """Files of soundfonts, links to others left out."""
    paths = sorted(path for ending in ("sf2", "sf3") for path in glob.glob(os.path.join(folder, f"*.{ending}")))
    return [path for path in paths if not os.path.islink(path)]


def _describe(path: str) -> SoundFont:
    return SoundFont(path, os.path.splitext(os.path.basename(path))[0])
