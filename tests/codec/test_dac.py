"""The DAC adapter against transformers' own `DacModel`, on a tiny random checkpoint in the published layout."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import write_dac

from ssmttm.codec import DacCodec, load_codec, save_codec
from ssmttm.codec.blocks import BLOCK_FRAMES
from ssmttm.codec.dac import context_frames
from ssmttm.errors import UserError

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dac(
        tmp_path_factory.mktemp("dac"),
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4, 4],
        decoder_hidden_size=32,
        n_codebooks=4,
        codebook_size=32,
        codebook_dim=4,
        sampling_rate=RATE,
    )


@pytest.fixture(scope="module")
def codec(folder: str) -> DacCodec:
    loaded = load_codec(folder)
    assert isinstance(loaded, DacCodec)
    return loaded


@pytest.fixture(scope="module")
def published(folder: str):
    from transformers import DacModel

    return DacModel.from_pretrained(folder).eval()


def audio(samples: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def test_sizes(codec: DacCodec) -> None:
    assert (codec.sample_rate, codec.hop_length, codec.frame_rate) == (RATE, 32, 500)
    assert (codec.num_codebooks, codec.codebook_size, codec.coarse_dim, codec.fine_dim) == (4, 32, 4, 12)


@torch.no_grad()
def test_codes_and_latents_are_those_of_the_published_model(codec: DacCodec, published) -> None:
    wav = audio(32 * 100)
    codes, fine = codec.encode_with_latents(wav)
    expected = published.encode(wav)
    assert torch.equal(codes, expected.audio_codes)
    torch.testing.assert_close(fine, expected.projected_latents[:, 4:])
    torch.testing.assert_close(codec.coarse(codes[:, 0]), published.quantizer.from_codes(codes)[1][:, :4])
    torch.testing.assert_close(codec.fine_from_codes(codes), published.quantizer.from_codes(codes)[1][:, 4:])


@pytest.mark.parametrize("frames", [1, 20, BLOCK_FRAMES, 3 * BLOCK_FRAMES + 7])
@torch.no_grad()
def test_decoding_is_that_of_the_published_model(codec: DacCodec, published, frames: int) -> None:
    codes = torch.randint(0, 32, (2, 4, frames), generator=torch.Generator().manual_seed(frames))
    expected = published.decode(audio_codes=codes).audio_values
    torch.testing.assert_close(codec.decode_codes(codes)[:, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("books", [1, 2, 3])
@torch.no_grad()
def test_codebooks_can_be_left_out(codec: DacCodec, published, books: int) -> None:
    """As in what is heard of the coarse codes alone: fine latents of zeros."""
    codes = torch.randint(0, 32, (2, 4, 70), generator=torch.Generator().manual_seed(0))[:, :books]
    expected = published.decode(audio_codes=codes).audio_values
    torch.testing.assert_close(codec.decode_codes(codes)[:, 0], expected, rtol=1e-5, atol=1e-6)
    if books == 1:
        assert not codec.fine_from_codes(codes).any()


@torch.no_grad()
def test_latents_through_the_quantiser_sound_like_their_codes(codec: DacCodec) -> None:
    codes, fine = codec.encode_with_latents(audio(32 * 90))
    torch.testing.assert_close(codec.decode(codec.coarse(codes[:, 0]), fine), codec.decode_codes(codes))


@torch.no_grad()
def test_stored_latents_through_the_quantiser_are_the_published_reconstruction(codec: DacCodec, published) -> None:
    """Fine latents as token shards hold them (float16) come back as the published model decodes its own codes."""
    wav = audio(32 * 150)
    codes, fine = codec.encode_with_latents(wav)
    decoded = codec.decode(codec.coarse(codes[:, 0]), fine.half().float())
    encoded = published.encode(wav)
    expected = published.decode(audio_codes=encoded.audio_codes).audio_values
    torch.testing.assert_close(decoded[:, 0], expected, rtol=1e-5, atol=1e-6)
    # Decoding without the codes' detour differs by rounding alone.
    direct = published.decode(encoded.quantized_representation).audio_values
    torch.testing.assert_close(decoded[:, 0], direct, rtol=1e-4, atol=1e-5)


@given(cuts=st.lists(st.integers(0, 150), max_size=5))
@settings(max_examples=30, deadline=None)
def test_chunks_are_the_whole_bit_for_bit(codec: DacCodec, cuts: list[int]) -> None:
    codes = torch.randint(0, 32, (1, 4, 150), generator=torch.Generator().manual_seed(0))
    coarse, fine = codec.coarse(codes[:, 0]), codec.fine_from_codes(codes)
    bounds = [0, *sorted(cuts), 150]
    state, pieces = None, []
    for start, end in itertools.pairwise(bounds):
        wav, state = codec.decode_chunk(coarse[..., start:end], fine[..., start:end], state, final=end == 150)
        pieces.append(wav)
    assert torch.equal(torch.cat(pieces, -1)[..., : 150 * 32], codec.decode(coarse, fine))


def test_a_ragged_end_is_padded_to_whole_frames(codec: DacCodec) -> None:
    assert codec.encode(audio(32 * 9 + 1)).shape[-1] == 10


def test_saved_and_loaded_it_is_the_same_codec(codec: DacCodec, tmp_path: Path) -> None:
    save_codec(codec, str(tmp_path))
    again = load_codec(str(tmp_path))
    assert again.fingerprint() == codec.fingerprint()
    codes = torch.randint(0, 32, (1, 4, 5))
    assert torch.equal(again.decode_codes(codes), codec.decode_codes(codes))


def test_a_damaged_checkpoint_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(Path(folder, "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_codec(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_codec(str(tmp_path))


def test_context_covers_what_a_frame_depends_on(codec: DacCodec) -> None:
    """The published 44.1 kHz decoder, and, by its gradient, the tiny one."""
    assert context_frames((8, 8, 4, 2)) == 10
    latents = torch.randn(1, 16, 80, requires_grad=True)
    wav = codec.model.decoder(
        sum(q.out_proj(part) for q, part in zip(codec.model.quantizer.quantizers, latents.split(4, dim=1), strict=True))
    )
    wav[..., 40 * 32 : 41 * 32].abs().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().sum((0, 1)).nonzero().flatten() - 40
    assert -codec.context <= reached.min()
    assert reached.max() <= codec.context
