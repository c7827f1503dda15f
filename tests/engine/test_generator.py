from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.engine.continuation import CEILING, KNEE, soft_limit
from ssmttm.engine.generator import Generator
from ssmttm.engine.request import MusicRequest
from ssmttm.errors import UserError

PROMPT = "calm piano in a minor key, slow"


def test_generate_is_the_concatenation_of_stream(generator: Generator) -> None:
    pieces = list(generator.stream(PROMPT, 6.0, seed=1))
    assert len(pieces) > 1
    assert {piece.sample_rate for piece in pieces} == {24_000}
    whole = generator.generate(PROMPT, 6.0, seed=1)
    assert whole.samples.dtype == np.float32
    assert np.array_equal(whole.samples, np.concatenate([piece.samples for piece in pieces], axis=1))


def test_a_request_is_taken_as_its_fields_are(generator: Generator) -> None:
    request = MusicRequest(PROMPT, 1.0, guidance=1.5)
    stream = generator.stream(request)
    seed = stream.request.seed
    assert (stream.request.guidance, stream.request.top_k) == (1.5, generator.config.top_k)
    whole = np.concatenate([piece.samples for piece in stream], axis=1)
    assert np.array_equal(whole, generator.generate(PROMPT, 1.0, seed, 1.5).samples)
    with pytest.raises(TypeError, match="give no others beside it"):
        generator.generate(request, 1.0)
    with pytest.raises(TypeError, match="tempo"):
        generator.generate(PROMPT, tempo=90)


def test_seeds_reproduce_and_differ(generator: Generator) -> None:
    first = generator.generate(PROMPT, 2.0, seed=1).samples
    assert np.array_equal(first, generator.generate(PROMPT, 2.0, seed=1).samples)
    assert not np.allclose(first, generator.generate(PROMPT, 2.0, seed=2).samples)
    assert not np.allclose(first, generator.generate("fast rock with drums", 2.0, seed=1).samples)


def test_streams_may_interleave(generator: Generator) -> None:
    alone = [list(generator.stream(PROMPT, 6.0, seed=seed)) for seed in (1, 2)]
    together = list(zip(generator.stream(PROMPT, 6.0, seed=1), generator.stream(PROMPT, 6.0, seed=2), strict=True))
    for number, pair in enumerate(together):
        for row in range(2):
            assert np.array_equal(pair[row].samples, alone[row][number].samples)
    assert not torch.is_inference_mode_enabled()


def test_threads_share_one_generator(generator: Generator) -> None:
    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(lambda seed: generator.generate(PROMPT, 1.0, seed=seed), (1, 2, 1, 2)))
    assert np.array_equal(clips[0].samples, clips[2].samples)
    assert np.array_equal(clips[1].samples, clips[3].samples)


def test_a_batch_gives_what_single_clips_are(generator: Generator) -> None:
    """The same codes, and so the same sound to the last bit: company changes neither windows nor phases."""
    prompts = [PROMPT, "techno", "a slow waltz for strings and harp, in D major, without any drums at all"]
    batch = generator.generate_batch(prompts, 3.0, seeds=[1, np.int64(2), 3])
    for clip, prompt, seed in zip(batch, prompts, (1, 2, 3), strict=True):
        assert np.array_equal(clip.samples, generator.generate(prompt, 3.0, seed=seed).samples)


@pytest.mark.slow
def test_a_batch_of_the_packages_model_gives_what_single_clips_are() -> None:
    generator = Generator.load()
    prompts = [f"{genre}, {tempo} bpm" for genre in ("calm piano", "techno", "jazz trio") for tempo in (70, 120)]
    batch = generator.generate_batch(prompts, 4.0, seeds=range(6))
    for seed, (clip, prompt) in enumerate(zip(batch, prompts, strict=True)):
        assert np.array_equal(clip.samples, generator.generate(prompt, 4.0, seed=seed).samples)


def test_batches_check_their_input(generator: Generator) -> None:
    assert generator.generate_batch([]) == []
    assert len(generator.generate_batch(["a", "b"], 0.5)) == 2
    with pytest.raises(UserError, match="2 prompts came with 1 seeds"):
        generator.generate_batch(["a", "b"], 0.5, seeds=[1])
    with pytest.raises(TypeError, match="not one string"):
        generator.generate_batch("techno", 0.5)


@pytest.mark.parametrize("seconds", [1e-6, 0.01, 0.04, 1.2345, 2.56, 5.13])
def test_length_is_exact_and_peak_below_one(generator: Generator, seconds: float) -> None:
    samples = generator.generate(PROMPT, seconds, seed=1).samples
    assert samples.shape == (1, max(round(seconds * 24_000), 1))
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= CEILING


def test_the_first_audio_comes_before_the_last_code(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    step = generator.bundle.lm.step
    monkeypatch.setattr(generator.bundle.lm, "step", lambda *args: (steps.append(1), step(*args))[1])
    next(generator.stream(PROMPT, 60.0, seed=1))
    config = generator.config
    assert len(steps) <= config.window_frames - config.context_frames + 2


def test_a_limit_bends_but_never_clips() -> None:
    loud = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    bent = soft_limit(loud)
    assert torch.equal(bent[loud.abs() <= KNEE], loud[loud.abs() <= KNEE])
    assert float(bent.abs().max()) <= CEILING
    assert (bent.diff() >= 0).all()
    slope = bent.diff() / loud.diff()
    assert float(slope.diff().abs().max()) < 0.02  # no corner at the knee


def test_extend_keeps_what_was_given(generator: Generator) -> None:
    given = generator.generate(PROMPT, 3.017, seed=1)
    longer = generator.extend(given, PROMPT, 2.0, seed=2)
    assert longer.samples.shape == (1, given.samples.shape[1] + 48_000)
    kept = int(3.0 * 24_000) - 2400  # whole frames, less the join
    assert np.array_equal(longer.samples[:, :kept], given.samples[:, :kept])
    assert np.array_equal(longer.samples, generator.extend(given, PROMPT, 2.0, seed=2).samples)
    assert np.abs(longer.samples[:, -24_000:]).max() > 0.01


def test_extend_reads_other_rates_and_channels(generator: Generator) -> None:
    time = np.arange(44_100) / 44_100
    stereo = Audio(0.3 * np.sin(2 * np.pi * 440 * np.stack([time, time])).astype(np.float32), 44_100)
    assert generator.extend(stereo, PROMPT, 1.0, seed=1).samples.shape == (1, 48_000)


def test_extend_takes_samples_of_any_library(generator: Generator) -> None:
    given = 0.3 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    longer = generator.extend(Audio(given.astype(np.float32)[None], 24_000), PROMPT, 0.5, seed=1).samples
    for same in (given.astype(np.float32), torch.from_numpy(given)[None], given):
        assert np.array_equal(generator.extend(Audio(same, np.int64(24_000)), PROMPT, 0.5, seed=1).samples, longer)
    sixteen = generator.extend(Audio(np.rint(given * 32768).astype(np.int16), 24_000), PROMPT, 0.5, seed=1).samples
    assert np.abs(sixteen - longer)[:, : 24_000 - 2400].max() < 1e-4  # what was given


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((24_000, 2), np.float32), 24_000, "audio has 24000 channels of 2 samples"),
        (np.full((1, 24_000), np.nan), 24_000, "audio holds samples that are not finite"),
        (np.full((1, 24_000), 12_000.0), 24_000, "audio reaches 12000"),
        (np.zeros((1, 24_000), np.int64), 24_000, "audio has samples of type int64"),
        (np.zeros((1, 24_000), np.float32), 0, "audio has a sample rate of 0"),
        (np.zeros((1, 0), np.float32), 24_000, "too short"),
        (np.zeros(0), 24_000, "too short"),
        ("take.wav", 24_000, "audio has samples of shape"),
    ],
)
def test_extend_refuses_what_is_no_sound(generator: Generator, samples: object, rate: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        generator.extend(Audio(samples, rate), PROMPT, 1.0)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_extend_refuses_what_it_cannot_continue(generator: Generator) -> None:
    with pytest.raises(UserError, match="too short"):
        generator.extend(Audio(np.zeros((1, 100), np.float32), 24_000), PROMPT, 1.0)
    with pytest.raises(UserError, match="over the limit of 600"):
        generator.extend(Audio(np.zeros((1, 24_000 * 5), np.float32), 24_000), PROMPT, 597.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t"}, "prompt is empty"),
        ({"prompt": "x" * 1001}, "1001 characters"),
        ({"prompt": "wah " * 200}, "tokens"),
        ({"prompt": "\ud800"}, "Unicode"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": math.inf}, "seconds is inf"),
        ({"seconds": 601}, "up to 600"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number"),
        ({"seed": True}, "seed is True; give a whole number"),
        ({"prompt": None}, "the prompt is of type NoneType; give text"),
        ({"guidance": -0.1}, "guidance is -0.1"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": 1e9}, "temperature is"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps is 1000"),
        ({"controls": {"beat": 1}}, "controls.beat"),
    ],
)
def test_mistakes_are_named_at_once(generator: Generator, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        generator.stream(**{"prompt": PROMPT, "seconds": 1.0, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_files_are_marked_and_reproducible(generator: Generator, tmp_path: Path, extension: str) -> None:
    prompt = "flûte légère\nand drums"
    clip = generator.generate(prompt, 1.0, seed=9)
    uris = [str(tmp_path / f"{name}.{extension}") for name in ("first", "second")]
    for uri in uris:
        generator.save(uri, clip, prompt, 9)
    metadata = audio.read_metadata(uris[0])
    assert metadata["ai_generated"] is True
    assert metadata["model"] == generator.model_id
    assert (metadata["prompt"], metadata["seed"]) == (prompt, 9)
    assert metadata["software"].startswith("ssmttm ")
    assert Path(uris[0]).read_bytes() == Path(uris[1]).read_bytes()
    decoded = audio.read(uris[0])
    assert decoded.sample_rate == 24_000
    assert abs(decoded.seconds - 1.0) < 0.01


def test_files_may_be_paths_and_seeds_numbers_of_numpy(generator: Generator, tmp_path: Path) -> None:
    clip = Audio(np.zeros((1, 2400), np.float32), 24_000)
    generator.save(tmp_path / "a.wav", clip, PROMPT, np.int64(9))  # type: ignore[arg-type]
    assert audio.read_metadata(tmp_path / "a.wav")["seed"] == 9
    for seed in (1.5, True, -1, None):
        with pytest.raises(UserError, match=f"seed is {seed}; give a whole number"):
            generator.save(tmp_path / "b.wav", clip, PROMPT, seed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="audio has samples of type int64"):
        generator.save(tmp_path / "b.wav", Audio(np.zeros(9, np.int64), 24_000), PROMPT, 1)
    with pytest.raises(UserError, match="a part of its path is a file"):
        generator.save(tmp_path / "a.wav" / "b.wav", clip, PROMPT, 1)
    assert [*tmp_path.iterdir()] == [tmp_path / "a.wav"]


def test_another_format_is_refused(generator: Generator, tmp_path: Path) -> None:
    clip = Audio(np.zeros((1, 100), np.float32), 24_000)
    with pytest.raises(UserError, match=r"cannot write .*x\.aiff; end its name in one of"):
        generator.save(str(tmp_path / "x.aiff"), clip, PROMPT, 1)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_weights_generate_and_stay_reproducible(bundle_uri: str, precision: str) -> None:
    narrow = Generator.load(bundle_uri, precision=precision)
    held, full = (
        sum(t.nbytes for t in g.bundle.lm.blocks.state_dict().values()) for g in (narrow, Generator.load(bundle_uri))
    )
    assert held < 0.7 * full
    first, second = (narrow.generate("calm piano", 1.0, seed=1).samples for _ in range(2))
    assert (first == second).all()
    assert np.abs(first).max() > 1e-3


def test_unknown_precision_is_an_error(bundle_uri: str) -> None:
    with pytest.raises(UserError, match="precision is 'int4'; give one of: fp32, bf16, int8"):
        Generator.load(bundle_uri, precision="int4")


def test_positions_refuse_longer_pieces_at_once(bundle_uri: str) -> None:
    generator = Generator.load(bundle_uri)
    lm = generator.bundle.lm
    lm.config = lm.config.model_copy(update={"max_frames": 30})
    with pytest.raises(UserError, match=r"longer than this model's positions are made for \(30\)"):
        generator.stream("calm piano", 2.0)
    clip = generator.generate("calm piano", 1.0, seed=1)
    with pytest.raises(UserError, match="positions are made for"):
        generator.extend(clip, "calm piano", 1.0)
    generator.config = generator.config.model_copy(update={"reread_every": 20, "reread_frames": 10})
    assert generator.generate("calm piano", 2.0, seed=1).seconds == 2
    assert generator.extend(clip, "calm piano", 1.0).seconds == 2
