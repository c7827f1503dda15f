"""Odd names, sidecars and tables: each is used as it should be, or named with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_captions import CASES, write

from ssmttm.config import CorpusConfig
from ssmttm.sources.manifest import Reject, Scan, Track
from ssmttm.sources.readers import scan_source

CORPUS = CorpusConfig(tag_captions=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("odd")
    write(made)
    return made


@pytest.fixture(scope="module")
def scan(folder: Path) -> Scan:
    return scan_source(str(folder), CORPUS)


@pytest.mark.parametrize("name", CASES)
def test_each_is_used_or_named(folder: Path, scan: Scan, name: str) -> None:
    case = CASES[name]
    uris = [f"{folder}/{name}/{audio}" for audio in case.audio]
    tracks = {track.audio: track for track in scan[0]}
    rejects = [reject for reject in scan[1] if reject.id.startswith(f"{name}/")]
    if case.refused:
        (reject,) = rejects
        assert (reject.audio, reject.reason) == (uris[0], "bad-entry")
        assert case.refused in reject.detail
        assert uris[0] not in tracks
        return
    track = tracks[uris[0]]
    assert track.captions == case.captions
    assert track.tags == case.tags or not case.tags
    for key, value in case.fields.items():
        assert getattr(track, key) == value, key
    assert len(rejects) == bool(case.named)
    assert all(case.named in reject.detail for reject in rejects)


def test_a_name_that_is_no_text_is_named(scan: Scan) -> None:
    (reject,) = [reject for reject in scan[1] if "/" not in reject.id]
    assert "not UTF-8; rename it" in reject.detail


def test_nothing_is_lost_and_no_id_is_twice(scan: Scan) -> None:
    tracks: list[Track] = scan[0]
    refused: list[Reject] = [reject for reject in scan[1] if reject.audio.endswith(".wav")]
    files = [audio for case in CASES.values() for audio in case.audio]
    kept = {track.audio for track in tracks}
    assert len(kept) + len({reject.audio for reject in refused} - kept) == len(files)
    assert len({track.id for track in tracks}) == len(tracks)
    assert len(CASES) >= 60
