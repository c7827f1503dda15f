"""The page at `/`: its parts are put together into one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

SCRIPTS = ("wav.js", "player.js", "drawing.js", "page.js")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE = _read("style.css")
_SCRIPT = '"use strict";\n' + "".join(_read(name) for name in SCRIPTS)

HTML = _read("index.html").replace("/* style.css */", _STYLE).replace("/* scripts */", _SCRIPT)

# Only these very scripts and styles run, and they speak to this service alone.
POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
