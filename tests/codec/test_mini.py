"""The `mini` codec: contract, round trip, chunk-exact decoding, files on disk."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssmttm.codec import Codec, MiniCodec, load_codec, save_codec
from ssmttm.codec.metrics import logmel_l1
from ssmttm.codec.mini import AHEAD_FRAMES, BLOCK_FRAMES
from ssmttm.config import CodecConfig
from ssmttm.errors import UserError

CONFIG = CodecConfig(
    num_mels=64, pca_dim=24, num_codebooks=4, codebook_size=32, griffin_lim_iterations=3, fft_size=1024
)


def melody(seconds: float, seed: int) -> np.ndarray:
    """Decaying notes of random pitch over a little noise, float32 [N] at 24 kHz."""
    generator = np.random.default_rng(seed)
    t = np.arange(round(seconds * 24_000)) / 24_000
    wav = 0.002 * generator.standard_normal(len(t))
    for start in np.arange(0, seconds, 0.25):
        pitch = 220 * 2 ** (generator.integers(0, 24) / 12)
        age = np.maximum(t - start, 0)
        wav += (
            0.25
            * (t >= start)
            * np.exp(-6 * age)
            * (np.sin(2 * np.pi * pitch * age) + 0.4 * np.sin(4 * np.pi * pitch * age))
        )
    return wav.astype(np.float32)


@pytest.fixture(scope="module")
def codec() -> MiniCodec:
    fitted = MiniCodec(CONFIG)
    fitted.fit([melody(4.0, seed) for seed in range(12)], seed=0, progress=False)
    return fitted.eval()


@pytest.fixture(scope="module")
def latents(codec: MiniCodec) -> tuple[Tensor, Tensor, Tensor]:
    """Coarse and fine latents of two clips of 60 frames, and `decode` of them."""
    wav_B1N = torch.from_numpy(np.stack([melody(2.4, 90), melody(2.4, 91)]))[:, None]
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
    coarse_BDT = codec.coarse(codes_BKT[:, 0])
    return coarse_BDT, fine_BDT, codec.decode(coarse_BDT, fine_BDT)


def test_the_default_is_25_hz_with_8_codebooks_of_1024() -> None:
    codec = MiniCodec(CodecConfig())
    assert (codec.sample_rate, codec.frame_rate, codec.hop_length) == (24_000, 25.0, 960)
    assert (codec.num_codebooks, codec.codebook_size) == (8, 1024)


@pytest.mark.parametrize("samples", [960, 24_000, 24_001, 24_959])
def test_shapes(codec: Codec, samples: int) -> None:
    wav_B1N = torch.from_numpy(melody(2.0, 50)[:samples])[None, None].repeat(3, 1, 1)
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
    frames = math.ceil(samples / codec.hop_length)
    assert codes_BKT.shape == (3, codec.num_codebooks, frames)
    assert codes_BKT.dtype == torch.int64
    assert fine_BDT.shape == (3, codec.fine_dim, frames)
    assert codec.coarse(codes_BKT[:, 0]).shape == (3, codec.coarse_dim, frames)
    assert codec.fine_from_codes(codes_BKT).shape == (3, codec.fine_dim, frames)
    decoded_B1N = codec.decode_codes(codes_BKT)
    assert decoded_B1N.shape == (3, 1, frames * codec.hop_length)
    assert decoded_B1N.dtype == torch.float32


def test_encode_fine_and_codes_agree(codec: Codec) -> None:
    wav_B1N = torch.from_numpy(melody(2.0, 51))[None, None]
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_B1N)
    assert torch.equal(codec.encode(wav_B1N), codes_BKT)
    torch.testing.assert_close(codec.fine(wav_B1N, codes_BKT), fine_BDT)
    residual = [float((fine_BDT - codec.fine_from_codes(codes_BKT[:, :k])).norm()) for k in range(1, 5)]
    assert residual == sorted(residual, reverse=True)
    assert torch.equal(codec.fine_from_codes(codes_BKT[:, :1]), torch.zeros_like(fine_BDT))


def test_a_long_piece_is_encoded_as_in_one_go(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its spectra are made some at a time, as all of them would be many times its size."""
    wav_11N = torch.randn(1, 1, 24_000 * 3 + 7, generator=torch.Generator().manual_seed(0)) * 0.1
    codes, fine = codec.encode_with_latents(wav_11N)
    monkeypatch.setattr("ssmttm.codec.mini.SPECTRA_FRAMES", 7)
    again, finer = codec.encode_with_latents(wav_11N)
    assert (codes == again).float().mean() > 0.99  # rounding
    same_BT = (codes == again).all(1)
    assert (fine - finer).abs().amax(1)[same_BT].max() < 1e-3


def test_round_trip_keeps_the_music(codec: Codec) -> None:
    wav_BN = torch.from_numpy(melody(3.0, 52))[None]
    codes_BKT, fine_BDT = codec.encode_with_latents(wav_BN[:, None])
    coarse_BDT = codec.coarse(codes_BKT[:, 0])
    fines = (fine_BDT, codec.fine_from_codes(codes_BKT), torch.zeros_like(fine_BDT))
    errors = [logmel_l1(codec.decode(coarse_BDT, fine)[:, 0], wav_BN, 24_000) for fine in fines]
    assert errors == sorted(errors)
    assert errors[0] < 0.6
    assert errors[1] < 0.9
    shuffled = codec.decode_codes(codes_BKT[..., torch.randperm(codes_BKT.shape[-1])])[:, 0]
    assert errors[2] < logmel_l1(shuffled, wav_BN, 24_000)


def test_batch_mates_do_not_matter(codec: Codec, latents: tuple[Tensor, Tensor, Tensor]) -> None:
    coarse_BDT, fine_BDT, wav_B1N = latents
    alone_B1N = codec.decode(coarse_BDT[1:], fine_BDT[1:])
    torch.testing.assert_close(alone_B1N, wav_B1N[1:], atol=1e-4, rtol=0)
    clips = torch.from_numpy(np.stack([melody(1.0, 60), melody(1.0, 61)]))[:, None]
    assert torch.equal(codec.encode(clips)[1:], codec.encode(clips[1:]))


@given(cuts=st.lists(st.integers(0, 60), max_size=6), late_end=st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_chunking_gives_the_same_bits(
    codec: Codec, latents: tuple[Tensor, Tensor, Tensor], cuts: list[int], late_end: bool
) -> None:
    coarse_BDT, fine_BDT, whole_B1N = latents
    edges = [0, *sorted(cuts), 60]
    pieces, state = [], None
    for start, stop in itertools.pairwise(edges):
        final = stop == 60 and start != 60 and not late_end
        wav, state = codec.decode_chunk(coarse_BDT[..., start:stop], fine_BDT[..., start:stop], state, final)
        pieces.append(wav)
        if final:
            break
    if late_end:
        pieces.append(codec.decode_chunk(coarse_BDT[..., :0], fine_BDT[..., :0], state, final=True)[0])
    assert torch.equal(torch.cat(pieces, dim=-1), whole_B1N)


def test_a_chunk_is_heard_as_soon_as_its_block_is_complete(
    codec: MiniCodec, latents: tuple[Tensor, Tensor, Tensor]
) -> None:
    coarse_BDT, fine_BDT, _ = latents
    enough = BLOCK_FRAMES + AHEAD_FRAMES
    silent, state = codec.decode_chunk(coarse_BDT[..., : enough - 1], fine_BDT[..., : enough - 1])
    assert silent.shape == (2, 1, 0)
    heard, _ = codec.decode_chunk(coarse_BDT[..., enough - 1 : enough], fine_BDT[..., enough - 1 : enough], state)
    assert heard.shape == (2, 1, BLOCK_FRAMES * codec.hop_length - codec.vocoder.margin)


def test_fitting_is_seeded() -> None:
    clips = [melody(2.0, seed) for seed in range(4)]
    prints = []
    for seed in (0, 0, 1):
        codec = MiniCodec(CONFIG)
        codec.fit(clips, seed=seed, progress=False)
        prints.append(codec.fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_too_little_audio_is_refused() -> None:
    with pytest.raises(UserError, match=r"25 code frames are too few.*codec\.fit_clips"):
        MiniCodec(CONFIG).fit([melody(1.0, 0)], seed=0, progress=False)


def test_too_little_for_so_many_codebooks_is_said_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    many = CONFIG.model_copy(update={"num_codebooks": 8, "codebook_size": 64})
    MiniCodec(many).fit([melody(3.0, seed) for seed in range(2)], seed=0, progress=False)
    said = capsys.readouterr().out
    assert "codebooks 4, 5, 6, 7 of 8 use less than a tenth" in said
    assert "at least 384 code frames" in said
    assert "codec.num_codebooks=4" in said
    MiniCodec(many).fit([melody(3.0, seed) for seed in range(8)], seed=0, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("key", "value"), [("fft_size", 480), ("fft_size", 2047), ("pca_dim", 65)])
def test_sizes_that_do_not_fit_together_are_refused(key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"codec.{key}={value} must be"):
        MiniCodec(CONFIG.model_copy(update={key: value}))


def test_the_basis_is_orthonormal(codec: MiniCodec) -> None:
    torch.testing.assert_close(codec.basis_MP.T @ codec.basis_MP, torch.eye(24), atol=1e-5, rtol=0)


def test_save_and_load(codec: MiniCodec, tmp_path: Path) -> None:
    save_codec(codec, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.json", "codec.safetensors"]
    loaded = load_codec(str(tmp_path))
    assert loaded.fingerprint() == codec.fingerprint()
    wav_B1N = torch.from_numpy(melody(1.0, 70))[None, None]
    codes_BKT = codec.encode(wav_B1N)
    assert torch.equal(loaded.encode(wav_B1N), codes_BKT)
    assert torch.equal(loaded.decode_codes(codes_BKT), codec.decode_codes(codes_BKT))
    assert not loaded.training


def test_the_fingerprint_knows_weights_and_settings_but_not_the_place(codec: MiniCodec) -> None:
    twin = MiniCodec(CONFIG.model_copy(update={"path": "elsewhere", "fit_clips": 3}))
    twin.load_state_dict(codec.state_dict())
    assert twin.fingerprint() == codec.fingerprint()
    twin.codebooks_KVD[0, 0, 0] += 1
    assert twin.fingerprint() != codec.fingerprint()
    other = MiniCodec(CONFIG.model_copy(update={"griffin_lim_iterations": 5}))
    other.load_state_dict(codec.state_dict())
    assert other.fingerprint() != codec.fingerprint()


def test_load_errors_name_the_folder_and_the_remedy(codec: MiniCodec, tmp_path: Path) -> None:
    uri = str(tmp_path)
    with pytest.raises(UserError, match=rf"no codec at {uri}: codec.json is missing; fit one with"):
        load_codec(uri)
    save_codec(codec, uri)
    good_config, good_weights = (tmp_path / "codec.json").read_text(), (tmp_path / "codec.safetensors").read_bytes()

    (tmp_path / "codec.safetensors").write_bytes(good_weights[:-100])
    with pytest.raises(UserError, match=rf"{uri} is damaged: codec.safetensors .*; fit it again .*or fetch it"):
        load_codec(uri)
    flipped = bytearray(good_weights)
    flipped[-1] ^= 1
    (tmp_path / "codec.safetensors").write_bytes(flipped)
    with pytest.raises(UserError, match=rf"{uri} is damaged: codec.safetensors is another .*fingerprint"):
        load_codec(uri)
    (tmp_path / "codec.safetensors").write_bytes(good_weights)

    for change, message in (
        ({"format": 99}, r"is not of format 1; fit it again"),
        ({"name": "maxi"}, r"unknown kind 'maxi'; known: mini"),
        ({"config": {"num_mells": 3}}, r"has a bad configuration .*num_mells.*; fit it again"),
        (
            {"config": {**json.loads(good_config)["config"], "num_mels": 32}},
            r"damaged: codec.safetensors holds mean_M as F32 \[64\], where its configuration wants F32 \[32\]",
        ),
    ):
        (tmp_path / "codec.json").write_text(json.dumps(json.loads(good_config) | change))
        with pytest.raises(UserError, match=message):
            load_codec(uri)
