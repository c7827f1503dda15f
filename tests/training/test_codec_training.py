"""Fitting the codec from a corpus: report, samples, reruns, Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import train_codec as job
from ssmttm import audio, config, storage
from ssmttm.audio import Audio
from ssmttm.codec import load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Track
from ssmttm.training.codec import HELD_OUT_CLIPS, choose_clips, read_clips, train_codec


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


def test_clips_are_mono_cut_to_a_segment_and_broken_files_are_named(own_config: Config, tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).standard_normal((2, 44_100 * 5)).astype(np.float32) * 0.1
    audio.write(str(tmp_path / "long.wav"), Audio(stereo, 44_100))
    audio.write(str(tmp_path / "short.wav"), Audio(stereo[:, :4000], 44_100))
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    refused: list[str] = []
    tracks = [track(i, uri=str(tmp_path / f"{name}.wav")) for i, name in enumerate(("broken", "long", "short"))]
    (clip,) = read_clips(tracks, own_config, refused)
    assert clip.shape == (3 * 24_000,)
    assert clip.dtype == np.float32
    assert [reason.split(" ")[0] for reason in refused] == [tracks[0].audio, tracks[2].audio]


def test_job_runs_as_a_ray_task(ray_cluster: dict[str, Any], own_config: Config) -> None:
    overrides = [f"corpus.source={own_config.corpus.source}", f"codec.path={own_config.codec.path}"]
    arguments = ["--preset", "tiny", *overrides, f"train.out={own_config.train.out}", "tracking.enabled=false"]
    job.main(arguments)
    report = storage.read_commit(own_config.codec.path, "report.json")
    assert report["fingerprint"] == load_codec(own_config.codec.path).fingerprint()
    with pytest.raises(SystemExit) as stop:
        job.main([*arguments, "codec.num_mels=48"])
    assert stop.value.code == 2
