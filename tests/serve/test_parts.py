"""Language model and renderer over a bundle, in this process: what comes out, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Iterator
from itertools import chain, repeat

import numpy as np
import pytest
import soundfile
from serving import EXTENSIONS, URL, call
from tiny_bundle import shared_single_stage

from serve import renderer as renderer_module
from serve.api import make_api
from serve.renderer import ATTEMPTS, Renderer, lasting_codes
from serve.service import LocalService
from serve.wire import Began, CodeOrder, LostError, Order, Refusal
from ssmttm.audio import Audio
from ssmttm.bundle.load import read_model_id
from ssmttm.engine.generator import Generator

PROMPT = "calm piano in a minor key, slow"


@pytest.fixture(scope="module")
def service(bundle_uri: str) -> Iterator[LocalService]:
    made = LocalService.load(bundle_uri, slots=3, waiting=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def generator(bundle_uri: str) -> Generator:
    return Generator.load(bundle_uri)


def made(service: LocalService, *orders: Order) -> list[np.ndarray]:
    """All samples of each, made together."""

    async def one(order: Order) -> np.ndarray:
        pieces = []
        async for event in service.stream(order):
            assert not isinstance(event, Refusal), event
            if isinstance(event, Began):
                expected = event.samples
            else:
                pieces.append(event)
        samples = np.concatenate(pieces)
        assert len(samples) == expected
        return samples

    async def go() -> list[np.ndarray]:
        return await asyncio.gather(*map(one, orders))

    return asyncio.run(go())


def test_clips_are_those_of_the_library(service: LocalService, generator: Generator) -> None:
    settings = {"guidance": 2.0, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "steps": 2}
    orders = [Order(PROMPT, 5.0, 1), Order("upbeat funk", 1.0, 2, settings)]
    for samples, order in zip(made(service, *orders), orders, strict=True):
        expected = generator.generate(order.prompt, order.seconds, order.seed, **order.settings).samples[0]
        assert np.abs(samples - expected).max() < 1e-3  # rounding: they were made in company


def test_continued_audio_is_that_of_the_library(service: LocalService, generator: Generator) -> None:
    given = Audio(generator.generate("a", 2.03, 5).samples, generator.sample_rate)
    (samples,) = made(service, Order(PROMPT, 3.0, 1, {}, given))
    expected = generator.extend(given, PROMPT, 3.0, seed=1).samples[0]
    assert np.abs(samples - expected).max() < 1e-3
    assert np.array_equal(samples[: 24_000 * 19 // 10], given.samples[0, : 24_000 * 19 // 10])


def test_a_single_stage_is_served_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = shared_single_stage(tmp_path_factory)
    service, generator = LocalService.load(uri, slots=2, waiting=2), Generator.load(uri)
    try:
        given = Audio(generator.generate("a", 2.03, 5).samples, generator.sample_rate)
        orders = [Order(PROMPT, 5.0, 1), Order("upbeat funk", 1.0, 2), Order(PROMPT, 2.0, 1, {}, given)]
        for samples, order in zip(made(service, *orders), orders, strict=True):
            if order.given is None:
                expected = generator.generate(order.prompt, order.seconds, order.seed).samples[0]
            else:
                expected = generator.extend(given, order.prompt, order.seconds, order.seed).samples[0]
            assert np.abs(samples - expected).max() < 1e-3
        api = make_api(service)
        asked = {"prompt": PROMPT, "seconds": 1, "seed": 1}
        assert call(api, "POST", URL, json=asked).status_code == 200
        refused = call(api, "POST", URL, json={**asked, "steps": 4})
        assert refused.status_code == 400
        assert "no second stage" in refused.text
        (model,) = call(api, "GET", "/v1/models").json()["data"]
        assert model["defaults"]["steps"] is None
        assert model["defaults"]["guidance"] > 0
    finally:
        service.close()


def test_limits_of_the_model_are_one_line(service: LocalService) -> None:
    orders = {
        "seconds is 10000": Order(PROMPT, 10_000, 1),
        "2000 characters": Order("x" * 2000, 1, 1),
        "tokens is over the limit": Order("na " * 200, 1, 1),
        "the prompt is empty": Order(" ", 1, 1),
        "too short to be continued": Order(PROMPT, 1, 1, {}, Audio(np.zeros((1, 10), np.float32), 24_000)),
    }

    async def first(order: Order) -> object:
        return await anext(service.stream(order))

    for said, order in orders.items():
        event = asyncio.run(first(order))
        assert isinstance(event, Refusal)
        assert event.status == 400
        assert said in event.message
        if order.given is None:
            assert asyncio.run(service.check(order)) == event


def test_more_than_may_wait_are_refused_and_those_who_leave_make_room(service: LocalService) -> None:
    async def go() -> None:
        streams = [service.stream(Order(PROMPT, 600.0, seed)) for seed in range(5)]
        firsts = [asyncio.create_task(anext(stream)) for stream in streams]
        async with asyncio.timeout(60):
            while sum([(await service.counters())[0][name] for name in ("in_use", "waiting")]) < 5:
                await asyncio.sleep(0.01)
            refused = await anext(service.stream(Order(PROMPT, 1.0, 9)))
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


def test_over_the_api(service: LocalService, bundle_uri: str) -> None:
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
    """A language model whose replicas die after so many messages, the text included; the last one lives.

    Codes count up, so that each frame is known.
    """

    def __init__(self, *lives: int):
        self.lives, self.orders = list(lives), []

    async def codes(self, order: CodeOrder) -> AsyncGenerator[np.ndarray | Refusal]:
        self.orders.append(order)
        left = self.lives.pop(0) if self.lives else 1000
        first = 0 if order.primer_KT is None else order.primer_KT.shape[1]
        codes_1T, ends = first + np.arange(order.frames)[None], [0]
        for portion in chain(order.portions, repeat(order.portions[-1])):
            if ends[-1] >= order.frames:
                break
            ends.append(ends[-1] + portion)
        messages = [np.full((4, 3), 7.0), *np.split(codes_1T, ends[1:-1], axis=1)]
        for message in messages:
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
        order = CodeOrder("x", frames, 0, 1, 1, 0, 1, portions, primer_KT)
        return [item async for item in lasting_codes(writer, order)]

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer_module, "PAUSE_S", 0.001)


@pytest.mark.parametrize("lives", [(), (0,), (1,), (3,), (6,), (0, 0), (3, 0), (3, 1), (3, 2), (2, 2, 2)])
def test_lost_language_models_are_continued_by_others(lives: tuple[int, ...]) -> None:
    writer = Mortal(*lives)
    text, *codes = codes_from(writer)
    assert text.shape == (4, 3)
    assert np.concatenate(codes, axis=1).tolist() == [[0, 1, 2, 3, 4]]


def test_what_was_given_is_given_to_the_next_one_too() -> None:
    writer = Mortal(3)
    _, *codes = codes_from(writer, np.array([[0, 1]]))
    assert np.concatenate(codes, axis=1).tolist() == [[2, 3, 4, 5, 6]]
    assert writer.orders[1].primer_KT is not None
    assert writer.orders[1].primer_KT.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("lives", [(), (2,), (3,), (2, 2), (4,), (4, 2)])
def test_codes_come_in_the_portions_asked_for_whoever_writes_them(lives: tuple[int, ...]) -> None:
    _, *codes = codes_from(Mortal(*lives), frames=12, portions=(3, 2, 4))
    assert [len(part[0]) for part in codes] == [3, 2, 4, 3]
    assert np.concatenate(codes, axis=1).tolist() == [list(range(12))]


def test_in_the_end_it_is_given_up() -> None:
    with pytest.raises(LostError):
        codes_from(Mortal(*[0] * ATTEMPTS))


def test_a_clip_sounds_the_same_when_its_language_model_dies(
    service: LocalService, bundle_uri: str, generator: Generator
) -> None:
    class Dying:
        """Real codes, whose first writer is lost after a message of them."""

        def __init__(self) -> None:
            self.count = 0

        async def codes(self, order: CodeOrder) -> AsyncGenerator[np.ndarray | Refusal]:
            self.count += 1
            limit, told = (2 if self.count == 1 else 1000), 0
            async for item in service._language_model.codes(order):
                if told == limit:
                    raise LostError("gone")
                told += 1
                yield item

    writer = Dying()
    renderer = Renderer(bundle_uri, writer)
    try:
        (samples,) = made(LocalService(service._language_model, renderer), Order(PROMPT, 2.0, 3))
    finally:
        renderer.close()
    assert writer.count == 2
    assert np.abs(samples - generator.generate(PROMPT, 2.0, 3).samples[0]).max() < 1e-3
