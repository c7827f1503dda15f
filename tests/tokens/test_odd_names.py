"""Files of any name go through every verb: scan, check, preprocessing, tracing, and being read for a codec."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_captions import NAMES, write

from ssmttm import audio, config
from ssmttm.sources.readers import read_source
from ssmttm.tokens.check import census, read_inventory, write_scan
from ssmttm.tokens.provenance import trace
from ssmttm.tokens.read import TokenDataset
from ssmttm.tokens.write import preprocess_local


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd names")
    write(folder, NAMES)
    return folder


def test_a_manifest_of_odd_names_reads_as_the_folder_does(music: Path, tmp_path: Path) -> None:
    corpus = config.CorpusConfig(default_licence="own-work")
    _, manifest, number = write_scan(str(music), str(tmp_path / "~a::b #1.jsonl"), corpus, progress=False)
    listed = {track.audio: track.captions for track in read_source(manifest, corpus)}
    assert listed == {track.audio: track.captions for track in read_source(str(music), corpus)}
    assert number == len(listed) == sum(len(case.audio) for case in NAMES.values())
    figures = census(read_inventory(manifest, corpus, progress=False), progress=False)
    assert (figures["problems"], figures["sample"]["files"]) == ([], number)


@pytest.mark.usefixtures("tiny_codec")
def test_every_name_becomes_rows_that_lead_back_to_it(music: Path, tmp_path: Path, tiny_config: config.Config) -> None:
    corpus = {"source": str(music), "out": str(tmp_path / "%20?tokens"), "default_licence": "own-work"}
    merged = config.from_dict({**tiny_config.model_dump(), "corpus": {**tiny_config.corpus.model_dump(), **corpus}})
    dataset = preprocess_local(merged).dataset
    assert dataset["rejects_by_reason"] == {"no-caption": 1, "bad-entry": 1}  # no sidecar of its own; no UTF-8
    rows = [row for split in ("train", "val") for row in TokenDataset.open(corpus["out"], split, with_fine=False).rows]
    tracks = [track for track in read_source(str(music), merged.corpus) if track.captions]
    assert {row["source_id"] for row in rows} == {track.id for track in tracks}
    for row in rows[::6]:
        found = trace(corpus["out"], row["id"])
        assert found.at_hand
        assert audio.read(found.source_uri).seconds == pytest.approx(1.1)
