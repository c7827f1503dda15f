"""What is fitted, made and served is the same on machines with any number of cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from tiny_bundle import tones, write_tiny_bundle

from ssmttm import config
from ssmttm.bundle.load import read_model_id
from ssmttm.codec.mini import MiniCodec
from ssmttm.engine.generator import Generator
from ssmttm.hardware import torch_threads

NUMBERS = (1, 2, 4)
Result = TypeVar("Result")


def under_each(make: Callable[[], Result]) -> list[Result]:
    results = []
    for number in NUMBERS:
        with torch_threads(number):
            results.append(make())
            assert torch.get_num_threads() == number
    return results


def test_the_number_is_put_back() -> None:
    @torch_threads(3)
    def fail() -> None:
        assert torch.get_num_threads() == 3
        raise ZeroDivisionError

    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == before


def test_a_codec_is_the_same() -> None:
    """At full size: fewer mel bands are not split among threads."""
    settings = config.load("mini", ["codec.codebook_size=64", "codec.num_codebooks=2"]).codec
    clips = tones(8, 3.0, settings.sample_rate)

    def fitted() -> MiniCodec:
        codec = MiniCodec(settings)
        codec.fit(clips, seed=0, progress=False)
        return codec.eval()

    one, *others = under_each(fitted)
    for other in others:
        assert other.fingerprint() == one.fingerprint()
        assert torch.equal(other.inverse_ML, one.inverse_ML)


@pytest.mark.parametrize("overrides", [(), ("codec.vocoder=neural",)])
def test_a_bundle_is_the_same_and_so_are_its_clips(overrides: tuple[str, ...], tmp_path: Path) -> None:
    numbers = iter(NUMBERS)
    uris = under_each(lambda: write_tiny_bundle(str(tmp_path / str(next(numbers))), *overrides))
    assert len({read_model_id(uri) for uri in uris}) == 1
    generator = Generator.load(uris[0])
    one, *others = under_each(lambda: generator.generate("techno", 2.0, seed=3))
    assert all(np.array_equal(other.samples, one.samples) for other in others)
    longer = under_each(lambda: generator.extend(one, "techno", 1.0, seed=3))
    assert all(np.array_equal(other.samples, longer[0].samples) for other in longer)


def test_whoever_takes_pieces_keeps_their_own_number(generator: Generator) -> None:
    with torch_threads(2):
        for _ in generator.stream("techno", 2.0, seed=3):
            assert torch.get_num_threads() == 2


def test_clips_of_the_packaged_model_are_the_same() -> None:
    def made() -> list[np.ndarray]:
        generator = Generator.load(device="cpu")
        clips = [generator.generate("calm solo piano", 1.0, seed=2)]
        clips += generator.generate_batch(["techno", "rock with guitars", "jazz"], 1.0, [1, 2, 3])
        return [clip.samples for clip in clips]

    one, *others = under_each(made)
    for other in others:
        assert all(np.array_equal(*pair) for pair in zip(other, one, strict=True))


def test_a_deterministic_engine_gives_the_same_clip() -> None:
    bundle = Generator.load(device="cpu").bundle

    def made() -> np.ndarray:
        with Generator(bundle, slots=2, deterministic=True) as engine:
            return engine.generate("techno", 1.0, seed=3).samples

    one, *others = under_each(made)
    assert all(np.array_equal(other, one) for other in others)
