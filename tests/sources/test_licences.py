from __future__ import annotations

import pytest

from ssmttm.config import CorpusConfig
from ssmttm.sources.licences import is_allowed, normalise


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("CC0-1.0", "CC0-1.0"),
        ("CC0", "CC0-1.0"),
        ("cc zero", "CC0-1.0"),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "CC0-1.0"),
        ("CC0 1.0 Universal Public Domain Dedication", "CC0-1.0"),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("http://creativecommons.org/publicdomain/mark/1.0/", "public-domain"),
        ("http://creativecommons.org/licenses/publicdomain/", "public-domain"),
        ("Public Domain", "public-domain"),
        ("public-domain", "public-domain"),
        ("Public Domain Mark 1.0", "public-domain"),
        ("PD", "public-domain"),
        ("CC-BY", "CC-BY"),
        ("CC-BY-4.0", "CC-BY"),
        ("cc by 3.0", "CC-BY"),
        ("CC_BY_4.0", "CC-BY"),
        ("ccby", "CC-BY"),
        ("Attribution", "CC-BY"),
        ("Creative Commons Attribution 4.0 International License", "CC-BY"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "CC-BY"),
        ("creativecommons.org/licenses/by/2.5/ca/", "CC-BY"),
        ("CC BY-SA 3.0 DE", "CC-BY-SA"),
        ("Attribution-ShareAlike 4.0 International", "CC-BY-SA"),
        ("Attribution-Share Alike 3.0 United States", "CC-BY-SA"),
        ("https://creativecommons.org/licenses/by-sa/4.0/", "CC-BY-SA"),
        ("CC BY-SA 3.0 IGO", "CC-BY-SA"),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-SA"),
        ("Attribution-NonCommercial-ShareAlike 3.0 International", "CC-BY-NC-SA"),
        ("Attribution-Noncommercial-No Derivative Works 3.0", "CC-BY-NC-ND"),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0/us/", "CC-BY-NC-ND"),
        ("http://creativecommons.org/licenses/nd-nc/1.0/", None),
        ("Attribution-NoDerivatives 4.0", "CC-BY-ND"),
        ("own work", "own-work"),
        ("own-work", "own-work"),
        ("", None),
        ("CC", None),
        ("Creative Commons", None),
        ("CC BY 4.0 unless you are a company", None),
        ("all rights reserved", None),
        ("GPL-3.0", None),
        ("CC-BY-SA-ND", None),
        ("not public domain", None),
    ],
)
def test_normalise(text: str, family: str | None) -> None:
    assert normalise(text) == family


def test_normalise_keeps_its_own_names() -> None:
    for family in ("public-domain", "CC0-1.0", "CC-BY", "CC-BY-SA", "own-work", "CC-BY-NC", "CC-BY-ND", "CC-BY-NC-ND"):
        assert normalise(family) == family


def test_default_list_lets_in_open_licences_only() -> None:
    allowed = CorpusConfig().allow_licences
    assert is_allowed("https://creativecommons.org/licenses/by-sa/4.0/", allowed)
    assert is_allowed("Public Domain Mark 1.0", allowed)
    assert not is_allowed("CC BY-NC 4.0", allowed)
    assert not is_allowed("CC BY-ND 4.0", allowed)
    assert not is_allowed("", allowed)


def test_other_families_by_explicit_entry_in_any_spelling() -> None:
    assert is_allowed("https://creativecommons.org/licenses/by-nc/4.0/", ["CC BY-NC 4.0"])
    assert not is_allowed("unknown terms", ["unknown terms"])
