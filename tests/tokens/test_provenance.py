from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ssmttm import config, storage
from ssmttm.codec.base import Codec
from ssmttm.errors import UserError
from ssmttm.sources.readers import read_source
from ssmttm.tokens.check import read_inventory
from ssmttm.tokens.provenance import describe, trace
from ssmttm.tokens.write import preprocess_local


@pytest.fixture(scope="module")
def dataset(tiny_config: config.Config, tiny_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tracks of two rows each: one with all its links, one with none but a licence, one that is the maker's own."""
    folder = tmp_path_factory.mktemp("provenance")
    tracks: dict[str, dict[str, Any]] = {
        "whole": {
            "artist": "Ada, Z.",
            "title": 'The "one"',
            "source_url": "https://example.org/1",
            "licence": "CC BY 4.0",
        },
        "bare": {"licence": "CC0-1.0"},
        "mine": {"licence": "own work"},
    }
    for name, sidecar in tracks.items():
        noise = 0.1 * np.random.default_rng([*name.encode()]).standard_normal(24_000 * 6)
        (folder / "in").mkdir(exist_ok=True)
        soundfile.write(folder / "in" / f"{name}.wav", noise, 24_000)
        entry = {"captions": ["noise"], "split": "train", **sidecar}
        (folder / "in" / f"{name}.json").write_text(json.dumps(entry))
    values = tiny_config.model_dump()
    values["corpus"] |= {"source": str(folder / "in"), "out": str(folder / "out"), "rows_per_shard": 1}
    preprocess_local(config.from_dict(values))
    return str(folder / "out")


def test_a_row_leads_back_to_its_origin(dataset: str) -> None:
    chain = trace(dataset, "whole-0001")
    assert chain.missing == ()
    assert (chain.start_s, chain.duration_s) == (3.0, 3.0)
    assert (chain.source_id, chain.audio, chain.at_hand) == ("whole", "whole.wav", True)
    assert (chain.artist, chain.title) == ("Ada, Z.", 'The "one"')
    assert (chain.licence, chain.family) == ("CC BY 4.0", "CC-BY")
    assert chain.source_url == "https://example.org/1"
    rows = read_inventory(dataset, config.CorpusConfig(), progress=False).entries
    assert chain.shard == next(entry.shard for entry in rows if entry.track.id == "whole-0001")
    text = describe(chain)
    for words in ("whole-0001", chain.shard, "3.00 s to 6.00 s", "Ada, Z.", "CC BY 4.0 (family: CC-BY)", "complete"):
        assert words in text
    assert "incomplete" not in text


def test_what_is_missing_is_named(dataset: str) -> None:
    chain = trace(dataset, "bare-0000")
    assert chain.missing == ("artist", "title", "URL")
    assert "incomplete, missing: artist, title, URL" in describe(chain)


def test_own_work_needs_no_address(dataset: str) -> None:
    chain = trace(dataset, "mine-0000")
    assert chain.missing == ()
    assert chain.source_url == ""
    assert "not stated: own work" in describe(chain)


def test_every_row_of_a_composed_corpus_is_complete(tiny_tokens: str, tiny_config: config.Config) -> None:
    tracks = {track.id: track for track in read_source(tiny_config.corpus.source, tiny_config.corpus)}
    for entry in read_inventory(tiny_tokens, tiny_config.corpus, progress=False).entries:
        chain = trace(tiny_tokens, entry.track.id)
        track = tracks[chain.source_id]
        assert chain.missing == ()
        assert chain.source_uri == track.audio
        assert (chain.artist, chain.title, chain.licence) == (track.artist, track.title, track.licence)


def test_the_draw_hangs_on_the_seed(dataset: str) -> None:
    drawn = [trace(dataset, seed=seed).row_id for seed in range(40)]
    assert drawn == [trace(dataset, seed=seed).row_id for seed in range(40)]
    assert {"whole-0000", "whole-0001", "bare-0000", "bare-0001"} <= set(drawn)


def test_a_chain_that_was_tampered_with_is_incomplete(dataset: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    lines = list(csv.reader((copy / "ATTRIBUTION.csv").open(newline="")))
    with (copy / "ATTRIBUTION.csv").open("w", newline="") as file:
        csv.writer(file).writerows(line for line in lines if line[0] != "whole")
    assert trace(str(copy), "whole-0000").missing == ("line in ATTRIBUTION.csv",)
    (copy / "ATTRIBUTION.csv").unlink()
    content = storage.read_json(str(copy / "dataset.json"))
    content["config"]["corpus"]["source"] = "elsewhere"
    shard = trace(dataset, "whole-0000").shard
    content["files"][shard]["sha256"] = "0"
    storage.write_json(str(copy / "dataset.json"), content)
    chain = trace(str(copy), "whole-0000")
    assert chain.missing == ("line in ATTRIBUTION.csv", "shard as dataset.json has it")
    assert not chain.at_hand
    assert "not at hand" in describe(chain)
    content["config"]["corpus"]["source"] = "nosuchprotocol://bucket/corpus"
    storage.write_json(str(copy / "dataset.json"), content)
    assert not trace(str(copy), "whole-0000").at_hand


def test_mistakes(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row 'nope' in this dataset of 6 rows"):
        trace(dataset, "nope")
    with pytest.raises(UserError, match=r"it has no dataset\.json"):
        trace(str(tmp_path))
