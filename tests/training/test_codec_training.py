"""Fitting the codec from a corpus: report, samples, reruns, Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs import train_codec as job
from ssmttm import audio, config, storage
from ssmttm.audio import Audio
from ssmttm.codec import load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Track, read_rejects
from ssmttm.spreadsheet import from_csv
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.clips import HELD_OUT_CLIPS, ClipReader, choose_clips
from ssmttm.training.codec import train_codec


@pytest.fixture
def own_config(tiny_config: Config, tiny_corpus: str, tmp_path: Path) -> Config:
    """The tiny configuration with a codec folder of its own."""
    values = tiny_config.model_dump()
    values["codec"]["path"] = str(tmp_path / "codec")
    values["train"]["out"] = str(tmp_path / "runs")
    return config.from_dict(values)


def track(index: int, split: str = "train", uri: str = "a.wav") -> Track:
    return Track(f"t{index}", uri, ("x",), split, "CC0-1.0", "", "", "", 3.0)  # type: ignore[arg-type]


def test_codec_report_and_samples_are_written(own_config: Config) -> None:
    report = train_codec(own_config)
    codec = load_codec(own_config.codec.path)
    assert report["fingerprint"] == codec.fingerprint()
    assert report["logmel_l1_latents"] < report["logmel_l1"] < report["logmel_l1_coarse"] < 3
    assert len(report["codebook_usage"]) == codec.num_codebooks
    assert all(0 < share <= 1 for share in report["codebook_usage"])
    assert report["clips"] == {"fit": 6, "held_out": 2, "refused": 0}
    names = storage.list_names(storage.join(own_config.codec.path, "samples"))
    assert names == [f"{i}-{kind}.wav" for i in (0, 1) for kind in ("coarse", "codec", "original")]
    lengths = {audio.read(storage.join(own_config.codec.path, "samples", name)).samples.shape[1] for name in names}
    assert lengths == {3 * 24_000}
    assert storage.read_commit(own_config.codec.path, "report.json") == report


def test_finished_codec_is_left_alone_and_other_settings_are_refused(
    own_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_codec(own_config)
    capsys.readouterr()
    assert train_codec(own_config) == first
    assert "codec is already finished" in capsys.readouterr().out
    values = own_config.model_dump()
    values["codec"]["pca_dim"] = 20
    with pytest.raises(UserError, match=r"fitted with codec\.pca_dim=24, now 20; choose another codec\.path"):
        train_codec(config.from_dict(values))


def test_an_unfinished_folder_is_fitted_again(own_config: Config) -> None:
    first = train_codec(own_config)
    Path(own_config.codec.path, "report.json").unlink()
    assert train_codec(own_config)["fingerprint"] == first["fingerprint"]


def test_clips_are_chosen_by_seed() -> None:
    tracks = [track(i) for i in range(50)] + [track(100 + i, "val") for i in range(40)]
    fit, held_out = choose_clips(tracks, 20, seed=1)
    assert len(fit) == 20
    assert len(held_out) == HELD_OUT_CLIPS
    assert {one.split for one in fit} == {"train"}
    assert {one.split for one in held_out} == {"val"}
    assert choose_clips(tracks, 20, seed=1) == (fit, held_out)
    assert choose_clips(tracks, 20, seed=2)[0] != fit


def test_without_a_validation_split_unused_training_clips_are_held_out() -> None:
    fit, held_out = choose_clips([track(i) for i in range(3)], 400, seed=0)
    assert len(fit) == 2
    assert len(held_out) == 1
    assert held_out[0] not in fit
    with pytest.raises(UserError, match="give at least two"):
        choose_clips([track(0)], 400, seed=0)


def write_song(folder: Path, name: str, seconds: float = 3.0, gain: float = 0.1, seed: int = 0, **fields: str) -> None:
    folder.mkdir(exist_ok=True)
    noise = gain * np.random.default_rng([seed, *name.encode()]).standard_normal(round(24_000 * seconds))
    soundfile.write(folder / f"{name}.wav", noise, 24_000)
    (folder / f"{name}.json").write_text(json.dumps({"caption": "noise", "licence": "CC0-1.0", **fields}))


def with_source(base: Config, folder: Path, **corpus: object) -> Config:
    values = base.model_dump()
    values["corpus"] |= {"source": str(folder), **corpus}
    return config.from_dict(values)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of songs of which half cannot be used, each for another reason."""
    folder = tmp_path / "mixed"
    for index in range(6):
        write_song(folder, f"free{index}", split="train", artist=f"=artist {index}")
    for index in range(3):
        write_song(folder, f"gpl{index}", licence="GPL-2.0-or-later", split="train")
    write_song(folder, "unlicensed", licence="", split="train")
    write_song(folder, "silent", gain=0.0, split="train")
    write_song(folder, "short", seconds=0.2, split="train")
    write_song(folder, "held", split="val")
    write_song(folder, "held-gpl", licence="GPL-2.0-or-later", split="val")
    shutil.copy(folder / "free0.wav", folder / "zcopy.wav")
    shutil.copy(folder / "free0.json", folder / "zcopy.json")
    (folder / "broken.wav").write_bytes(b"not audio")
    (folder / "broken.json").write_text(json.dumps({"caption": "x", "licence": "CC0-1.0"}))
    return folder


def test_a_codec_learns_from_what_a_data_set_lets_in(own_config: Config, mixed: Path) -> None:
    """The same are refused for the same reasons, and all it used is attributed."""
    report = train_codec(with_source(own_config, mixed))
    learned = [f"free{index}" for index in range(6)]
    assert report["data"]["tracks"] == report["clips"]["fit"] == 6
    assert report["data"]["seconds_by_licence"] == {"CC0-1.0": pytest.approx(18.0)}
    assert report["data"]["allow_licences"] == list(own_config.corpus.allow_licences)
    refused = {reject.id.removesuffix("-0000"): reject.reason for reject in read_rejects(own_config.codec.path)}
    assert refused == {
        **dict.fromkeys(("gpl0", "gpl1", "gpl2", "held-gpl"), "licence-not-allowed"),
        **{"unlicensed": "missing-licence", "silent": "silent", "short": "too-short", "zcopy": "duplicate"},
        "broken": "not-audio",
    }
    assert report["data"]["rejects"] == report["clips"]["refused"] == len(refused)
    table = from_csv(storage.read_text(storage.join(own_config.codec.path, "ATTRIBUTION.csv")))
    assert [row["source_id"] for row in table] == [*learned, "held"]
    assert {row["used_by"] for row in table} == {"codec"}
    assert table[3]["artist"] == "=artist 3"
    values = with_source(own_config, mixed).model_dump()
    values["corpus"]["out"] = str(mixed.parent / "tokens")
    preprocess_local(config.from_dict(values))
    assert {r.id.removesuffix("-0000"): r.reason for r in read_rejects(values["corpus"]["out"])} == refused


def test_refused_songs_change_nothing(own_config: Config, mixed: Path) -> None:
    """The codec is that of the folder without them."""
    for path in mixed.glob("silent.*"):  # found out when it is decoded, so that it has a place in the order
        path.unlink()
    first = train_codec(with_source(own_config, mixed))
    clean = mixed.parent / "clean"
    clean.mkdir()
    for path in mixed.iterdir():
        if path.stem.startswith("free") or path.stem == "held":
            shutil.copy(path, clean)
    shutil.rmtree(own_config.codec.path)
    second = train_codec(with_source(own_config, clean))
    assert second["fingerprint"] == first["fingerprint"]
    assert second["data"]["rejects"] == 0


def test_a_folder_of_nothing_but_refused_songs_fits_no_codec(own_config: Config, tmp_path: Path) -> None:
    for index in range(3):
        write_song(tmp_path / "gpl", f"song{index}", licence="GPL-2.0-or-later")
    with pytest.raises(UserError, match=r"too few tracks.*refused of \S+gpl: licence-not-allowed 3"):
        train_codec(with_source(own_config, tmp_path / "gpl"))
    assert len(read_rejects(own_config.codec.path)) == 3
    assert not Path(own_config.codec.path, "codec.safetensors").exists()


def test_a_codec_is_measured_on_what_can_be_used(own_config: Config, tmp_path: Path) -> None:
    """Where nothing held out can be, one clip is not learned from."""
    for index in range(5):
        write_song(tmp_path / "songs", f"song{index}", split="train")
    write_song(tmp_path / "songs", "silent", gain=0.0, split="val")
    report = train_codec(with_source(own_config, tmp_path / "songs"))
    assert report["clips"] == {"fit": 4, "held_out": 1, "refused": 1}


def test_other_admission_is_another_codec(own_config: Config, mixed: Path) -> None:
    train_codec(with_source(own_config, mixed))
    with pytest.raises(
        UserError, match=r"fitted with corpus\.silence_dbfs=-60.0, now -20.0; choose another codec\.path"
    ):
        train_codec(with_source(own_config, mixed, silence_dbfs=-20.0))


def test_clips_are_mono_cut_to_a_segment_and_broken_files_are_named(own_config: Config, tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).standard_normal((2, 44_100 * 5)).astype(np.float32) * 0.1
    folder = tmp_path / "songs"
    folder.mkdir()
    audio.write(str(folder / "long.wav"), Audio(stereo, 44_100))
    audio.write(str(folder / "short.wav"), Audio(stereo[:, :4000], 44_100))
    (folder / "broken.wav").write_bytes(b"not audio")
    reader, used = ClipReader(with_source(own_config, folder, default_licence="own-work")), dict[str, float]()
    (clip,) = reader.read(reader.tracks, used)
    assert clip.shape == (3 * 24_000,)
    assert clip.dtype == np.float32
    assert used == {"long": 3.0}
    assert {reject.id: reject.reason for reject in reader.rejects} == {"broken": "not-audio", "short": "too-short"}


def test_job_runs_as_a_ray_task(ray_cluster: dict[str, Any], own_config: Config) -> None:
    overrides = [f"corpus.source={own_config.corpus.source}", f"codec.path={own_config.codec.path}"]
    arguments = ["--preset", "tiny", *overrides, f"train.out={own_config.train.out}", "tracking.enabled=false"]
    job.main(arguments)
    report = storage.read_commit(own_config.codec.path, "report.json")
    assert report["fingerprint"] == load_codec(own_config.codec.path).fingerprint()
    with pytest.raises(SystemExit) as stop:
        job.main([*arguments, "codec.num_mels=48"])
    assert stop.value.code == 2
