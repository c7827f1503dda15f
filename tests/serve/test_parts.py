"""Language model and renderer over a bundle, in this process: what comes out, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
import soundfile
from serving import EXTENSIONS, URL, call
from tiny_bundle import shared_single_stage

from serve import wire
from serve.api import make_api
from serve.language_model import LanguageModel
from serve.renderer import Renderer, lasting_codes
from serve.service import Service
from serve.wire import ATTEMPTS, Began, LostError, Refusal
from ssmttm.audio import Audio
from ssmttm.bundle.load import read_model_id
from ssmttm.conditions.text import collate_text
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest

PROMPT = "calm piano in a minor key, slow"


@contextmanager
def parts_of(bundle: str, slots: int) -> Iterator[Service]:
    """Both parts in this process."""
    language_model = LanguageModel(bundle, slots, waiting=2)
    renderer = Renderer(bundle, language_model, slots + 2)
    yield Service(language_model, renderer)
    language_model.close()
    renderer.close()


@pytest.fixture(scope="module")
def service(bundle_uri: str) -> Iterator[Service]:
    with parts_of(bundle_uri, slots=3) as service:
        yield service


@pytest.fixture(scope="module")
def generator(bundle_uri: str) -> Generator:
    return Generator.load(bundle_uri)


def made(service: Service, *requests: MusicRequest) -> list[np.ndarray]:
    """All samples of each, made together."""

    async def one(request: MusicRequest) -> np.ndarray:
        pieces = []
        async for event in service.stream(request):
            assert not isinstance(event, Refusal), event
            if isinstance(event, Began):
                expected = event.samples
            else:
                pieces.append(event)
        samples = np.concatenate(pieces)
        assert len(samples) == expected
        return samples

    async def go() -> list[np.ndarray]:
        return await asyncio.gather(*map(one, requests))

    return asyncio.run(go())


def test_clips_are_those_of_the_library(service: Service, generator: Generator) -> None:
    settings = {"guidance": 2.0, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "steps": 2}
    requests = [MusicRequest(PROMPT, 5.0, 1), MusicRequest("upbeat funk", 1.0, 2, **settings)]
    for samples, request in zip(made(service, *requests), requests, strict=True):
        expected = generator.generate(request).samples[0]
        assert np.abs(samples - expected).max() < 1e-3  # rounding: they were made in company


def test_continued_audio_is_that_of_the_library(service: Service, generator: Generator) -> None:
    given = Audio(generator.generate("a", 2.03, 5).samples, generator.sample_rate)
    (samples,) = made(service, MusicRequest(PROMPT, 3.0, 1, audio=given))
    expected = generator.extend(given, PROMPT, 3.0, seed=1).samples[0]
    assert np.abs(samples - expected).max() < 1e-3
    assert np.array_equal(samples[: 24_000 * 19 // 10], given.samples[0, : 24_000 * 19 // 10])


def test_a_single_stage_is_served_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = shared_single_stage(tmp_path_factory)
    generator = Generator.load(uri)
    given = Audio(generator.generate("a", 2.03, 5).samples, generator.sample_rate)
    requests = [
        MusicRequest(PROMPT, 5.0, 1),
        MusicRequest("upbeat funk", 1.0, 2),
        MusicRequest(PROMPT, 2.0, 1, audio=given),
    ]
    with parts_of(uri, slots=2) as service:
        for samples, request in zip(made(service, *requests), requests, strict=True):
            assert np.abs(samples - generator.generate(request).samples[0]).max() < 1e-3
        api = make_api(service)
        asked = {"prompt": PROMPT, "seconds": 1, "seed": 1}
        assert call(api, "POST", URL, json=asked).status_code == 200
        for wrong, said in (({"steps": 4}, "no second stage"), ({"controls": {"beat": 1}}, "controls.beat")):
            refused = call(api, "POST", URL, json={**asked, **wrong})
            assert refused.status_code == 400
            assert said in refused.text
        (model,) = call(api, "GET", "/v1/models").json()["data"]
        assert model["defaults"]["steps"] is None
        assert model["defaults"]["guidance"] > 0


def test_limits_of_the_model_are_one_line(service: Service) -> None:
    requests = {
        "seconds is 10000": MusicRequest(PROMPT, 10_000, 1),
        "2000 characters": MusicRequest("x" * 2000, 1, 1),
        "tokens is over the limit": MusicRequest("na " * 200, 1, 1),
        "the prompt is empty": MusicRequest(" ", 1, 1),
        "too short to be continued": MusicRequest(PROMPT, 1, 1, audio=Audio(np.zeros((1, 10), np.float32), 24_000)),
    }

    async def first(request: MusicRequest) -> object:
        return await anext(service.stream(request))

    for said, request in requests.items():
        event = asyncio.run(first(request))
        assert isinstance(event, Refusal)
        assert event.status == 400
        assert said in event.message
        if request.audio is None:
            assert asyncio.run(service.check(request)) == event


def test_more_than_may_wait_are_refused_and_those_who_leave_make_room(service: Service) -> None:
    async def go() -> None:
        streams = [service.stream(MusicRequest(PROMPT, 600.0, seed)) for seed in range(5)]
        firsts = [asyncio.create_task(anext(stream)) for stream in streams]
        async with asyncio.timeout(60):
            while sum([(await service.counters())[0][name] for name in ("in_use", "waiting")]) < 5:
                await asyncio.sleep(0.01)
            refused = await anext(service.stream(MusicRequest(PROMPT, 1.0, 9)))
            assert isinstance(refused, Refusal)
            assert (refused.status, refused.retry_after_s) == (429, 5)
            for first in firsts:
                first.cancel()
            await asyncio.wait(firsts)
            for stream in streams:
                await stream.aclose()
            while any([(await service.counters())[0][name] for name in ("in_use", "waiting")]):
                await asyncio.sleep(0.01)

    asyncio.run(go())


def test_over_the_api(service: Service, bundle_uri: str) -> None:
    api = make_api(service)
    answer = call(api, "POST", URL, json={"prompt": PROMPT, "seconds": 1, "seed": 1, "stream": True})
    assert answer.status_code == 200
    assert answer.headers["x-model"] == read_model_id(bundle_uri)
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(samples), rate) == (24_000, 24_000)
    files = {"audio": ("a.wav", answer.content)}
    longer = call(api, "POST", EXTENSIONS, data={"prompt": PROMPT, "seconds": "1"}, files=files)
    assert longer.status_code == 200
    assert len(soundfile.read(io.BytesIO(longer.content))[0]) == 48_000
    assert "ssmttm_engine_in_use 0.0" in call(api, "GET", "/metrics").text


class Mortal:
    """A language model whose replicas die after so many messages; the last one lives.

    Codes count up, so that each frame is known.
    """

    def __init__(self, *lives: int):
        self.lives: list[int] = list(lives)
        self.primers: list[np.ndarray | None] = []

    async def codes(
        self, request: MusicRequest, frames: int, portions: tuple[int, ...], primer_KT: np.ndarray | None
    ) -> AsyncGenerator[np.ndarray | Refusal]:
        self.primers.append(primer_KT)
        left = self.lives.pop(0) if self.lives else 1000
        first = 0 if primer_KT is None else primer_KT.shape[1]
        codes_1T, ends = first + np.arange(frames)[None], [0]
        for portion in chain(portions, repeat(portions[-1])):
            if ends[-1] >= frames:
                break
            ends.append(ends[-1] + portion)
        for message in np.split(codes_1T, ends[1:-1], axis=1):
            if not left:
                raise LostError("gone")
            left -= 1
            yield message
        if not left:
            raise LostError("gone")


def codes_from(
    writer: Mortal, primer_KT: np.ndarray | None = None, frames: int = 5, portions: tuple[int, ...] = (1,)
) -> list[np.ndarray]:
    async def go() -> list[np.ndarray]:
        piece = Piece(MusicRequest("x"), collate_text([np.zeros((1, 2))]), frames, primer_KT)
        return [codes_KT async for codes_KT in lasting_codes(writer, piece, portions)]

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAUSE_S", 0.001)


@pytest.mark.parametrize("lives", [(), (0,), (1,), (3,), (5,), (0, 0), (3, 0), (3, 1), (3, 2), (1, 1, 1)])
def test_lost_language_models_are_continued_by_others(lives: tuple[int, ...]) -> None:
    codes = codes_from(Mortal(*lives))
    assert np.concatenate(codes, axis=1).tolist() == [[0, 1, 2, 3, 4]]


def test_what_was_given_is_given_to_the_next_one_too() -> None:
    writer = Mortal(2)
    codes = codes_from(writer, np.array([[0, 1]]))
    assert np.concatenate(codes, axis=1).tolist() == [[2, 3, 4, 5, 6]]
    assert writer.primers[1] is not None
    assert writer.primers[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("lives", [(), (1,), (2,), (1, 1), (3,), (3, 1)])
def test_codes_come_in_the_portions_asked_for_whoever_writes_them(lives: tuple[int, ...]) -> None:
    codes = codes_from(Mortal(*lives), frames=12, portions=(3, 2, 4))
    assert [len(part[0]) for part in codes] == [3, 2, 4, 3]
    assert np.concatenate(codes, axis=1).tolist() == [list(range(12))]


def test_in_the_end_it_is_given_up() -> None:
    with pytest.raises(LostError):
        codes_from(Mortal(*[0] * ATTEMPTS))


def test_a_clip_sounds_the_same_when_its_language_model_dies(
    service: Service, bundle_uri: str, generator: Generator
) -> None:
    class Dying:
        """Real codes, whose first writer is lost after a message of them."""

        def __init__(self) -> None:
            self.count = 0

        async def codes(self, *asked: Any) -> AsyncGenerator[np.ndarray | Refusal]:
            self.count += 1
            limit, told = (1 if self.count == 1 else 1000), 0
            async for item in service._language_model.codes(*asked):
                if told == limit:
                    raise LostError("gone")
                told += 1
                yield item

    writer = Dying()
    renderer = Renderer(bundle_uri, writer)
    try:
        (samples,) = made(Service(service._language_model, renderer), MusicRequest(PROMPT, 2.0, 3))
    finally:
        renderer.close()
    assert writer.count == 2
    assert np.abs(samples - generator.generate(PROMPT, 2.0, 3).samples[0]).max() < 1e-3
