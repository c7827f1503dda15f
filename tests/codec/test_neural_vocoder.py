"""The neural vocoder on top of `mini`: untrained it is Griffin-Lim, streams are exact, tokens keep their identity."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssmttm.codec import MiniCodec, load_codec, save_codec
from ssmttm.codec.mini import AHEAD_FRAMES, BLOCK_FRAMES
from ssmttm.codec.neural_vocoder import NeuralVocoder
from ssmttm.config import CodecConfig, VocoderConfig
from ssmttm.errors import UserError

CONFIG = CodecConfig(num_mels=64, pca_dim=24, num_codebooks=2, codebook_size=8, griffin_lim_iterations=2, fft_size=1024)
SIZES = {"width": 16, "layers": 2, "kernel_size": 7, "expand": 2, "refine_width": 8, "refine_layers": 2}
FRAMES = 60


def plain_codec() -> MiniCodec:
    """A codec of random statistics, which are enough to decode."""
    torch.manual_seed(0)
    codec = MiniCodec(CONFIG)
    codec.mean_M.fill_(-3.0)
    codec.basis_MP.copy_(torch.linalg.qr(torch.randn(64, 24))[0])
    codec.codebooks_KVD.copy_(torch.randn(2, 8, 48))
    return codec.eval()


def randomise(vocoder: NeuralVocoder) -> None:
    """Outputs start at zero; here they shall not."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vocoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_((parameter + noise).half().float())


@pytest.fixture(scope="module")
def codec() -> MiniCodec:
    codec = plain_codec()
    codec.add_vocoder(SIZES)
    assert codec.neural_vocoder is not None
    randomise(codec.neural_vocoder)
    return codec.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(codec: MiniCodec) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    coarse_BDT, fine_BDT = (torch.randn(2, 48, FRAMES, generator=generator) for _ in range(2))
    return coarse_BDT, fine_BDT, codec.decode(coarse_BDT, fine_BDT)


@given(cuts=st.lists(st.integers(0, FRAMES), max_size=6), late_end=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_chunking_gives_the_same_bits(
    codec: MiniCodec, latents: tuple[Tensor, Tensor, Tensor], cuts: list[int], late_end: bool
) -> None:
    coarse_BDT, fine_BDT, whole_B1N = latents
    pieces, state = [], None
    for start, stop in itertools.pairwise([0, *sorted(cuts), FRAMES]):
        final = stop == FRAMES and start != FRAMES and not late_end
        wav, state = codec.decode_chunk(coarse_BDT[..., start:stop], fine_BDT[..., start:stop], state, final)
        pieces.append(wav)
        if final:
            break
    if late_end:
        pieces.append(codec.decode_chunk(coarse_BDT[..., :0], fine_BDT[..., :0], state, final=True)[0])
    assert torch.equal(torch.cat(pieces, dim=-1), whole_B1N)


def test_a_chunk_is_heard_as_soon_as_its_block_is_complete(codec: MiniCodec) -> None:
    latents_BDT = torch.randn(1, 48, BLOCK_FRAMES + AHEAD_FRAMES)
    silent, state = codec.decode_chunk(latents_BDT[..., :-1], latents_BDT[..., :-1])
    assert silent.shape == (1, 1, 0)
    heard, state = codec.decode_chunk(latents_BDT[..., -1:], latents_BDT[..., -1:], state)
    assert heard.shape == (1, 1, BLOCK_FRAMES * codec.hop_length - codec.vocoder.margin)
    assert state.latents_BDT.shape[-1] == codec.context_frames + AHEAD_FRAMES


def test_levels_of_a_block_are_those_of_the_whole_as_far_as_the_look_ahead_goes(codec: MiniCodec) -> None:
    vocoder = codec.neural_vocoder
    assert vocoder is not None
    logmel_BFM = torch.randn(1, 80, 64) - 3
    whole_BFL = vocoder.levels(logmel_BFM)
    window_BFL = vocoder.levels(logmel_BFM[:, 30 - vocoder.context : 60 + vocoder.context])
    torch.testing.assert_close(window_BFL[:, vocoder.context : -vocoder.context], whole_BFL[:, 30:60])


def test_corrections_do_not_see_where_blocks_meet(codec: MiniCodec) -> None:
    vocoder = codec.neural_vocoder
    assert vocoder is not None
    features_BFPE = torch.randn(1, 20, 65, 56)
    seen = vocoder.config.refine_layers
    whole_BFL = vocoder._correction(features_BFPE)
    later_BFL = vocoder._correction(features_BFPE[:, 10 - seen :])
    torch.testing.assert_close(later_BFL[:, seen:], whole_BFL[:, 10:])


def test_untrained_it_is_griffin_lim_on_the_envelope() -> None:
    codec = plain_codec()
    codec.add_vocoder(SIZES)
    vocoder = codec.neural_vocoder
    assert vocoder is not None
    logmel_BFM = torch.randn(2, 12, 64) - 3
    level_BFL = vocoder.levels(logmel_BFM)
    with torch.no_grad():
        wav_BN, _ = vocoder.block(level_BFL, codec.vocoder, None, 12)
        expected_BN, _ = codec.vocoder.block(level_BFL.exp(), None, 12)
    torch.testing.assert_close(wav_BN, expected_BN, atol=1e-4, rtol=1e-4)


def test_a_flat_log_mel_has_a_flat_envelope() -> None:
    codec = plain_codec()
    codec.add_vocoder(SIZES)
    assert codec.neural_vocoder is not None
    flat_BFL = torch.ones(1, 4, codec.config.fft_size // 2 + 1)
    level_BFL = codec.neural_vocoder.levels((flat_BFL @ codec.filters_LM).log())
    torch.testing.assert_close(level_BFL, torch.zeros_like(level_BFL), atol=1e-3, rtol=0)


def test_correction_ignores_level_and_overall_phase(codec: MiniCodec) -> None:
    """Except for the feature that states the level."""
    vocoder = codec.neural_vocoder
    assert vocoder is not None
    level_BFL = torch.randn(1, 5, 513)
    phase_BFL, last_B1L, rebuilt_BFL = (
        torch.polar(torch.ones(1, frames, 513), torch.randn(1, frames, 513)) for frames in (5, 1, 5)
    )
    turn = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    features = vocoder._features(level_BFL, phase_BFL, last_B1L, rebuilt_BFL)
    turned = vocoder._features(level_BFL, phase_BFL * turn, last_B1L * turn, rebuilt_BFL * turn)
    torch.testing.assert_close(turned, features, atol=1e-5, rtol=1e-5)


def test_a_steady_tone_turns_nowhere(codec: MiniCodec) -> None:
    """At a bin's own frequency the phase features are 1: from bin to bin in the peak, and from frame to frame."""
    vocoder = codec.neural_vocoder
    assert vocoder is not None
    t = torch.arange(40 * 480) / 24_000
    bin_ = 100
    spectrum_BFL = codec.vocoder.stft(torch.cos(2 * torch.pi * bin_ * 24_000 / 1024 * t)[None])[:, 5:15]
    phase_BFL = spectrum_BFL / spectrum_BFL.abs().clamp_min(1e-9)
    features = vocoder._features(spectrum_BFL.abs().log(), phase_BFL, phase_BFL[:, :1], spectrum_BFL)
    features_BFLE = features.unflatten(-1, (8, 7)).flatten(2, 3)
    at_peak = features_BFLE[0, 2:8, bin_]
    torch.testing.assert_close(at_peak[:, 1::2], torch.ones(6, 3), atol=2e-2, rtol=0)
    torch.testing.assert_close(at_peak[:, 2::2], torch.zeros(6, 3), atol=2e-2, rtol=0)


@pytest.mark.parametrize("left_out", ["layers", "refine_layers"])
def test_with_one_network_alone_streams_are_exact_too(left_out: str) -> None:
    codec = plain_codec()
    codec.add_vocoder({**SIZES, left_out: 0})
    assert codec.neural_vocoder is not None
    randomise(codec.neural_vocoder)
    latents_BDT = torch.randn(1, 48, 50)
    whole = codec.decode(latents_BDT, latents_BDT)
    first, state = codec.decode_chunk(latents_BDT[..., :33], latents_BDT[..., :33])
    second, _ = codec.decode_chunk(latents_BDT[..., 33:], latents_BDT[..., 33:], state, final=True)
    assert torch.equal(torch.cat([first, second], dim=-1), whole)


def test_save_and_load_keep_the_vocoder_and_the_tokens_identity(codec: MiniCodec, tmp_path: Path) -> None:
    before = plain_codec()
    assert codec.fingerprint() == before.fingerprint()
    save_codec(codec, str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["codec.json", "codec.safetensors", "vocoder.safetensors"]
    loaded = load_codec(str(tmp_path))
    assert loaded.fingerprint() == before.fingerprint()
    latents_BDT = torch.randn(1, 48, 30)
    assert torch.equal(loaded.decode(latents_BDT, latents_BDT), codec.decode(latents_BDT, latents_BDT))
    save_codec(before, str(tmp_path))  # over it
    assert not (tmp_path / "vocoder.safetensors").exists()
    plain = load_codec(str(tmp_path))
    assert not torch.equal(plain.decode(latents_BDT, latents_BDT), loaded.decode(latents_BDT, latents_BDT))


def test_todays_folders_keep_their_fingerprint(tmp_path: Path) -> None:
    """As written before there was a vocoder: its key is in neither description nor digest."""
    codec = plain_codec()
    save_codec(codec, str(tmp_path))
    description = json.loads((tmp_path / "codec.json").read_text())
    assert "vocoder" not in description
    assert set(description["config"]) == {
        *("name", "sample_rate", "fft_size", "hop", "num_mels", "pca_dim", "stack"),
        *("num_codebooks", "codebook_size", "griffin_lim_iterations"),
    }


def test_a_damaged_vocoder_is_named_with_its_remedy(codec: MiniCodec, tmp_path: Path) -> None:
    uri, remedy = str(tmp_path), r"train it again with jobs/train_codec.py codec.vocoder=neural"
    save_codec(codec, uri)
    description = (tmp_path / "codec.json").read_text()
    weights = (tmp_path / "vocoder.safetensors").read_bytes()
    (tmp_path / "vocoder.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(UserError, match=rf"damaged: vocoder.safetensors differs from its digest; {remedy}"):
        load_codec(uri)
    (tmp_path / "vocoder.safetensors").unlink()
    with pytest.raises(UserError, match=rf"damaged: vocoder.safetensors is missing; {remedy}"):
        load_codec(uri)
    (tmp_path / "vocoder.safetensors").write_bytes(weights)
    for change in ({"width": 24}, {"refine_layers": 3}, {"widht": 3}):
        changed = json.loads(description)
        changed["vocoder"]["config"] |= change
        (tmp_path / "codec.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf"damaged: vocoder.safetensors .*configuration.*{remedy}"):
            load_codec(uri)


def test_the_default_has_less_than_three_million_parameters() -> None:
    codec = MiniCodec(CodecConfig())
    codec.add_vocoder(VocoderConfig().model_dump())
    assert codec.neural_vocoder is not None
    assert sum(parameter.numel() for parameter in codec.neural_vocoder.parameters()) < 3_000_000
