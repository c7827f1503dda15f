"""Finding a General MIDI soundfont, and saying what it is."""

from __future__ import annotations

import glob
import importlib.util
import os
from dataclasses import dataclass

from ssmttm.errors import UserError

ENVIRONMENT_VARIABLE = "SSMTTM_SOUNDFONT"
SYSTEM_FOLDERS = ("/usr/share/sounds/sf2/*.sf2", "/usr/share/sounds/sf3/*.sf3")

# Licences as their distributors state them (Debian's copyright files, the fonts' own read-me files).
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


def find_soundfont() -> SoundFont:
    """The file named by `SSMTTM_SOUNDFONT`, else one of the system's, else the one that pretty_midi carries.

    Raises:
        UserError: if the variable names no file, or there is no soundfont at all.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise UserError(f"{ENVIRONMENT_VARIABLE}={named} is not a file; point it at a .sf2 or .sf3 soundfont")
        return _describe(named)
    for pattern in SYSTEM_FOLDERS:
        if found := sorted(glob.glob(pattern)):
            return _describe(found[0])
    package = importlib.util.find_spec("pretty_midi")  # found, not imported: only its data file is wanted
    for folder in (package.submodule_search_locations or []) if package else []:
        if found := sorted(glob.glob(os.path.join(folder, "*.sf2"))):
            return _describe(found[0])
    raise UserError(
        f"no General MIDI soundfont found; set {ENVIRONMENT_VARIABLE} to a .sf2 file or pip install 'ssmttm[demo]'"
    )


def _describe(path: str) -> SoundFont:
    return SoundFont(path, os.path.splitext(os.path.basename(path))[0])
