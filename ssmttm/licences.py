"""Licences by family: many spellings and addresses read as one name, and the families a corpus lets in.

Families of recordings: `public-domain`, `CC0-1.0`, `CC-BY`, `CC-BY-SA`, `own-work`, and, known but not let in by
default, `CC-BY-NC`, `CC-BY-ND`, `CC-BY-NC-SA`, `CC-BY-NC-ND`. Versions and jurisdictions do not change these. Every
other licence that SPDX lists is a family of its own under its identifier, version included (`GPL-2.0-or-later`).
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable
from functools import lru_cache

FAMILIES = ("public-domain", "CC0-1.0", "CC-BY", "CC-BY-SA", "own-work")
FAMILIES += ("CC-BY-NC", "CC-BY-ND", "CC-BY-NC-SA", "CC-BY-NC-ND")

_ADDRESS = re.compile(r"creativecommons\.org/(licen[sc]es|publicdomain)/([a-z+-]+)")
_SYNONYMS = (  # in this order, on lower-case words separated by single blanks
    (r"creative commons", "cc"),
    (r"public licen[sc]e", "licence"),
    (r"share ?alike", "sa"),
    (r"non ?commercial", "nc"),
    (r"no ?deriv(?:ative|s)?(?: ?works|s)?", "nd"),
    (r"attribution", "cc by"),
    (r"cc ?by", "cc by"),
    (r"cc ?(?:0|zero)(?!\.)", "cc0"),
    (r"public ?domain|pdm?|pddc", "pd"),
)
_NOISE = {"the", "a", "an", "is", "under", "version", "mark", "deed", "dedication", "universal", "generic", "legalcode"}
_NOISE |= {"licence", "license", "licensed", "licenced", "international", "unported", "ported", "certification"}
_VERSION = re.compile(r"v?\d+(?:\.\d+)*")
_ELEMENTS = frozenset(("by", "nc", "nd", "sa"))
# Where Creative Commons was ported to, by the code in addresses and short names; full names stand in titles.
_JURISDICTIONS = {
    **{"am": "armenia", "ar": "argentina", "at": "austria", "au": "australia", "az": "azerbaijan", "be": "belgium"},
    **{"bg": "bulgaria", "br": "brazil", "ca": "canada", "ch": "switzerland", "cl": "chile", "cn": "china mainland"},
    **{"co": "colombia", "cr": "costa rica", "cz": "czech republic", "de": "germany", "dk": "denmark", "ec": "ecuador"},
    **{"ee": "estonia", "eg": "egypt", "es": "spain", "fi": "finland", "fr": "france", "gb": "great britain"},
    **{"ge": "georgia", "gr": "greece", "gt": "guatemala", "hk": "hong kong", "hr": "croatia", "hu": "hungary"},
    **{"ie": "ireland", "igo": "intergovernmental organization", "il": "israel", "in": "india", "it": "italy"},
    **{"jp": "japan", "kr": "south korea", "lu": "luxembourg", "mk": "macedonia", "mt": "malta", "mx": "mexico"},
    **{"my": "malaysia", "ng": "nigeria", "nl": "netherlands", "no": "norway", "nz": "new zealand", "pe": "peru"},
    **{"ph": "philippines", "pl": "poland", "pr": "puerto rico", "pt": "portugal", "ro": "romania", "rs": "serbia"},
    **{"se": "sweden", "sg": "singapore", "si": "slovenia", "th": "thailand", "tw": "taiwan", "ua": "ukraine"},
    **{"ug": "uganda", "uk": "united kingdom", "us": "united states", "ve": "venezuela", "vn": "vietnam"},
    **{"za": "south africa"},
}
_PLACES = (*_JURISDICTIONS.values(), "united states of america", "england wales", "england and wales", "scotland")
_PLACES += ("china", "korea", "intergovernmental organisations", "intergovernmental organizations")
_PLACE = re.compile(rf"\b(?:{'|'.join(sorted(_PLACES, key=len, reverse=True))})\b")
# As distributions and authors write the GNU licences.
_GNU = re.compile(r"(?:gnu )?(a|l)?(gpl|gfdl) ?v?(\d)(\.\d)? ?(\+|or (?:any )?(?:later|newer)(?: version)?|only)?")
_GNU_NAMES = (
    (r"affero general public licen[sc]e|affero gpl", "agpl"),
    (r"(?:lesser|library) general public licen[sc]e|lesser gpl", "lgpl"),
    (r"general public licen[sc]e", "gpl"),
    (r"free documentation licen[sc]e|\bfdl", "gfdl"),
    (r"\bversion ", "v"),
)


def _creative_commons(elements: list[str]) -> str | None:
    """The family of elements such as by, nc, sa; None if there is no such licence."""
    given = set(elements)
    if "by" not in given or given >= {"sa", "nd"} or not given <= _ELEMENTS:
        return None
    return "-".join(["CC-BY", *(name.upper() for name in ("nc", "nd", "sa") if name in given)])


def _words(text: str) -> str:
    """The lower-case words of a licence's name, separated by single blanks."""
    return " ".join(re.findall(r"[a-z0-9.+]+", text.lower()))


def _of_recordings(text: str) -> str | None:
    """The family among `FAMILIES` that `text` names."""
    if address := _ADDRESS.search(text.lower()):
        code = address[2].strip("-+")
        if address[1] == "publicdomain":
            return {"zero": "CC0-1.0", "mark": "public-domain"}.get(code)
        return "public-domain" if code == "publicdomain" else _creative_commons(re.split(r"[-+]", code))
    plain = _PLACE.sub(" ", _words(text))
    for pattern, name in _SYNONYMS:
        plain = re.sub(rf"\b(?:{pattern})\b", name, plain)
    words = plain.split()
    # The code of a place follows a version or ends the name: CC BY-SA 3.0 DE.
    ends = {at for at, word in enumerate(words) if at > 0 and _VERSION.fullmatch(words[at - 1])} | {len(words) - 1}
    words = [word for at, word in enumerate(words) if at not in ends or at < 2 or word not in _JURISDICTIONS]
    found = [word for word in dict.fromkeys(words) if word not in _NOISE and not _VERSION.fullmatch(word)]
    if found in (["cc0"], ["cc0", "pd"], ["cc", "cc0"]):
        return "CC0-1.0"
    if found in (["pd"], ["cc", "pd"]):
        return "public-domain"
    if found in (["own", "work"], ["ownwork"]):
        return "own-work"
    return _creative_commons([word for word in found if word != "cc"]) if "cc" in found else None


@lru_cache(1)
def _spdx() -> dict[str, str]:
    """SPDX identifiers, by their words and those of what they were called before."""
    from license_expression import get_spdx_licensing

    symbols = {symbol for symbol in get_spdx_licensing().known_symbols.values() if not symbol.is_exception}
    names = {_words(alias): symbol.key for symbol in symbols for alias in symbol.aliases}
    return names | {_words(symbol.key): symbol.key for symbol in symbols}


def _listed(text: str) -> str | None:
    """The SPDX identifier that `text` is, in other letters or words."""
    plain, known = _words(text), _spdx()
    gnu = plain
    for pattern, name in _GNU_NAMES:
        gnu = re.sub(pattern, name, gnu)
    if found := _GNU.fullmatch(gnu):
        kind, name, major, minor, end = found.groups()
        later = "only" if end in (None, "only") else "or later"
        return known.get(f"{kind or ''}{name} {major}{minor or '.0'} {later}")
    short = re.sub(r"\b(?:the|licen[sc]e|version) ?|\bv(?=\d)", "", plain).strip()
    return next((known[name] for name in (plain, short, f"{short}.0") if name in known), None)


@lru_cache(4096)
def normalise(text: str) -> str | None:
    """The licence family that `text` names, whatever the spelling: an SPDX identifier, a full name or an address.

    `https://creativecommons.org/licenses/by-sa/4.0/`, `CC BY-SA 3.0 DE`, `Attribution-ShareAlike 3.0 Spain` and
    `Attribution-ShareAlike 4.0 International` are all `CC-BY-SA`; `GPL-2+` is `GPL-2.0-or-later`. None for anything
    else: unknown terms are never guessed at.
    """
    return _of_recordings(text) or _listed(text)


def of_notice(text: str) -> str | None:
    """The family among those of recordings that a copyright notice names. Nothing else counts there: many a holder is
    called what some licence is."""
    return _of_recordings(text)


def is_allowed(licence: str, allow_list: Iterable[str]) -> bool:
    """Whether `licence` (any spelling) belongs to a family of `allow_list` (any spelling). Unknown terms never do."""
    family = normalise(licence)
    return family is not None and family in {normalise(entry) for entry in allow_list}


def nearest(text: str, count: int = 3) -> list[str]:
    """The known families whose names are most like `text`, its first word above all."""

    def likeness(name: str) -> float:
        asked, known = _words(text), _words(name)
        pairs = ((asked, known), (asked.partition(" ")[0], known.partition(" ")[0]))
        return sum(difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs)

    names = {*FAMILIES, *(key for key in _spdx().values() if not key.startswith("LicenseRef"))}
    return heapq.nlargest(count, sorted(names), key=likeness)
