"""Training the vocoder: the job from corpus to report, resumption, discriminators, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import train_codec as job
from ssmttm import config, storage
from ssmttm.codec import MiniCodec, load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.spreadsheet import from_csv
from ssmttm.training import vocoder, vocoder_task
from ssmttm.training.codec import train_codec
from ssmttm.training.run import Run
from ssmttm.training.session import TrainingStoppedError
from ssmttm.training.trainer import Trainer
from ssmttm.training.vocoder import train_vocoder, with_griffin_lim
from ssmttm.training.vocoder_task import CropSource, Discriminators, VocoderTask, _stretched, make_crops
from ssmttm.training.writer import read_rows


@pytest.fixture
def own_config(tiny_config: Config, tiny_corpus: str, tmp_path: Path) -> Config:
    """The tiny configuration with folders of its own and a neural vocoder."""
    values = tiny_config.model_dump()
    values["codec"] |= {"path": str(tmp_path / "codec"), "vocoder": "neural"}
    values["train"]["out"] = str(tmp_path / "runs")
    return config.from_dict(values)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that wait for each other take minutes on a machine with other work."""
    monkeypatch.setattr(vocoder, "SPEED_THREADS", 1)


def changed(base: Config, section: str, **values: object) -> Config:
    dumped = base.model_dump()
    dumped[section] |= values
    return config.from_dict(dumped)


def noise_clips(count: int = 3, seconds: float = 3.0) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(round(seconds * 24_000)).astype(np.float32) * 0.1 for _ in range(count)]


def trainer(codec: MiniCodec, folder: Path, settings: Config, **options: Any) -> Trainer:
    task = VocoderTask(with_griffin_lim(codec), noise_clips(), settings)
    return Trainer(task, Run(str(folder)), task.make_engine, finish=task.keep, **options)


@pytest.fixture
def codec(own_config: Config) -> MiniCodec:
    fitted = MiniCodec(own_config.codec)
    fitted.fit(noise_clips(), seed=0, progress=False)
    return fitted.eval()


def test_from_corpus_to_report(own_config: Config) -> None:
    job.train(own_config)
    report = storage.read_commit(own_config.codec.path, "report.json", verify=True)
    figures = report["vocoder"]
    for source in ("latents", "codes"):
        assert set(figures[source]) == {"neural", "griffin_lim_16"}
        for values in figures[source].values():
            assert values["stft_distance"] == pytest.approx(values["convergence"] + values["level"], abs=2e-4)
            assert 0 < values["logmel_l1"] < 5
    assert figures["clips"] == {"train": 6, "held_out": 2, "refused": 0}
    assert figures["data"] == report["data"]
    table = from_csv(storage.read_text(storage.join(own_config.codec.path, "ATTRIBUTION.csv")))
    assert {row["used_by"] for row in table} == {"codec vocoder"}
    assert len(table) == 8
    assert set(figures["x_realtime"]) == {"neural", "griffin_lim_16"}
    codec = load_codec(own_config.codec.path)
    assert isinstance(codec, MiniCodec)
    assert codec.neural_vocoder is not None
    assert report["fingerprint"] == codec.fingerprint() == with_griffin_lim(codec, 4).fingerprint()
    rows = read_rows(Run(storage.join(own_config.train.out, "train_vocoder")).metrics)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_finished_is_left_alone_and_other_settings_are_refused(
    own_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = changed(own_config, "codec", vocoder="griffin_lim")
    fitted = train_codec(plain)
    assert train_codec(own_config) == fitted  # the vocoder is no setting of the codec
    first = train_vocoder(own_config)
    capsys.readouterr()
    assert train_vocoder(own_config) == first
    assert "vocoder is already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"trained with vocoder.lr=0.003, now 0.5; choose another codec.path"):
        train_vocoder(changed(own_config, "vocoder", lr=0.5))
    with pytest.raises(UserError, match=r"trained with corpus.source=\S+, now /elsewhere; choose another codec.path"):
        train_vocoder(changed(own_config, "corpus", source="/elsewhere"))


def test_a_run_of_other_settings_is_refused(own_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train_codec(own_config)
    monkeypatch.setattr(Trainer, "fit", lambda self: (_ for _ in ()).throw(TrainingStoppedError("stopped")))
    with pytest.raises(TrainingStoppedError):
        train_vocoder(own_config)
    with pytest.raises(UserError, match=r"was started with vocoder.batch=2, now 3; choose another train.name"):
        train_vocoder(changed(own_config, "vocoder", batch=3))


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_a_stopped_run_goes_on_as_it_would_have(
    codec: MiniCodec, own_config: Config, tmp_path: Path, adversarial: float
) -> None:
    settings = changed(own_config, "vocoder", adversarial=adversarial, adversarial_from=4)
    settings = changed(settings, "train", checkpoint_every=100)
    whole = trainer(codec, tmp_path / "whole", settings)
    whole.fit()
    seen = iter([False, False, False, False, True])
    stopped = trainer(codec, tmp_path / "cut", settings, stop_requested=lambda: next(seen))
    with pytest.raises(TrainingStoppedError, match="stopped at step 5, checkpoint saved"):
        stopped.fit()
    resumed = trainer(codec, tmp_path / "cut", settings)
    assert resumed.progress.step == 5
    resumed.fit()
    for (name, one), other in zip(
        whole.task.vocoder.state_dict().items(), resumed.task.vocoder.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    losses = [[row["loss"] for row in read_rows(Run(str(tmp_path / folder)).metrics)] for folder in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_sigterm_ends_the_job_with_143(own_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Config) -> None:
        raise TrainingStoppedError("stopped at step 1, checkpoint saved")

    monkeypatch.setattr(job, "train", stop)
    with pytest.raises(SystemExit) as ended:
        job.main(["--preset", "tiny", "train.launch=local"])
    assert ended.value.code == 143


def test_what_is_learned_is_the_clips(codec: MiniCodec, own_config: Config, tmp_path: Path) -> None:
    """Loss on one repeated batch falls, in both phases."""
    for first in (0, 100):
        settings = changed(own_config, "vocoder", steps=25, waveform_from=first, batch=1, lr=5e-3)
        learning = trainer(codec, tmp_path / str(first), settings)
        batch = learning.task.crops.batch(0)
        learning.task.crops.batch = lambda step, batch=batch: batch
        learning.fit()
        losses = [row["loss"] for row in read_rows(Run(str(tmp_path / str(first))).metrics)]
        assert losses[-1] < 0.9 * losses[0]


def test_crops_are_keyed_by_seed_and_step(codec: MiniCodec, own_config: Config) -> None:
    one, two = (CropSource(codec, noise_clips(), own_config) for _ in range(2))
    assert torch.equal(one.batch(7).wav_BN, two.batch(7).wav_BN)
    assert not torch.equal(one.batch(8).wav_BN, two.batch(7).wav_BN)
    other = CropSource(codec, noise_clips(), changed(own_config, "train", seed=1))
    assert not torch.equal(one.batch(7).wav_BN, other.batch(7).wav_BN)
    assert [one.batch(step).waveform for step in (2, 3)] == [False, True]


def test_a_crop_is_what_the_codec_decodes_from(codec: MiniCodec, own_config: Config) -> None:
    """Log-mel and magnitudes of a crop with silence around are those of the codec on the crop alone."""
    margin = codec.vocoder.margin
    clip_N = noise_clips(1)[0][: 40 * codec.hop_length]
    surrounded_BN = np.pad(clip_N, margin)[None].repeat(2, axis=0)
    crops = make_crops(codec, surrounded_BN, torch.tensor([False, True]), waveform=True, adversarial=False)
    wav_B1N = torch.from_numpy(clip_N)[None, None]
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
    coarse_BDT = codec.coarse(codes_BKT[:, 0])
    assert torch.equal(crops.wav_BN[0], wav_B1N[0, 0])
    torch.testing.assert_close(crops.logmel_BFM[:1], codec.logmel_of(coarse_BDT + fine_BDT))
    torch.testing.assert_close(crops.logmel_BFM[1:], codec.logmel_of(coarse_BDT + codec.fine_from_codes(codes_BKT)))
    spectrum_BFL = codec.vocoder.stft(wav_B1N[:, 0])
    torch.testing.assert_close(crops.level_BFL[:1].exp(), spectrum_BFL.abs().clamp_min(1e-3), atol=1e-4, rtol=1e-4)


def test_a_stretched_tone_changes_its_pitch_alone() -> None:
    t = np.arange(24_000) / 24_000
    tone_N = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    for length in (18_000, 24_000, 30_000):
        slower_N = _stretched(tone_N, length)
        expected_N = np.sin(2 * np.pi * 440 * 24_000 / length * np.arange(length) / 24_000)
        np.testing.assert_allclose(slower_N, expected_N, atol=1e-3)


def test_short_clips_are_followed_by_silence(
    codec: MiniCodec, own_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocoder_task, "IN_A_ROOM", 0.0)  # a room goes on sounding
    source = CropSource(codec, noise_clips(2, seconds=0.2), own_config)
    crop_BN = source.batch(0).wav_BN
    assert crop_BN.shape == (2, source.frames * codec.hop_length)
    assert float(crop_BN[:, 9600:].abs().mean()) < 0.1 * float(crop_BN[:, :4800].abs().mean())


def test_discriminators_learn_the_difference_and_teach_it() -> None:
    torch.manual_seed(0)
    judges = Discriminators()
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(9600) / 24_000
    real_BN = torch.sin(2 * torch.pi * 440 * t)[None].repeat(2, 1)
    fake_BN = 0.1 * torch.randn(2, 9600, generator=generator)
    optimizer = torch.optim.Adam(judges.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = judges.loss(fake_BN, real_BN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        assert judges.loss_of_generator(real_BN, real_BN) < judges.loss_of_generator(fake_BN, real_BN)
    assert float(judges.loss_of_generator(real_BN, real_BN)) < 0.5


def test_a_vocoder_needs_a_finished_codec(own_config: Config) -> None:
    with pytest.raises(UserError, match=r"has no report.json"):
        train_vocoder(own_config)
