"""A generator with slots: many clips at once, from prompt to sound."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmttm.audio import Audio
from ssmttm.bundle.load import load_bundle
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Finished
from ssmttm.engine.slot_engine import CancelledError, EngineClosedError, QueueFullError
from ssmttm.engine.windows import BATCH, Rendering, Window, WindowRenderer
from ssmttm.errors import UserError

PROMPTS = ("calm piano", "techno", "a slow waltz for strings and harp, in D major", "jazz")


def join(pieces: list) -> np.ndarray:
    return np.concatenate([piece.samples for piece in pieces], axis=1)


def test_together_as_alone_bit_for_bit(generator: Generator) -> None:
    """Random arrivals, mixed settings; whole or piece by piece."""
    random = np.random.default_rng(0)
    settings = [
        {
            "prompt": PROMPTS[i % 4],
            "seconds": 1.0 + i % 3,
            "seed": i,
            "guidance": (1.0, 2.0)[i % 2],
            "top_p": (1.0, 0.9)[i % 2],
        }
        for i in range(8)
    ]

    def make(live: Generator, number: int, delay: float) -> np.ndarray:
        time.sleep(delay)
        return join(list(live.stream(**settings[number])))

    with Generator(generator.bundle, slots=4, deterministic=True) as live, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: make(live, i, random.uniform(0, 0.2)), range(8)))
        alone = [make(live, number, 0) for number in range(8)]
    for number in range(8):
        assert together[number].shape == (1, round(settings[number]["seconds"] * 24_000))
        assert np.array_equal(together[number], alone[number])


def test_what_is_read_again_is_so_in_company_too(bundle_uri: str) -> None:
    bundle = load_bundle(bundle_uri)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in bundle.lm.parameters():  # or what went before would hardly matter
            parameter.add_(0.1 * torch.randn_like(parameter))

    def with_settings(**settings: int) -> Generator:
        generation = bundle.config.generation.model_copy(update={"first_frames": 16, "lookahead_frames": 4, **settings})
        return Generator(replace(bundle, config=bundle.config.model_copy(update={"generation": generation})))

    without = with_settings().generate(PROMPTS[0], 3.0, seed=3).samples
    generator = with_settings(reread_every=20, reread_frames=10)
    expected = [generator.generate(prompt, 3.0, seed=3).samples for prompt in PROMPTS[:2]]
    # Codes differ from frame 30 on, and the first window sees 20; phases are recovered over a longer stretch.
    assert np.allclose(expected[0][:, : 24_000 // 2], without[:, : 24_000 // 2], atol=1e-5)
    assert not np.allclose(expected[0], without, atol=1e-2)
    with Generator(generator.bundle, slots=2) as live:
        clips = [live.stream(prompt, 3.0, seed=3) for prompt in PROMPTS[:2]]
        for clip, whole in zip(clips, expected, strict=True):
            assert np.abs(join(list(clip)) - whole).max() < 1e-3


def test_a_clip_is_what_the_generator_makes(generator: Generator) -> None:
    expected = generator.generate(PROMPTS[0], 2.0, seed=3).samples
    with Generator(generator.bundle, slots=2) as live:
        clip = live.stream(PROMPTS[0], 2.0, seed=3)
        found = join(list(clip))
    assert clip.request.seed == 3
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()  # rounding, which phases amplify


def test_all_ways_go_through_the_slots(generator: Generator) -> None:
    given = Audio(generator.generate("a", 2.03, seed=5).samples, generator.sample_rate)
    with Generator(generator.bundle, slots=2) as live:
        batch = live.generate_batch(PROMPTS[:2], 1.0, seeds=[1, 2])
        extended = live.extend(given, PROMPTS[0], 1.0, seed=3).samples
        assert live.metrics().requests == 3
    for prompt, seed, clip in zip(PROMPTS[:2], (1, 2), batch, strict=True):
        expected = generator.generate(prompt, 1.0, seed=seed).samples
        assert np.abs(clip.samples - expected).mean() < 0.1 * np.abs(expected).mean()
    assert np.abs(extended - generator.extend(given, PROMPTS[0], 1.0, seed=3).samples).max() < 1e-3


def test_sound_comes_before_the_last_code(generator: Generator) -> None:
    with Generator(generator.bundle, slots=1) as live:
        clip = live.stream(PROMPTS[0], 600.0, seed=1)
        assert 0 < next(clip).seconds < 2
        assert live.metrics().in_use == 1
        assert next(clip).seconds > 0


def test_what_nobody_hears_is_cancelled(generator: Generator) -> None:
    with Generator(generator.bundle, slots=1) as live:
        clip = live.stream(PROMPTS[0], 600.0)
        next(clip)
        del clip
        gc.collect()
        assert len(list(live.stream(PROMPTS[1], 0.5))) == 1
        assert live.metrics().cancelled == 1


def test_ends_and_limits(generator: Generator) -> None:
    before = set(threading.enumerate())
    live = Generator(generator.bundle, slots=1, waiting=1)
    clips = [live.stream(prompt, 600.0) for prompt in PROMPTS[:2]]
    with pytest.raises(QueueFullError):
        live.stream(PROMPTS[2], 1.0)
    for arguments, message in (({"prompt": " "}, "empty"), ({"top_p": 0.0}, "top_p is 0"), ({"seconds": 601}, "601")):
        with pytest.raises(UserError, match=message):
            live.stream(**{"prompt": PROMPTS[0], "seconds": 1.0, **arguments})
    next(clips[0])
    clips[0].cancel()
    with pytest.raises(CancelledError):
        list(clips[0])
    live.close()
    with pytest.raises(EngineClosedError):
        list(clips[1])
    with pytest.raises(EngineClosedError):
        live.stream(PROMPTS[0], 1.0)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {"slot-engine", "window-pool"} & left


def test_windows_of_one_shape_are_rendered_together(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    complete = generator.renderer.complete

    def record(windows: Sequence[Window]) -> list[Finished]:
        deadline = time.monotonic() + 60
        while not sizes and len(live._pool._jobs) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # the first call lasts until the other clips' windows wait
        sizes.append(len(windows))
        return complete(windows)

    monkeypatch.setattr(WindowRenderer, "complete", lambda _, windows: record(windows))
    ready = threading.Barrier(4)

    def make(live: Generator, seed: int) -> np.ndarray:
        clip = live.stream(PROMPTS[0], 2.0, seed=seed)
        ready.wait()
        return join(list(clip))

    with Generator(generator.bundle, slots=4) as live, ThreadPoolExecutor(4) as pool:
        live._pool._batch = BATCH  # as on a GPU
        found = list(pool.map(lambda seed: make(live, seed), range(4)))
    assert max(sizes) > 1
    assert sum(sizes) == 8
    monkeypatch.undo()
    for seed, samples in enumerate(found):
        expected = generator.generate(PROMPTS[0], 2.0, seed=seed).samples
        assert np.abs(samples - expected).mean() < 0.1 * np.abs(expected).mean()


@torch.inference_mode()
def test_a_failing_window_fails_its_own_clip_alone(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    hear = Rendering.hear

    def fail_once(rendering: Rendering, done: object) -> torch.Tensor:
        monkeypatch.setattr(Rendering, "hear", hear)
        raise ArithmeticError("no sound")

    with Generator(generator.bundle, slots=2) as live:
        monkeypatch.setattr(Rendering, "hear", fail_once)
        with pytest.raises(ArithmeticError, match="no sound"):
            list(live.stream(PROMPTS[0], 1.0))
        assert live.stream(PROMPTS[1], 1.0).request.seed is not None
        assert join(list(live.stream(PROMPTS[1], 1.0))).shape == (1, 24_000)
