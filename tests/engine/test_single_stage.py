"""A single stage that writes three of the codec's four codebooks: fine latents are looked up, nothing is completed."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference_decoder import Decoder
from tiny_bundle import shared_single_stage

from ssmttm import storage
from ssmttm.audio import Audio
from ssmttm.bundle.load import load_bundle, read_model_id
from ssmttm.conditions.text import collate_text
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Finished, Piece, conditions_of
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.windows import Window, WindowRenderer
from ssmttm.errors import UserError

PROMPT = "calm piano"


@pytest.fixture(scope="module")
def single_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_single_stage(tmp_path_factory)


@pytest.fixture(scope="module")
def single(single_uri: str) -> Generator:
    return Generator.load(single_uri)


def codes_of(generator: Generator, prompts: list[str], seeds: list[int], frames: int) -> torch.Tensor:
    """What stage 1 writes [B, K, T] at the bundle's defaults."""
    text = collate_text(generator.bundle.text_encoder.encode(prompts))
    decoder = Decoder(generator.bundle.lm, text, seeds, MusicRequest("x").filled(generator.config).sampling)
    return torch.stack(list(decoder.frames(frames)), dim=2)


def piece_for(generator: Generator, frames: int) -> Piece:
    request = MusicRequest(PROMPT, seed=3).filled(generator.config)
    return Piece(request, conditions_of(generator.bundle, request, frames), frames)


def test_the_bundle_is_one_of_a_single_stage(single_uri: str, single: Generator) -> None:
    assert "stage2.safetensors" not in storage.list_files(single_uri)
    content = storage.read_json(storage.join(single_uri, "config.json"))
    assert "stage2" not in content
    assert "stage2" not in content["config"]
    assert content["config"]["generation"]["steps"] is None
    assert load_bundle(single_uri).completer is None
    assert single.model_id == read_model_id(single_uri)
    card = storage.read_text(storage.join(single_uri, "README.md"))
    assert "the first 3 of the codec's 4 codebooks" in card
    assert "There is no stage 2" in card
    assert "denoiser" not in card


def test_audio_is_the_codec_applied_to_all_codes_at_once(single: Generator) -> None:
    codec, hop = single.bundle.codec, single.bundle.codec.hop_length
    codes_BKT = codes_of(single, [PROMPT], [3], 125)
    assert codes_BKT.shape == (1, 3, 125)
    pieces = single.renderer.render(iter(codes_BKT.unbind(2)), [piece_for(single, 125)])
    with torch.inference_mode():
        assert torch.equal(torch.cat(list(pieces), dim=2), codec.decode_codes(codes_BKT))
    assert len(single.generate(PROMPT, 5.0, seed=3).samples[0]) == 125 * hop


def test_the_other_codebooks_are_heard(single: Generator) -> None:
    codec, codes_BKT = single.bundle.codec, codes_of(single, [PROMPT], [3], 20)
    fine_BDT = codec.fine_from_codes(codes_BKT)
    assert fine_BDT.abs().max() > 0
    assert not torch.equal(fine_BDT, codec.fine_from_codes(codes_BKT[:, :2]))


def test_streamed_as_whole_bit_for_bit(single: Generator) -> None:
    streamed = [piece.samples for piece in single.stream(PROMPT, 6.0, seed=3)]
    assert len(streamed) > 2
    whole = single.generate(PROMPT, 6.0, seed=3).samples
    assert np.array_equal(np.concatenate(streamed, axis=1), whole)
    assert not np.array_equal(whole, single.generate(PROMPT, 6.0, seed=4).samples)


def test_windows_change_nothing(single: Generator) -> None:
    """No frame asks for others, so portions of any size give the same bits."""
    bundle, codes_BKT = single.bundle, codes_of(single, [PROMPT], [3], 70)

    def made(**sizes: int) -> torch.Tensor:
        renderer = WindowRenderer(None, bundle.codec, single.config.model_copy(update=sizes))
        return torch.cat(list(renderer.render(iter(codes_BKT.unbind(2)), [piece_for(single, 70)])), dim=2)

    assert torch.equal(made(), made(window_frames=13, context_frames=0, first_frames=1))


def test_codes_are_taken_as_they_are_heard_and_forgotten(single: Generator) -> None:
    """Nothing is looked ahead for, and what is held does not grow."""
    taken = []

    def codes() -> Iterator[torch.Tensor]:
        for frame in range(1000):
            taken.append(frame)
            yield torch.full((1, 3), frame % 64)

    windows: list[Window] = []
    renderer = copy.copy(single.renderer)
    complete = renderer.complete
    renderer.complete = lambda these: (windows.extend(these), complete(these))[1]  # type: ignore[method-assign]
    pieces = renderer.render(codes(), [piece_for(single, 1000)])
    next(pieces)
    assert len(taken) == renderer.first_hop
    list(pieces)
    assert max(window.codes_BKT.shape[2] for window in windows) == renderer.hop
    assert max(window.context.frames for window in windows) == renderer.context


def test_together_as_alone(single: Generator) -> None:
    prompts, seeds = [PROMPT, "a fast techno track with a saw lead"], [5, 6]
    together = single.generate_batch(prompts, 3.0, seeds=seeds)
    for prompt, seed, clip in zip(prompts, seeds, together, strict=True):
        alone = single.generate(prompt, 3.0, seed=seed).samples
        assert np.abs(clip.samples - alone).mean() < 0.1 * np.abs(alone).mean()  # rounding, which phases amplify


def test_clips_in_slots_are_those_made_alone(single: Generator) -> None:
    expected = single.generate(PROMPT, 3.0, seed=3).samples
    with Generator(single.bundle, slots=2) as live:
        found = live.generate(PROMPT, 3.0, seed=3).samples
        with pytest.raises(UserError, match="no second stage"):
            live.stream(PROMPT, 1.0, steps=4)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()


def test_given_audio_is_continued(single: Generator) -> None:
    given = Audio(single.generate("a", 2.03, seed=5).samples, single.sample_rate)
    extended = single.extend(given, PROMPT, 2.0, seed=1)
    kept = 24_000 * 19 // 10
    assert extended.samples.shape == (1, round(4.03 * 24_000))
    assert np.array_equal(extended.samples[:, :kept], given.samples[:, :kept])
    assert np.array_equal(extended.samples, single.extend(given, PROMPT, 2.0, seed=1).samples)
    assert not np.array_equal(extended.samples, single.extend(given, PROMPT, 2.0, seed=2).samples)


def test_steps_are_refused_rather_than_ignored(single: Generator) -> None:
    for make in (single.stream, single.generate):
        with pytest.raises(UserError, match="steps is 4, but this model has no second stage to take them; leave steps"):
            make(PROMPT, 1.0, steps=4)


def test_finished_frames_stay_as_they_are(single: Generator) -> None:
    codes_BKT = codes_of(single, [PROMPT], [3], 20)
    context = Finished(codes_BKT[:, 0, :8], torch.randn(1, single.bundle.codec.fine_dim, 8))
    window = Window(context, codes_BKT[:, :, 8:], [piece_for(single, 20)], first_frame=8, owned=9)
    (done,) = single.renderer.complete([window])
    assert torch.equal(done.codes_BT, codes_BKT[:, 0, :17])
    assert torch.equal(done.fine_BDT[..., :8], context.fine_BDT)
    assert torch.equal(done.fine_BDT[..., 8:], single.bundle.codec.fine_from_codes(codes_BKT[:, :, 8:17]))
