"""Licences by family: many spellings and addresses read as one name, and the families a corpus lets in.

Families: `public-domain`, `CC0-1.0`, `CC-BY`, `CC-BY-SA`, `own-work`, and, recognised but not let in by default,
`CC-BY-NC`, `CC-BY-ND`, `CC-BY-NC-SA`, `CC-BY-NC-ND`. Versions and jurisdictions do not change a family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADDRESS = re.compile(r"creativecommons\.org/(licen[sc]es|publicdomain)/([a-z+-]+)")
_SYNONYMS = (  # in this order, on lower-case words separated by single blanks
    (r"creative commons", "cc"),
    (r"share ?alike", "sa"),
    (r"non ?commercial", "nc"),
    (r"no ?deriv(?:ative|s)?(?: ?works|s)?", "nd"),
    (r"attribution", "cc by"),
    (r"cc ?by", "cc by"),
    (r"cc ?(?:0|zero)(?!\.)", "cc0"),
    (r"public ?domain|pdm?", "pd"),
)
_NOISE = {"the", "a", "an", "is", "under", "version", "mark", "deed", "dedication", "igo", "universal", "generic"}
_NOISE |= {"licence", "license", "licensed", "licenced", "international", "unported", "united", "states", "kingdom"}
_VERSION = re.compile(r"v?\d+(?:\.\d+)*")
_ELEMENTS = frozenset(("by", "nc", "nd", "sa"))


def _creative_commons(elements: list[str]) -> str | None:
    """The family of elements such as by, nc, sa; None if there is no such licence."""
    given = set(elements)
    if "by" not in given or given >= {"sa", "nd"} or not given <= _ELEMENTS:
        return None
    return "-".join(["CC-BY", *(name.upper() for name in ("nc", "nd", "sa") if name in given)])


def normalise(text: str) -> str | None:
    """The licence family that `text` names, whatever the spelling: an SPDX id, a full name or an address.

    `https://creativecommons.org/licenses/by-sa/4.0/`, `CC BY-SA 3.0 DE` and `Attribution-ShareAlike 4.0
    International` are all `CC-BY-SA`. None for anything else: unknown terms are never guessed at.
    """
    lower = text.lower()
    if address := _ADDRESS.search(lower):
        code = address[2].strip("-+")
        if address[1] == "publicdomain":
            return {"zero": "CC0-1.0", "mark": "public-domain"}.get(code)
        return "public-domain" if code == "publicdomain" else _creative_commons(re.split(r"[-+]", code))
    plain = " ".join(re.findall(r"[a-z0-9.]+", lower))
    for pattern, name in _SYNONYMS:
        plain = re.sub(rf"\b(?:{pattern})\b", name, plain)
    found = [word for word in dict.fromkeys(plain.split()) if word not in _NOISE and not _VERSION.fullmatch(word)]
    if len(found) > 2 and len(found[-1]) == 2 and found[-1] not in _ELEMENTS:
        found.pop()  # the jurisdiction of a ported licence, such as DE
    if found in (["cc0"], ["cc0", "pd"], ["cc", "cc0"]):
        return "CC0-1.0"
    if found in (["pd"], ["cc", "pd"]):
        return "public-domain"
    if found in (["own", "work"], ["ownwork"]):
        return "own-work"
    return _creative_commons([word for word in found if word != "cc"]) if "cc" in found else None


def is_allowed(licence: str, allow_list: Iterable[str]) -> bool:
    """Whether `licence` (any spelling) belongs to a family of `allow_list` (any spelling). Unknown terms never do."""
    family = normalise(licence)
    return family is not None and family in {normalise(entry) for entry in allow_list}
