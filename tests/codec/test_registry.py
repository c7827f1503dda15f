"""The registry of codecs, and a toy codec that is registered here alone: fitted, tokenised, trained on, played."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs import train_codec as job
from ssmttm import config, storage
from ssmttm.codec import CODECS, Codec, load_codec
from ssmttm.config import CodecConfig, Config
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train

STEPS = 8  # latents of a frame: means of its eighths


class ToyCodec(Codec):
    """Samples as stairs. A stair is heard half as high as it is and half as the one before it, which a stream carries
    along."""

    name = "toy"
    is_fitted = True
    books_KVD: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop_length = config.sample_rate, config.hop * config.stack
        self.num_codebooks, self.codebook_size = config.num_codebooks, config.codebook_size
        self.coarse_dim, self.fine_dim = self.latent_dims(config)
        self.register_buffer("books_KVD", torch.zeros(self.num_codebooks, self.codebook_size, STEPS))

    @classmethod
    def from_config(cls, config: CodecConfig) -> ToyCodec:
        return cls(config)

    @classmethod
    def from_description(cls, config: dict[str, Any]) -> ToyCodec:
        return cls(CodecConfig.model_validate(config))

    @classmethod
    def latent_dims(cls, config: CodecConfig) -> tuple[int, int]:
        return STEPS, STEPS

    def describe(self) -> dict[str, Any]:
        sizes = {"sample_rate", "hop", "stack", "num_codebooks", "codebook_size"}
        return {"name": self.name, "config": self.config.model_dump(include=sizes)}

    def fit(self, wavs: Iterable[np.ndarray], seed: int, progress: bool = True) -> None:
        """Entries are frames drawn at random, those of later books smaller."""
        frames_FD = torch.cat([self._stairs(torch.from_numpy(wav)[None, None])[0] for wav in wavs])
        generator = torch.Generator().manual_seed(seed)
        for book in range(self.num_codebooks):
            drawn = torch.randint(len(frames_FD), (self.codebook_size,), generator=generator)
            self.books_KVD[book] = frames_FD[drawn] / 4**book

    def _stairs(self, wav_B1N: Tensor) -> Tensor:
        """[B, T, D]"""
        padded_BN = torch.nn.functional.pad(wav_B1N[:, 0], (0, -wav_B1N.shape[-1] % self.hop_length))
        return padded_BN.unflatten(1, (-1, STEPS, self.hop_length // STEPS)).mean(-1)

    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        codes, left_BTD = [], self._stairs(wav_B1N)
        for book_VD in self.books_KVD:
            codes.append(torch.cdist(left_BTD, book_VD[None]).argmin(-1))
            left_BTD = left_BTD - book_VD[codes[-1]]
        codes_BKT = torch.stack(codes, dim=1)
        return codes_BKT, self.fine(wav_B1N, codes_BKT)

    def coarse(self, codes0_BT: Tensor) -> Tensor:
        return self.books_KVD[0, codes0_BT].mT.contiguous()

    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        return self._stairs(wav_B1N).mT - self.coarse(codes_BKT[:, 0])

    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        parts = [self.books_KVD[book, codes_BKT[:, book]].mT for book in range(1, codes_BKT.shape[1])]
        return torch.stack([torch.zeros_like(self.coarse(codes_BKT[:, 0])), *parts]).sum(0)

    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: Tensor | None = None, final: bool = False
    ) -> tuple[Tensor, Tensor]:
        stairs_BN = (coarse_BDT + fine_BDT).mT.flatten(1)
        before_B1 = stairs_BN.new_zeros(len(stairs_BN), 1) if state is None else state
        known_BN = torch.cat([before_B1, stairs_BN], dim=1)
        wav_BN = (0.5 * known_BN[:, 1:] + 0.5 * known_BN[:, :-1]).repeat_interleave(self.hop_length // STEPS, dim=1)
        return wav_BN[:, None], known_BN[:, -1:]


@pytest.fixture
def toy(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The toy in the registry, and the overrides of the tiny preset that use it."""
    monkeypatch.setitem(CODECS, ToyCodec.name, ToyCodec)
    paths = {"codec.path": "codec", "corpus.out": "tokens", "train.data": "tokens", "train.out": "runs"}
    return [
        f"corpus.source={tiny_config.corpus.source}",
        *(f"{key}={tmp_path / folder}" for key, folder in paths.items()),
        "codec.name=toy",
        "codec.num_codebooks=2",
        "train.steps=2",
        "train.launch=local",
        "tracking.enabled=false",
    ]


def test_a_toy_codec_goes_all_the_way(toy: list[str], tiny_corpus: str, tmp_path: Path) -> None:
    settings = config.load("tiny", toy)
    job.train(settings)
    codec = load_codec(settings.codec.path)
    assert isinstance(codec, ToyCodec)
    report = storage.read_commit(settings.codec.path, "report.json", verify=True)
    assert report["fingerprint"] == codec.fingerprint()
    assert report["logmel_l1_latents"] <= report["logmel_l1"] < report["logmel_l1_coarse"]

    dataset = preprocess_local(settings).dataset
    assert dataset["rows"] == 8
    assert dataset["codec"]["config"] == codec.describe()
    for stage in ("stage1", "stage2"):
        train(config.load("tiny", toy, stage), stage)
    runs = settings.train.out
    export_bundle(f"{runs}/stage1", f"{runs}/stage2", str(tmp_path / "bundle"))
    generator = Generator.load(str(tmp_path / "bundle"))
    assert generator.bundle.codec.fingerprint() == codec.fingerprint()
    clip = generator.generate("calm piano", seconds=1.0, seed=1)
    assert clip.samples.shape == (1, 24_000)
    assert np.isfinite(clip.samples).all()
    assert clip.samples.any()


def test_a_toy_codec_decodes_in_chunks(toy: list[str]) -> None:
    codec = CODECS.find("toy").from_config(config.load("tiny", toy).codec)
    random = np.random.default_rng(0)
    codec.fit([random.standard_normal(24_000).astype("f4") for _ in range(2)], seed=0)
    wav_B1N = torch.from_numpy(random.standard_normal((2, 1, 20 * codec.hop_length - 5)).astype("f4"))
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
    assert codes_BKT.shape == (2, 2, 20)
    coarse_BDT = codec.coarse(codes_BKT[:, 0])
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 1), (1, 9), (9, 20)):
        piece_B1N, state = codec.decode_chunk(coarse_BDT[..., start:stop], fine_BDT[..., start:stop], state, stop == 20)
        pieces.append(piece_B1N)
    assert torch.equal(torch.cat(pieces, dim=-1), codec.decode(coarse_BDT, fine_BDT))


def test_a_vocoder_is_refused_where_none_can_be_trained(toy: list[str], tiny_corpus: str) -> None:
    with pytest.raises(UserError, match=r"codec.name=toy takes no vocoder; leave out codec.vocoder=neural"):
        job.train(config.load("tiny", [*toy, "codec.vocoder=neural"]))


@pytest.mark.parametrize("name", ["dac", "encodec"])
def test_published_codecs_are_not_fitted(toy: list[str], name: str) -> None:
    with pytest.raises(UserError, match=f"codec.name={name} is a published codec, with nothing to fit"):
        job.train(config.load("tiny", [*toy, f"codec.name={name}"]))


def test_an_unknown_name_is_refused_with_the_nearest(toy: list[str]) -> None:
    with pytest.raises(UserError, match=r"codec.name=encoder is unknown; did you mean encodec\?"):
        job.train(config.load("tiny", [*toy, "codec.name=encoder"]))


@pytest.mark.parametrize("name", ["mini", "dac", "encodec"])
def test_dimensions_are_known_before_there_is_a_codec(name: str) -> None:
    """Those of a codec that is made of the configuration, or of the published one."""
    kind, settings = CODECS.find(name), CodecConfig(name=name, num_codebooks=9)
    if kind.is_fitted:
        codec = kind.from_config(settings)
    else:
        with torch.device("meta"):
            codec = kind.from_description({"model_type": kind.published_as})
    assert kind.latent_dims(settings) == (codec.coarse_dim, codec.fine_dim)
