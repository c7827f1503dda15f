"""The `paper` preset as it stands, with every size brought down: published kinds of codec and text encoder (random
weights), files with captions, both stages, a bundle, a clip at 44.1 kHz. And the same start with EnCodec."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import write_dac, write_encodec, write_t5
from typer.testing import CliRunner

from jobs import preprocess
from ssmttm import audio, cli, config, storage
from ssmttm.audio import Audio
from ssmttm.bundle.load import load_bundle
from ssmttm.cli_doctor import examine
from ssmttm.codec import load_codec
from ssmttm.errors import UserError
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.tokens.read import TokenDataset
from ssmttm.training.launch import train
from ssmttm.training.run import Run

PROMPT = "slow piano, calm"
SECONDS, RATE, HOP, BOOKS = 1.5, 44_100, 512, 9
# Sizes and the machine; what the preset says of method (positions, text path, heads, guidance, averages) stays.
SMALL = (
    *(f"corpus.segment_seconds={SECONDS}", "corpus.default_licence=own-work", "corpus.rows_per_shard=4"),
    *("codec.codebook_size=32", "text.dim=16"),
    *("stage1.width=64", "stage1.layers=2", "stage1.state_size=16", "stage1.max_frames=150"),
    *("stage2.width=32", "stage2.layers=2", "stage2.crop_frames=64"),
    *("train.use_gpu=false", "train.launch=local", "tracking.enabled=false"),
    *("train.steps=3", "train.global_batch=4", "train.warmup_steps=1", "train.validation_rows=2", "train.samples=1"),
    *("generation.steps=2",),
)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pieces of noise-like chords at three rates, one of them shorter than a segment, captions beside them."""
    folder = tmp_path_factory.mktemp("music")
    random = np.random.default_rng(0)
    for number, rate in enumerate((44_100, 48_000, 22_050, 44_100, 44_100, 48_000)):
        time = np.arange(round((1.2 if number == 2 else 2 * SECONDS) * rate)) / rate
        chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in random.uniform(80, 4000, 3))
        samples = 0.2 * chord * np.exp(-3 * (time % 0.4)) + 0.01 * random.standard_normal(len(time))
        audio.write(str(folder / f"piece-{number}.wav"), Audio(samples[None].astype(np.float32), rate))
        (folder / f"piece-{number}.txt").write_text(f"slow piano, number {number}\npiano\n")
        (folder / f"piece-{number}.json").write_text('{"split": "%s"}' % ("val" if number > 3 else "train"))
    return folder


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_t5(tmp_path_factory.mktemp("models") / "flan-t5", shard_size="6KB")


def overrides(folder: Path, music: Path, codec: str, text_encoder: str) -> list[str]:
    paths = {"corpus.source": music, "corpus.out": folder / "tokens", "codec.path": codec, "text.path": text_encoder}
    paths |= {"train.data": folder / "tokens", "train.out": folder / "runs"}
    return [*SMALL, *(f"{key}={path}" for key, path in paths.items())]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def train_and_export(folder: Path, changes: list[str]) -> str:
    """The bundle of both stages, trained on the token shards in `folder`."""
    runs: dict[str, Run] = {}
    for stage in ("stage1", "stage2"):
        settings = config.load("paper", changes, stage)
        runs[stage] = train(settings, stage)
        summary = storage.read_json(runs[stage].summary)
        assert summary["steps"] == 3
        assert all(np.isfinite(value) for value in summary["validation"].values())
        (sample,) = storage.list_names(runs[stage].path("samples"))
        assert audio.read(runs[stage].path("samples", sample)).sample_rate == settings.codec.sample_rate
    run("export", runs["stage1"].uri, runs["stage2"].uri, "--out", str(folder / "bundle"))
    return str(folder / "bundle")


def generate(bundle: str, seconds: float, out: Path) -> Audio:
    said = run("generate", PROMPT, "--bundle", bundle, "--seconds", str(seconds), "--seed", "3", "--out", str(out))
    assert "ssmttm-paper-" in said
    clip = audio.read(str(out))
    assert 0 < np.abs(clip.samples).max() <= 1
    return clip


def test_from_published_encoders_to_a_clip(music: Path, text_encoder: str, tmp_path: Path) -> None:
    codec_folder = write_dac(
        tmp_path / "dac_44khz",
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4, 8, 8],
        decoder_hidden_size=32,
        n_codebooks=BOOKS,
        codebook_size=32,
        sampling_rate=RATE,
    )
    changes = overrides(tmp_path, music, codec_folder, text_encoder)

    preprocess.main(["--preset", "paper", *changes])
    dataset = storage.read_commit(str(tmp_path / "tokens"), "dataset.json")
    assert (dataset["rows"], dataset["rejects"]) == (11, 0)
    assert (dataset["codec"]["config"]["name"], dataset["text"]["dim"]) == ("dac", 16)
    data = TokenDataset.open(str(tmp_path / "tokens"), "train")
    frames = -(-round(SECONDS * RATE) // HOP)
    assert data.codes(0).shape == (BOOKS, frames)
    assert data.fine(0).shape == ((BOOKS - 1) * 8, frames)

    bundle = train_and_export(tmp_path, changes)
    shutil.rmtree(codec_folder)  # the bundle holds the codec
    clip = generate(bundle, 1.25, tmp_path / "clip.wav")
    assert (clip.sample_rate, clip.samples.shape) == (RATE, (1, round(1.25 * RATE)))
    loaded = load_bundle(bundle, "cpu")
    assert loaded.codec.fingerprint() == dataset["codec"]["fingerprint"]
    assert loaded.config.stage1.positions == "sinusoidal"
    assert not loaded.config.stage1.pooled
    with pytest.raises(UserError, match="shorter"):  # positions were trained for 150 frames
        generate(bundle, 2.0, tmp_path / "longer.wav")

    # The text encoder is named in the bundle, not held.
    moved = shutil.move(text_encoder, tmp_path / "elsewhere")
    try:
        with pytest.raises(UserError, match=f"text encoder {text_encoder} is missing"):
            load_bundle(bundle, "cpu")
    finally:
        shutil.move(moved, text_encoder)


@pytest.mark.parametrize(
    "variant",
    [
        {"sampling_rate": 24_000, "upsampling_ratios": [8, 5, 4, 2], "target_bandwidths": [1.5]},
        {
            "sampling_rate": 32_000,
            "upsampling_ratios": [8, 5, 4, 4],
            "target_bandwidths": [1.0],
            "use_causal_conv": False,
            "use_conv_shortcut": False,
        },
    ],
    ids=["24khz", "32khz"],
)
def test_encodec_in_the_same_place(music: Path, text_encoder: str, tmp_path: Path, variant: dict[str, Any]) -> None:
    folder = write_encodec(tmp_path / "encodec", hidden_size=16, num_filters=4, codebook_size=32, **variant)
    hop, rate = int(np.prod(variant["upsampling_ratios"])), variant["sampling_rate"]
    sizes = {"codec.name": "encodec", "codec.sample_rate": rate, "codec.hop": hop, "codec.num_codebooks": 4}
    changes = [
        *overrides(tmp_path, music, folder, text_encoder),
        *(f"{key}={value}" for key, value in sizes.items()),
    ]

    preprocess.main(["--preset", "paper", *changes])
    data = TokenDataset.open(str(tmp_path / "tokens"), "train")
    codec = load_codec(folder)
    assert data.info["codec"]["fingerprint"] == codec.fingerprint()
    codes = torch.from_numpy(data.codes(0).astype(np.int64))[None]
    fine = torch.from_numpy(data.fine(0).astype(np.float32))[None]
    assert fine.shape == (1, 16, -(-round(SECONDS * rate) // hop))
    with torch.inference_mode():
        piece = audio.to_mono(audio.resample(audio.read(str(music / "piece-0.wav")), rate))
        wav = torch.from_numpy(piece.samples[None, :, : round(SECONDS * rate)])
        encoded, latents = codec.encode_with_latents(wav)
        assert (encoded == codes).float().mean() > 0.9  # shards hold the segment as cut and resampled by itself
        stored = codec.decode(codec.coarse(codes[:, 0]), fine)
        direct = codec.decode(codec.coarse(encoded[:, 0]), latents)
    assert stored.shape == (1, 1, fine.shape[2] * hop)
    assert (stored - direct).abs().mean() < 0.05 * direct.abs().mean()

    clip = generate(train_and_export(tmp_path, changes), 1.0, tmp_path / "clip.wav")
    assert (clip.sample_rate, clip.samples.shape) == (rate, (1, rate))


def test_the_doctor_counts_with_the_latents_of_encodec(tmp_path: Path) -> None:
    preset = tmp_path / "encodec.yaml"
    preset.write_text("base: tiny\ncodec: {name: encodec, hop: 320, stack: 1}\ntext: {dim: 16}\n")
    counted = examine(str(preset))["stage2"]["trainable_params"]
    completer = LatentCompleter(config.load("tiny").stage2, 128, 128, {"text": 16})
    assert counted == sum(parameter.numel() for parameter in completer.parameters())
