from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig, load
from ssmttm.errors import UserError
from ssmttm.licences import is_allowed, normalise, of_notice
from ssmttm.sources.manifest import Track
from ssmttm.tokens.admit import check_licences


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
        ("Attribution 3.0 Germany", "CC-BY"),
        ("Attribution-ShareAlike 3.0 Spain", "CC-BY-SA"),
        ("CC BY-SA 3.0 ES", "CC-BY-SA"),
        ("Attribution 2.0 UK: England & Wales", "CC-BY"),
        ("Creative Commons Attribution 3.0 Germany License (CC BY 3.0 DE)", "CC-BY"),
        ("Attribution-NonCommercial-ShareAlike 3.0 New Zealand", "CC-BY-NC-SA"),
        ("Attribution 3.0 United States of America", "CC-BY"),
        ("CC-BY-NC-SA-2.0-FR", "CC-BY-NC-SA"),
        ("https://creativecommons.org/licenses/by/3.0/de/", "CC-BY"),
        ("http://creativecommons.org/licenses/by-sa/3.0/es/deed.ca", "CC-BY-SA"),
        ("https://creativecommons.org/licenses/by-nc/2.5/scotland/", "CC-BY-NC"),
        ("Creative Commons Attribution 4.0 International Public License", "CC-BY"),
        ("CC-PDDC", "public-domain"),
        ("CC BY 4.0 or", None),
        ("CC BY-SA 3.0 DE unless sold", None),
        ("Germany", None),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("GPLv2 or later", "GPL-2.0-or-later"),
        ("gpl-2.0-or-later", "GPL-2.0-or-later"),
        ("GNU General Public License v2.0 or any later version", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("MIT", "MIT"),
        ("LAL-1.3", "LAL-1.3"),
        ("CC-SA-1.0", "CC-SA-1.0"),
        ("GPL-99", None),
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


def test_whatever_a_user_names_counts() -> None:
    allowed = load("tiny", ["corpus.allow_licences=[GPL-2+, cc by-sa]"]).corpus.allow_licences
    assert is_allowed("GPL-2.0-or-later", allowed)
    assert is_allowed("GNU GPL v2 or later", allowed)
    assert is_allowed("Attribution-ShareAlike 3.0 Spain", allowed)
    assert not is_allowed("GPL-2.0-only", allowed)
    assert not is_allowed("CC0", allowed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "allow_licences=[GPLL-2+]",
            r"corpus\.allow_licences: 'GPLL-2\+' is no licence that is known; nearest: .*GPL-2",
        ),
        ("allow_licences=[CC0, CC-BYY]", r"'CC-BYY' is no licence that is known; nearest: CC-BY"),
        ("default_licence=own-wrok", r"corpus\.default_licence: 'own-wrok' is no licence.*nearest: own-work"),
    ],
)
def test_a_licence_that_nobody_knows_is_refused_at_once(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("tiny", [f"corpus.{override}"])


def test_the_refusal_of_a_track_is_true() -> None:
    def detail(licence: str, *allowed: str) -> str:
        track = Track("t", "t.wav", (), "train", licence, "", "", "", 1.0)
        return check_licences([track], allowed)[1][0].detail

    assert detail("CC BY-NC 4.0", "CC-BY") == "'CC BY-NC 4.0', that is CC-BY-NC, is not in corpus.allow_licences"
    assert "'house rules' is no licence that is known" in detail("house rules", "CC-BY")


def test_a_copyright_notice_names_no_holder_as_a_licence() -> None:
    assert normalise("Nokia") is not None
    assert of_notice("Nokia") is None
    assert of_notice("2020 Ada, CC BY 4.0") is None
    assert of_notice("CC BY 4.0") == "CC-BY"


WORDS = ["cc", "by", "sa", "nc", "3.0", "de", "germany", "gpl", "or", "later", "+", "2", "own"]


@given(st.text(max_size=30) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_has_one_family_or_none(text: str) -> None:
    family = normalise(text)
    assert family is None or normalise(family) == family
