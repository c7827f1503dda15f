"""CLAP, AST and MusicGen from random checkpoints on disk, in the layout they are published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import write_ast, write_clap, write_musicgen

from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation.published import Clap, MusicGen, Tagger, cosines, divergence

RATE = 24_000


def sound(seconds: float, seed: int = 0, channels: int = 1) -> Audio:
    random = np.random.default_rng(seed)
    notes = np.repeat(random.uniform(80, 2000, int(4 * seconds) + 1), RATE // 4)[: round(seconds * RATE)]
    wav = (0.4 * np.sin(2 * np.pi * np.cumsum(notes) / RATE)).astype(np.float32)
    return Audio(np.stack([wav] * channels), RATE)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def clap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clap:
    return Clap(write_clap(tmp_path_factory.mktemp("clap") / "tiny-clap", fusion=request.param))


def test_clap_gives_unit_vectors_that_depend_on_the_clip_alone(clap: Clap) -> None:
    one, other = sound(3, 0), sound(3, 1)
    vector = clap.hear(one)
    assert vector.shape == (16,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.random.seed(5)
    assert np.array_equal(clap.hear(one), vector)
    assert np.array_equal(clap.hear(sound(3, 0, channels=2)), vector)
    assert np.linalg.norm(clap.hear(other) - vector) > 1e-3


def test_clap_hears_the_first_ten_seconds(clap: Clap) -> None:
    long = sound(12)
    begin = Audio(long.samples[:, : 10 * RATE], RATE)
    # The resampling filter sees past the cut, a thousandth of a second of it.
    assert clap.hear(long) == pytest.approx(clap.hear(begin), abs=2e-3)
    assert clap.seconds == 10


def test_clap_agrees_with_transformers_own_batch(clap: Clap, tmp_path: Path) -> None:
    texts = ["slow piano", "loud drums , flute"]
    vectors = clap.read(texts)
    padded = clap._tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = clap._model.get_text_features(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]
        ).pooler_output
    assert vectors == pytest.approx(expected.numpy(), abs=1e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_clap_reads_long_prompts_whole_or_not_at_all(clap: Clap) -> None:
    assert clap.max_tokens == 88
    long = " ".join(["piano"] * 80)
    assert clap.longer_than_trained(["slow piano", long]) == 1
    assert np.linalg.norm(clap.read([long]) - clap.read([" ".join(["piano"] * 79 + ["drums"])])) > 1e-4
    with pytest.raises(UserError, match="100 tokens is over CLAP's limit of 88"):
        clap.read([" ".join(["piano"] * 98)])


def test_a_clap_without_all_its_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(write_clap(tmp_path / "clap"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["audio_projection.linear1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the model's tensors"):
        Clap(str(folder))


def test_pickled_weights_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        Clap(str(tmp_path / "nowhere"))
    folder = Path(write_clap(tmp_path / "clap"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin, which is a pickle"):
        Clap(str(folder))


def test_cosines_are_of_rows() -> None:
    assert cosines(np.array([[1, 0], [0, 2.0]]), np.array([[3, 0], [1, 1.0]])) == pytest.approx([1, 0.5**0.5])


def test_the_tagger_gives_distributions(tmp_path: Path) -> None:
    tagger = Tagger(write_ast(tmp_path / "ast"))
    first, second = tagger.hear(sound(2, 0)), tagger.hear(sound(2, 1))
    assert first.shape == (7,)
    assert first.sum() == pytest.approx(1)
    assert np.array_equal(tagger.hear(sound(2, 0)), first)
    assert divergence(first, first) == 0
    assert divergence(first, second) > 1e-6
    assert tagger.name.startswith("AST ast (")


def test_divergence_has_its_closed_form() -> None:
    assert divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    )


def test_musicgen_makes_clips_of_the_asked_length_from_their_seed(tmp_path: Path) -> None:
    peer = MusicGen(write_musicgen(tmp_path / "musicgen"))
    assert (peer.sample_rate, peer.frame_rate) == (3200, 50)
    clip = peer.generate("slow piano", 1.5, seed=3)
    assert clip.samples.shape == (1, 4800)
    before = torch.get_rng_state()
    again = peer.generate("slow piano", 1.5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(clip.samples, again.samples)
    assert not np.array_equal(clip.samples, peer.generate("slow piano", 1.5, seed=4).samples)
    with pytest.raises(UserError, match=r"makes 4.0 s at most, 5 were asked for"):
        peer.generate("slow piano", 5, seed=0)
