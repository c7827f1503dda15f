"""Token shards: contents, identity of reruns, and survival of bad input."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from ssmttm import audio, config, storage
from ssmttm.codec.base import Codec
from ssmttm.conditions.base import ControlConditioner, Excerpt
from ssmttm.conditions.encoders import TextEncoder
from ssmttm.conditions.registry import CONDITIONERS
from ssmttm.errors import UserError
from ssmttm.sources.manifest import read_rejects
from ssmttm.tokens.admit import overlong_captions
from ssmttm.tokens.plan import plan_dataset
from ssmttm.tokens.read import TokenDataset
from ssmttm.tokens.schema import COMMIT_NAME, ROW_SCHEMA, caption_key
from ssmttm.tokens.write import preprocess_local


def with_corpus(base: config.Config, **changes: Any) -> config.Config:
    return config.from_dict({**base.model_dump(), "corpus": {**base.corpus.model_dump(), **changes}})


def rows_of(folder: str) -> list[dict[str, Any]]:
    return [row for path in sorted(Path(folder, "shards").iterdir()) for row in pq.read_table(path).to_pylist()]


def texts_of(folder: str) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(Path(folder, "text").iterdir())]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def digests(folder: str) -> dict[str, str]:
    return {
        name: hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
        for name in storage.list_files(folder)
        if name != COMMIT_NAME
    }


def write_tone(path: Path, seconds: float, sidecar: dict[str, Any] | None = None, rate: int = 24_000) -> None:
    """Each name has a pitch of its own: the same audio twice is refused."""
    time = np.arange(round(seconds * rate)) / rate
    hz = 200 + zlib.crc32(path.name.encode()) % 1000
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * math.pi * hz * time), rate, subtype="FLOAT")
    entry = {"licence": "CC0-1.0", "captions": ["a steady tone"], "split": "train"}
    path.with_suffix(".json").write_text(json.dumps({**entry, **(sidecar or {})}))


def test_rows_hold_what_the_codec_gives(tiny_config: config.Config, tiny_tokens: str, tiny_codec: Codec) -> None:
    rows = rows_of(tiny_tokens)
    assert set(rows[0]) == set(ROW_SCHEMA.names)
    assert len(rows) == 8
    assert {row["split"] for row in rows} == {"train", "val"}
    for row in rows:
        codes_KT = np.frombuffer(row["codes"], np.int16).reshape(tiny_codec.num_codebooks, row["frames"])
        fine_DT = np.frombuffer(row["fine"], np.float16).reshape(tiny_codec.fine_dim, row["frames"])
        wav_N = audio.read(storage.join(tiny_config.corpus.source, row["audio"])).samples[0]
        with torch.inference_mode():
            codes_BKT, fine_BDT = tiny_codec.encode_with_latents(torch.from_numpy(wav_N)[None, None])
        assert row["frames"] == codes_BKT.shape[2]
        # Batched and single matrix products round differently, which may move a few nearest neighbours.
        assert (codes_KT == codes_BKT[0].numpy()).mean() > 0.98
        assert np.median(np.abs(fine_DT - fine_BDT[0].numpy())) < 1e-2
        assert row["duration_s"] == len(wav_N) / tiny_codec.sample_rate
        assert json.loads(row["tags"])["genre"]


def test_text_table_holds_each_caption_once(
    tiny_config: config.Config, tiny_tokens: str, tiny_text_encoder: TextEncoder
) -> None:
    texts = texts_of(tiny_tokens)
    used = {key for row in rows_of(tiny_tokens) for key in row["text_keys"]}
    assert used == set(texts)
    for key, row in texts.items():
        assert key == caption_key(row["caption"], tiny_text_encoder.fingerprint)
        states_SD = np.frombuffer(row["states"], np.float16).reshape(row["length"], tiny_text_encoder.dim)
        assert np.isfinite(states_SD).all()
    row = next(iter(texts.values()))
    expected_SD = tiny_text_encoder.encode([row["caption"]])[0]
    states_SD = np.frombuffer(row["states"], np.float16).reshape(expected_SD.shape)
    np.testing.assert_allclose(states_SD.astype(np.float32), expected_SD.astype(np.float32), atol=2e-2)


def test_commit_file_describes_the_dataset(tiny_config: config.Config, tiny_tokens: str, tiny_codec: Codec) -> None:
    dataset = storage.read_commit(tiny_tokens, COMMIT_NAME)  # checks every digest
    assert dataset["rows"] == dataset["tracks"] == 8
    assert sum(dataset["seconds_by_split"].values()) == pytest.approx(24.0)
    assert dataset["seconds_by_licence"] == {"CC0-1.0": pytest.approx(24.0)}
    assert dataset["codec"]["fingerprint"] == tiny_codec.fingerprint()
    assert config.from_dict(dataset["config"]) == tiny_config
    attribution = list(csv.DictReader(io.StringIO(Path(tiny_tokens, "ATTRIBUTION.csv").read_text())))
    assert sorted(line["source_id"] for line in attribution) == sorted(row["source_id"] for row in rows_of(tiny_tokens))
    assert "CC0-1.0" in Path(tiny_tokens, "README.md").read_text()


def test_rerun_elsewhere_gives_the_same_bytes(tiny_config: config.Config, tiny_tokens: str, tmp_path: Path) -> None:
    preprocess_local(with_corpus(tiny_config, out=str(tmp_path)))
    assert digests(str(tmp_path)) == digests(tiny_tokens)


def test_interrupted_run_continues_and_finished_run_returns_at_once(
    tiny_config: config.Config, tiny_codec: Codec, tiny_corpus: str, tmp_path: Path
) -> None:
    settings = with_corpus(tiny_config, out=str(tmp_path), rows_per_shard=3)
    first = preprocess_local(settings)
    assert [report.rows for report in first.reports if report.seconds] == [3, 3, 2]
    before = digests(str(tmp_path))

    (tmp_path / COMMIT_NAME).unlink()
    (tmp_path / "shards/part-00001.parquet").unlink()
    (tmp_path / "shards/part-00002.parquet").write_bytes(b"PAR1 half a file")
    (tmp_path / "shards/part-00007.parquet").write_bytes(b"left by another plan")
    second = preprocess_local(settings)
    written = sorted(report.name for report in second.reports if not report.skipped)
    assert written == ["shards/part-00001.parquet", "shards/part-00002.parquet"]
    assert digests(str(tmp_path)) == before

    assert preprocess_local(settings).reports == []


def test_a_different_dataset_is_never_overwritten(tiny_config: config.Config, tiny_tokens: str) -> None:
    with pytest.raises(UserError, match="already holds a dataset"):
        preprocess_local(with_corpus(tiny_config, segment_seconds=2.0))


def test_an_encoder_change_rewrites_what_depends_on_it(
    tiny_config: config.Config, tiny_corpus: str, tiny_codec: Codec, tiny_text_encoder: TextEncoder
) -> None:
    plan = plan_dataset(tiny_config, tiny_codec, tiny_text_encoder)
    other = replace(plan.shards[0], codec_fingerprint="another")
    assert other.fingerprint != plan.shards[0].fingerprint
    assert replace(plan.texts[0], encoder_fingerprint="another").fingerprint != plan.texts[0].fingerprint


def test_segments_of_a_longer_file_have_their_own_lengths(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path
) -> None:
    write_tone(tmp_path / "in/long.wav", 7.5, rate=44_100)
    write_tone(tmp_path / "in/held.wav", 3.0, {"split": "val"})
    preprocess_local(with_corpus(tiny_config, source=str(tmp_path / "in"), out=str(tmp_path / "out")))
    rows = [row for row in rows_of(str(tmp_path / "out")) if row["split"] == "train"]
    assert [row["start_s"] for row in rows] == [0.0, 3.0, 6.0]
    assert [row["id"] for row in rows] == ["long-0000", "long-0001", "long-0002"]
    per_second = tiny_codec.sample_rate / tiny_codec.hop_length
    assert [row["frames"] for row in rows] == [math.ceil(s * per_second) for s in (3, 3, 1.5)]
    assert len(rows[2]["codes"]) == 2 * tiny_codec.num_codebooks * rows[2]["frames"]


def test_bad_files_are_named_and_lose_nothing_else(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    for name in (
        "good-1",
        "good-2",
        "cut",
        "nan",
        "text",
        "empty",
        "brief",
        "unlicensed",
        "closed",
        "mute",
        "wordless",
    ):
        write_tone(source / f"{name}.wav", 3.0)
    data = (source / "cut.wav").read_bytes()
    (source / "cut.wav").write_bytes(data[: len(data) // 2])
    (source / "cut.json").write_text((source / "cut.json").read_text()[:-1] + ', "duration_s": 3.0}')
    soundfile.write(source / "nan.wav", np.full(72_000, np.nan), 24_000, subtype="FLOAT")
    soundfile.write(source / "mute.wav", np.zeros(72_000), 24_000)
    (source / "text.wav").write_text("not audio" * 100)
    (source / "empty.wav").write_bytes(b"")
    write_tone(source / "brief.wav", 0.3)
    write_tone(source / "unlicensed.wav", 3.0, {"licence": ""})
    write_tone(source / "closed.wav", 3.0, {"licence": "CC-BY-NC-ND-4.0"})
    write_tone(source / "wordless.wav", 3.0, {"captions": []})
    (source / "broken.wav").touch()
    (source / "broken.json").write_text("{")

    result = preprocess_local(with_corpus(tiny_config, source=str(source), out=str(tmp_path / "out")))
    rejects = {reject.id.removesuffix("-0000"): reject for reject in read_rejects(str(tmp_path / "out"))}
    assert {name: reject.reason for name, reject in rejects.items()} == {
        "cut": "truncated",
        "nan": "not-finite",
        "text": "not-audio",
        "empty": "empty",
        "brief": "too-short",
        "unlicensed": "missing-licence",
        "closed": "licence-not-allowed",
        "mute": "silent",
        "wordless": "no-caption",
        "broken.wav": "bad-entry",
    }
    assert rejects["cut"].audio == "cut.wav"
    assert [row["source_id"] for row in rows_of(str(tmp_path / "out"))] == ["good-1", "good-2"]
    assert result.dataset["rejects"] == 10


def test_nothing_usable_is_an_error_that_says_why(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path
) -> None:
    write_tone(tmp_path / "in/a.wav", 3.0, {"licence": ""})
    settings = with_corpus(tiny_config, source=str(tmp_path / "in"), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="missing-licence 1"):
        preprocess_local(settings)
    assert [reject.id for reject in read_rejects(str(tmp_path / "out"))] == ["a"]
    assert not (tmp_path / "out" / COMMIT_NAME).exists()


def test_overlong_captions_are_dropped_not_cut(tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path) -> None:
    overlong = "piano and " * 200
    write_tone(tmp_path / "in/both.wav", 3.0, {"captions": [overlong, "short piano"]})
    write_tone(tmp_path / "in/held.wav", 3.0, {"captions": ["short piano"], "split": "val"})
    write_tone(tmp_path / "in/only.wav", 3.0, {"captions": [overlong]})
    result = preprocess_local(with_corpus(tiny_config, source=str(tmp_path / "in"), out=str(tmp_path / "out")))
    assert [row["caption"] for row in texts_of(str(tmp_path / "out")).values()] == ["short piano"]
    assert [(r.id, r.reason) for r in read_rejects(str(tmp_path / "out"))] == [("only", "no-caption")]
    assert result.dataset["captions_overlong"] == 1


def test_overlong_captions_are_found_among_many(tiny_text_encoder: TextEncoder) -> None:
    captions = [f"piece number {index}" for index in range(20)]
    captions[7] = captions[7] * 60
    captions[13] = captions[13] * 60
    assert overlong_captions(captions, tiny_text_encoder) == {captions[7], captions[13]}


def test_optional_steps_are_part_of_the_plan(
    tiny_config: config.Config, tiny_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions of a model for what has none; vocals removed from every segment, by weights that the plan names."""

    class Remover:
        def __init__(self, device: str):
            self.fingerprint = "weights"

        def __call__(self, heard: audio.Audio) -> audio.Audio:
            return audio.Audio(heard.samples * 0.5, heard.sample_rate)

    def caption(tracks: list[Any], folder: str, cache: str) -> list[Any]:
        assert (folder, cache) == ("a-model", str(tmp_path / "out"))
        return [t if t.captions else replace(t, captions=("made by a model",)) for t in tracks]

    monkeypatch.setattr("ssmttm.tokens.vocals.VocalRemover", Remover)
    monkeypatch.setattr("ssmttm.sources.captioner.caption_tracks", caption)
    write_tone(tmp_path / "in/a.wav", 3.0, {"captions": []})
    write_tone(tmp_path / "in/held.wav", 3.0, {"captions": [], "split": "val"})
    steps = {"vocals": "remove", "captioner": "a-model"}
    preprocess_local(with_corpus(tiny_config, source=str(tmp_path / "in"), out=str(tmp_path / "out"), **steps))
    (caption_row,) = texts_of(str(tmp_path / "out")).values()
    assert caption_row["caption"] == "made by a model"
    (row,) = (row for row in rows_of(str(tmp_path / "out")) if row["split"] == "train")
    wav_N = audio.read(str(tmp_path / "in/a.wav")).samples * 0.5
    with torch.inference_mode():
        codes_BKT, _ = tiny_codec.encode_with_latents(torch.from_numpy(wav_N)[None])
    codes_KT = np.frombuffer(row["codes"], np.int16).reshape(tiny_codec.num_codebooks, -1)
    assert (codes_KT == codes_BKT[0].numpy()).mean() > 0.98
    kept = with_corpus(tiny_config, source=str(tmp_path / "in"), out=str(tmp_path / "out"), captioner="a-model")
    with pytest.raises(UserError, match="already holds a dataset made from another"):
        preprocess_local(kept)


class Beat(ControlConditioner):
    """A toy control: a cosine over each beat where tags state a tempo; its second channel is never known."""

    name, channels = "beat", 2

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        bpm = excerpt.metadata["tags"].get("bpm")
        if bpm is None:
            return None
        assert excerpt.samples.shape == (1, round(excerpt.frames / excerpt.frame_rate * excerpt.sample_rate))
        time_T = excerpt.start_s + np.arange(excerpt.frames) / excerpt.frame_rate
        return np.stack([np.cos(2 * np.pi * time_T * bpm / 60), np.full(excerpt.frames, np.nan)])

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        raise NotImplementedError


def test_controls_by_frame_are_part_of_rows_plan_and_reading(
    tiny_config: config.Config,
    tiny_codec: Codec,
    tiny_text_encoder: TextEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONDITIONERS, "beat", Beat)
    write_tone(tmp_path / "in/a.wav", 6.0, {"bpm": 60})
    write_tone(tmp_path / "in/b.wav", 3.0)
    write_tone(tmp_path / "in/held.wav", 3.0, {"split": "val"})
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    settings = with_corpus(tiny_config, source=source, out=out, controls=["beat"])
    assert preprocess_local(settings).dataset["controls"] == {"beat": 2}
    data = TokenDataset.open(out, "train")
    assert data.controls == {"beat": 2}
    assert [row["id"] for row in data.rows] == ["a-0000", "a-0001", "b-0000"]
    for i, start_s in enumerate((0.0, 3.0)):
        values_CT = data.control(i, "beat")
        assert (values_CT.shape, values_CT.dtype) == ((2, data.frames(i)), np.float16)
        assert values_CT[0, 0] == pytest.approx(math.cos(2 * math.pi * start_s), abs=1e-3)
        assert values_CT[0].min() < -0.9
        assert np.isnan(values_CT[1]).all()
    assert np.isnan(data.control(2, "beat")).all()

    plain = with_corpus(settings, controls=[])
    with pytest.raises(UserError, match="already holds a dataset made from another"):
        preprocess_local(plain)
    dataset = preprocess_local(with_corpus(plain, out=str(tmp_path / "plain"))).dataset
    assert "controls" not in dataset
    assert TokenDataset.open(str(tmp_path / "plain"), "train").controls == {}
    assert pq.read_schema(tmp_path / "plain/shards/part-00000.parquet").names == ROW_SCHEMA.names
    with pytest.raises(UserError, match=r"corpus\.controls=vibe is unknown"):
        preprocess_local(with_corpus(plain, controls=["vibe"]))


def test_source_and_output_may_be_object_stores(
    tiny_config: config.Config, tiny_tokens: str, tiny_corpus: str, tmp_path: Path
) -> None:
    remote = f"memory://{tmp_path.name}"
    for name in storage.list_files(tiny_corpus):
        storage.write_bytes(f"{remote}/corpus/{name}", Path(tiny_corpus, name).read_bytes())
    settings = with_corpus(tiny_config, source=f"{remote}/corpus", out=f"{remote}/tokens")
    preprocess_local(settings)
    own, reference = (storage.read_commit(uri, COMMIT_NAME) for uri in (settings.corpus.out, tiny_tokens))
    assert own["files"] == reference["files"]  # wherever corpus and dataset lie
