"""What a dataset is planned to hold: something held out that yields rows, whatever is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmttm import config
from ssmttm.errors import UserError
from ssmttm.tokens.write import preprocess_local


@dataclass(frozen=True)
class Folder:
    """Music in a folder, and the dataset made from it."""

    path: Path
    tiny: config.Config

    def write(self, name: str, level: float = 0.2, seconds: float = 1.5, **fields: object) -> None:
        noise = level * np.random.default_rng(list(name.encode())).standard_normal(round(seconds * 16_000))
        soundfile.write(self.path / f"{name}.wav", noise, 16_000)
        entry = {"licence": "CC0-1.0", "caption": f"noise {name}", **fields}
        (self.path / f"{name}.json").write_text(json.dumps(entry))

    def rows_by_split(self) -> Mapping[str, int]:
        corpus = {"source": str(self.path), "out": f"{self.path}-tokens", "segment_seconds": 1.0}
        merged = config.from_dict({**self.tiny.model_dump(), "corpus": {**self.tiny.corpus.model_dump(), **corpus}})
        return preprocess_local(merged).dataset["rows_by_split"]


@pytest.fixture
def folder(tmp_path: Path, tiny_config: config.Config, tiny_codec: object) -> Folder:
    (tmp_path / "music").mkdir()
    return Folder(tmp_path / "music", tiny_config)


@pytest.mark.parametrize(
    "fault", [{"level": 0.0}, {"seconds": 0.1}, {"licence": "GPL-3.0"}, {"caption": "", "title": "x"}]
)
def test_what_is_held_out_can_be_used(folder: Folder, fault: Mapping[str, object]) -> None:
    for name in ("a", "b", "c", "d"):
        folder.write(name, **({"split": "val", **fault} if name == "a" else {}))  # type: ignore[arg-type]
    assert folder.rows_by_split() == {"train": 2, "val": 1}


def test_too_few_tracks_are_told_before_any_work(folder: Folder) -> None:
    folder.write("a")
    folder.write("b", level=0.0)
    remedy = r"1 of 2 tracks can be used, but one must be learned from and another be held out; add music, or cut"
    with pytest.raises(UserError, match=remedy):
        folder.rows_by_split()
    assert not Path(f"{folder.path}-tokens").exists()


def test_data_to_evaluate_on_may_be_held_out_as_a_whole(folder: Folder) -> None:
    folder.write("a", split="test")
    assert folder.rows_by_split() == {"val": 1}
