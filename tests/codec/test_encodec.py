"""The EnCodec adapter against transformers' own `EncodecModel`, on tiny random checkpoints in the published layout."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import write_encodec

from ssmttm.codec import EncodecCodec, load_codec, save_codec
from ssmttm.codec.blocks import BLOCK_FRAMES
from ssmttm.codec.encodec import LSTM_FRAMES, context_frames
from ssmttm.errors import UserError

COMMON = {"hidden_size": 16, "num_filters": 4, "codebook_size": 32}
# As the two published models differ: sampling rate, bandwidths, padding, the residual blocks' shortcut.
VARIANTS: dict[str, dict[str, Any]] = {
    "24khz": {**COMMON, "upsampling_ratios": [5, 4, 2], "sampling_rate": 24_000, "target_bandwidths": [6.0, 12.0]},
    "32khz": {
        **COMMON,
        "upsampling_ratios": [4, 5, 2],
        "sampling_rate": 32_000,
        "target_bandwidths": [16.0],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
    },
}
HOP = 40


@pytest.fixture(scope="module", params=list(VARIANTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_encodec(tmp_path_factory.mktemp("encodec"), **VARIANTS[request.param])


@pytest.fixture(scope="module")
def codec(folder: str) -> EncodecCodec:
    loaded = load_codec(folder)
    assert isinstance(loaded, EncodecCodec)
    return loaded


@pytest.fixture(scope="module")
def published(folder: str):
    from transformers import EncodecModel

    return EncodecModel.from_pretrained(folder).eval()


def audio(samples: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def random_codes(frames: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 32, (batch, 4, frames), generator=torch.Generator().manual_seed(frames))


def published_codes(published, wav: torch.Tensor) -> torch.Tensor:
    return published.encode(wav, bandwidth=published.config.target_bandwidths[-1]).audio_codes[0]


def published_audio(published, codes: torch.Tensor) -> torch.Tensor:
    return published.decode(codes[None], [None]).audio_values


def test_sizes(codec: EncodecCodec) -> None:
    assert (codec.hop_length, codec.frame_rate) == (HOP, codec.sample_rate / HOP)
    assert (codec.num_codebooks, codec.codebook_size, codec.coarse_dim, codec.fine_dim) == (4, 32, 16, 16)


@torch.no_grad()
def test_codes_and_latents_are_those_of_the_published_model(codec: EncodecCodec, published) -> None:
    wav = audio(HOP * 100)
    codes, fine = codec.encode_with_latents(wav)
    assert torch.equal(codes, published_codes(published, wav))
    embedding = published.encoder(wav)
    books = [layer.codebook.embed for layer in published.quantizer.layers]
    coarse = books[0][codes[:, 0]].mT
    torch.testing.assert_close(codec.coarse(codes[:, 0]), coarse)
    torch.testing.assert_close(fine, embedding - coarse)
    torch.testing.assert_close(codec.fine(wav, codes), fine)
    entries = sum(book[codes[:, index]].mT for index, book in enumerate(books) if index)
    torch.testing.assert_close(codec.fine_from_codes(codes), entries)
    torch.testing.assert_close(codec.decode(coarse, fine), published.decoder(embedding), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5, 20, BLOCK_FRAMES, BLOCK_FRAMES + 1, 3 * BLOCK_FRAMES + 7])
@torch.no_grad()
def test_decoding_is_that_of_the_published_model(codec: EncodecCodec, published, frames: int) -> None:
    codes = random_codes(frames)
    expected = published_audio(published, codes)
    torch.testing.assert_close(codec.decode_codes(codes), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_latents_through_the_quantiser_sound_like_their_codes(codec: EncodecCodec, published) -> None:
    wav = audio(HOP * 90)
    codes, fine = codec.encode_with_latents(wav)
    residual, quantised = fine, torch.zeros_like(fine)
    for layer in published.quantizer.layers[1:]:
        entry = layer.decode(layer.encode(residual))
        residual, quantised = residual - entry, quantised + entry
    decoded = codec.decode(codec.coarse(codes[:, 0]), quantised)
    expected = published_audio(published, published_codes(published, wav))
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


@given(cuts=st.lists(st.integers(0, 150), max_size=6))
@settings(max_examples=30, deadline=None)
def test_chunks_are_the_whole_bit_for_bit(codec: EncodecCodec, cuts: list[int]) -> None:
    codes = random_codes(150)
    coarse, fine = codec.coarse(codes[:, 0]), codec.fine_from_codes(codes)
    bounds = [0, *sorted(cuts), 150]
    state, pieces = None, []
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        final = index == len(bounds) - 2
        wav, state = codec.decode_chunk(coarse[..., start:end], fine[..., start:end], state, final)
        pieces.append(wav)
    assert torch.equal(torch.cat(pieces, -1), codec.decode(coarse, fine))


def test_a_stream_holds_a_bounded_state_and_is_heard_as_it_comes(codec: EncodecCodec) -> None:
    """Frame by frame: what is kept does not grow, and audio lags by little more than a block."""
    codes = random_codes(5 * BLOCK_FRAMES, batch=1)
    coarse, fine = codec.coarse(codes[:, 0]), codec.fine_from_codes(codes)
    state, heard = None, 0
    limit = BLOCK_FRAMES + sum(codec.context) + sum(codec.first_context)
    for frame in range(codes.shape[2]):
        wav, state = codec.decode_chunk(coarse[..., frame : frame + 1], fine[..., frame : frame + 1], state)
        heard += wav.shape[2] // HOP
        assert state.latents.waiting_BDT.shape[2] <= limit
        assert state.hidden is not None
        assert state.hidden.waiting_BDT.shape[2] <= limit
        assert frame + 1 - heard <= BLOCK_FRAMES + LSTM_FRAMES + codec.context[1] + codec.first_context[1]


@torch.no_grad()
def test_a_batch_mate_changes_nothing_but_rounding(codec: EncodecCodec) -> None:
    codes = random_codes(100)
    torch.testing.assert_close(codec.decode_codes(codes[:1]), codec.decode_codes(codes)[:1], rtol=1e-4, atol=1e-5)


def test_a_ragged_end_is_padded_to_whole_frames(codec: EncodecCodec) -> None:
    assert codec.encode(audio(HOP * 9 + 1)).shape[-1] == 10


def test_saved_and_loaded_it_is_the_same_codec(codec: EncodecCodec, tmp_path: Path) -> None:
    save_codec(codec, str(tmp_path))
    again = load_codec(str(tmp_path))
    assert again.fingerprint() == codec.fingerprint()
    codes = random_codes(5)
    assert torch.equal(again.decode_codes(codes), codec.decode_codes(codes))


def test_the_fingerprint_is_that_of_what_is_computed(folder: str, codec: EncodecCodec, tmp_path: Path) -> None:
    """Loaded twice it is the same; another weight, or the same weights used otherwise, make another codec."""
    assert load_codec(folder).fingerprint() == codec.fingerprint()
    weights = safetensors.torch.load_file(Path(folder, "model.safetensors"))
    config = json.loads(Path(folder, "config.json").read_text())
    found = {codec.fingerprint()}
    for change in ({}, {"pad_mode": "constant"}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        changed = {**weights} if change else {**weights, "decoder.layers.0.conv.bias": torch.ones(32)}
        safetensors.torch.save_file(changed, tmp_path / "model.safetensors")
        found.add(load_codec(str(tmp_path)).fingerprint())
    assert len(found) == 3


@torch.no_grad()
def test_the_older_names_of_normalised_weights_are_read(folder: str, codec: EncodecCodec, tmp_path: Path) -> None:
    """The files on the hub were written when the two factors were called weight_g and weight_v."""
    weights = safetensors.torch.load_file(Path(folder, "model.safetensors"))
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weight
        for name, weight in weights.items()
    }
    assert set(older) != set(weights)
    safetensors.torch.save_file(older, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(Path(folder, "config.json").read_text())
    assert load_codec(str(tmp_path)).fingerprint() == codec.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize": True}, "normalize=True is not supported"),
        ({"audio_channels": 2}, "audio_channels=2 is not supported; take the 24 kHz or the 32 kHz checkpoint"),
        ({"chunk_length_s": 1.0, "overlap": 0.01}, "chunk_length_s=1.0 is not supported"),
        ({"norm_type": "time_group_norm", "use_causal_conv": False}, "norm_type=time_group_norm is not supported"),
    ],
)
def test_the_48_khz_variant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_encodec(tmp_path, **{**VARIANTS["24khz"], **changes})
    with pytest.raises(UserError, match=message) as refused:
        load_codec(folder)
    assert folder in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_causal_conv": False},
        {"trim_right_ratio": 0.5},
        {"num_residual_layers": 2, "residual_kernel_size": 5},
        {"upsampling_ratios": [5, 3], "last_kernel_size": 9, "pad_mode": "constant"},
    ],
)
def test_context_covers_what_a_frame_depends_on(changes: dict[str, Any]) -> None:
    """By the gradient of a frame's audio, seen from the LSTM's output."""
    from transformers import EncodecConfig

    torch.manual_seed(0)
    codec = EncodecCodec(EncodecConfig(**{**VARIANTS["24khz"], **changes})).eval()
    hidden = torch.randn(1, codec.hidden_dim, 80, requires_grad=True)
    wav = hidden
    for layer in codec.model.decoder.layers[2:]:
        wav = layer(wav)
    wav[..., 40 * codec.hop_length : 41 * codec.hop_length].abs().sum().backward()
    assert hidden.grad is not None
    reached = hidden.grad.abs().sum((0, 1)).nonzero().flatten() - 40
    before, after = codec.context
    assert before - 1 <= -reached.min() <= before  # where a block begins between two steps of a layer, one is to spare
    assert after - 1 <= reached.max() <= after


def test_context_at_the_published_sizes() -> None:
    from transformers import EncodecConfig

    assert context_frames(EncodecConfig()) == (2, 0)
    assert context_frames(EncodecConfig(upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False)) == (2, 2)
