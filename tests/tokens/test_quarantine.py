"""500 files of which 40 are broken, in more than ten ways: those 40 are named, with their reason, and no other."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs import preprocess as job
from ssmttm import config, storage
from ssmttm.codec.base import Codec
from ssmttm.errors import UserError
from ssmttm.sources.manifest import read_rejects
from ssmttm.tokens.write import COMMIT_NAME, preprocess_local

RATE, SECONDS, FILES = 8_000, 1.2, 500
EXTENSIONS = ("wav", "flac", "ogg", "mp3")
KINDS = {
    "truncated": 6,
    "empty": 4,
    "not-audio": 4,
    "not-finite": 4,
    "too-short": 3,
    "silent": 4,
    "clipped": 3,
    "licence-not-allowed": 3,
    "missing-licence": 3,
    "duplicate": 3,
    "no-caption": 2,
    "outside-root": 1,
}


def write(path: Path, samples: np.ndarray, **sidecar: Any) -> None:
    subtype = "FLOAT" if path.suffix == ".wav" else None
    soundfile.write(path, samples, RATE, subtype=subtype)
    entry = {"licence": "CC-BY-4.0", "captions": ["a hum"], "split": "train", **sidecar}
    path.with_suffix(".json").write_text(json.dumps(entry))


def hum(name: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return 0.2 * rng.uniform(-1, 1, round(SECONDS * RATE)).astype(np.float32)


def broken(path: Path, kind: str, first: str) -> None:
    """Write a file of the kind; `first` is the name of a good one."""
    samples = hum(path.stem)
    if kind == "truncated":
        write(path, samples)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * 0.55)])
    elif kind == "empty":
        write(path, samples)
        path.write_bytes(b"")
    elif kind == "not-audio":
        write(path, samples)
        path.write_bytes(b"<html>404</html>" * 40)
    elif kind == "not-finite":
        samples[4_000] = np.nan if len(path.stem) % 2 else np.inf
        write(path, samples)
    elif kind == "too-short":
        write(path, samples[:1_000])
    elif kind == "silent":
        write(path, samples * 1e-4)
    elif kind == "clipped":
        write(path, np.sign(samples))
    elif kind == "licence-not-allowed":
        write(path, samples, licence="CC-BY-NC-ND-4.0")
    elif kind == "missing-licence":
        write(path, samples, licence="")
    elif kind == "duplicate":
        write(path, hum(first))
    elif kind == "no-caption":
        write(path, samples, captions=[])
    elif kind == "outside-root":
        elsewhere = path.parent.parent / f"elsewhere-{path.name}"
        write(elsewhere, samples)
        path.symlink_to(elsewhere)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and the reason by broken file's name."""
    folder = tmp_path_factory.mktemp("quarantine")
    kinds = [kind for kind, number in KINDS.items() for _ in range(number)]
    assert len(kinds) == 40
    expected = {}
    for index in range(FILES):
        # Spread through the corpus; the extension changes with the file, floats need a WAV.
        kind = kinds[index // 12] if index % 12 == 11 and index // 12 < len(kinds) else ""
        extension = "wav" if kind in ("not-finite", "duplicate", "clipped", "silent") else EXTENSIONS[index % 4]
        if kind == "truncated":
            extension = EXTENSIONS[index // 12 % 3]
        name = f"{index:03d}-{kind or 'good'}.{extension}"
        path = folder / name
        if kind:
            broken(path, kind, "000-good")
            expected[name] = kind
        else:
            write(path, hum("000-good" if index == 0 else path.stem))
    return folder, expected


def settings(base: config.Config, source: Path, out: Path, **changes: Any) -> config.Config:
    corpus = {**base.corpus.model_dump(), "source": str(source), "out": str(out), **changes}
    return config.from_dict({**base.model_dump(), "corpus": corpus})


@pytest.mark.timeout(300)
def test_exactly_the_broken_files_are_named(
    tiny_config: config.Config, tiny_codec: Codec, corpus: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """The job ends well."""
    folder, expected = corpus
    paths = [f"corpus.source={folder}", f"corpus.out={tmp_path}", f"codec.path={tiny_config.codec.path}"]
    job.main(["--preset", "tiny", "train.launch=local", *paths])
    rejects = read_rejects(str(tmp_path))
    assert {reject.audio: reject.reason for reject in rejects} == expected
    assert len(rejects) == 40
    assert all(reject.detail for reject in rejects)
    dataset = storage.read_commit(str(tmp_path), COMMIT_NAME)
    assert dataset["rows"] == FILES - 40
    assert dataset["rows"] + dataset["segments_rejected"] == dataset["segments_planned"]
    seconds = sum(dataset["seconds_by_split"].values()) + dataset["seconds_rejected"]
    assert seconds == pytest.approx(dataset["seconds_planned"], abs=1.0)
    rows = [row for path in sorted((tmp_path / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert {row["audio"] for row in rows} == {p.name for p in folder.iterdir() if "-good." in p.name} - {
        p.name for p in folder.glob("*.json")
    }


def test_beyond_the_share_that_was_set_the_job_fails(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(4):
        write(folder / f"{index}.wav", hum(str(index)))
    broken(folder / "4.wav", "silent", "0")
    with pytest.raises(UserError, match=r"20\.0% of the tracks were refused \(silent 1\), over corpus.maximum_rejects"):
        preprocess_local(settings(tiny_config, folder, tmp_path / "out", maximum_rejects=0.1))
    assert [reject.id for reject in read_rejects(str(tmp_path / "out"))] == ["4-0000"]
    assert not storage.exists(str(tmp_path / "out" / COMMIT_NAME))
    assert preprocess_local(settings(tiny_config, folder, tmp_path / "out", maximum_rejects=0.2)).dataset["rows"] == 4
    # Silent stretches of a track that is used count as no track refused.
    write(folder / "5.wav", np.concatenate([hum("long"), hum("long"), hum("long"), np.zeros(20 * RATE, np.float32)]))
    more = preprocess_local(settings(tiny_config, folder, tmp_path / "more", maximum_rejects=0.2)).dataset
    assert more["tracks"] == 5
    assert more["rejects_by_reason"]["silent"] > 3


def test_an_unfinished_folder_takes_no_other_dataset(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        write(folder / f"{index}.wav", hum(str(index)))
    own = settings(tiny_config, folder, tmp_path / "out")
    preprocess_local(own)
    (tmp_path / "out" / COMMIT_NAME).unlink()
    with pytest.raises(UserError, match="holds an unfinished dataset made from another"):
        preprocess_local(settings(tiny_config, folder, tmp_path / "out", loudness=-16.0))
    write(folder / "1.wav", hum("replaced")[:-800])  # another file under the same name
    with pytest.raises(UserError, match="holds an unfinished dataset"):
        preprocess_local(own)
