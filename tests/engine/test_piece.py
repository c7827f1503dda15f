"""What a request asks for as the models take it: words become the controls of the bundle, on every door's way."""

from __future__ import annotations

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from command_line import Command
from tiny_bundle import write_tiny_bundle

from serve.api import make_api
from serve.language_model import LanguageModel
from serve.renderer import Renderer
from serve.service import Service
from ssmttm import audio
from ssmttm.conditions.base import ControlConditioner, Excerpt
from ssmttm.conditions.registry import CONDITIONERS
from ssmttm.engine.continuation import Take
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.slots import SlotBatch
from ssmttm.errors import UserError

CONTROLS = {"beat": 1, "chord": 1, "drums": 1}


class Stub(ControlConditioner):
    """A control that any value, or timeline of values, makes a number of."""

    name, channels = "stub", 1

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        return None

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        line = value if isinstance(value, list) else [[0.0, value]]
        told = np.full((1, frames), np.nan)
        for time_s, one in line:
            held = np.arange(frames) + 0.5 >= time_s * frame_rate
            told[:, held] = np.nan if one is None else len(json.dumps(one)) - 5.0
        return told


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of random weights, with three controls whose conditioners are stubs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CONTROLS:
            patch.setitem(CONDITIONERS, name, Stub)
        yield write_tiny_bundle(
            str(tmp_path_factory.mktemp("asked")), "generation.stage2_guidance=2.0", controls=CONTROLS
        )


@pytest.fixture(scope="module")
def generator(bundle: str) -> Generator:
    return Generator.load(bundle, "cpu")


def test_words_are_the_controls_that_they_stand_for(generator: Generator) -> None:
    words = generator.generate("x", seed=1, bpm=120, bars=2, chords="Am F", drums=False)
    assert words.samples.shape[1] == round(2 * 4 * 60 / 120 * generator.sample_rate)
    controls = {"beat": {"bpm": 120, "meter": 4}, "chord": [[0.0, "Am"], [2.0, "F"]], "drums": False}
    named = generator.generate("x", 4.0, 1, controls=controls)
    assert np.array_equal(words.samples, named.samples)
    assert not np.array_equal(words.samples, generator.generate("x", 4.0, 1).samples)


def test_a_change_takes_hold_at_its_frame_for_stage_1(generator: Generator) -> None:
    frames, rate = round(4 * generator.frame_rate), generator.frame_rate
    changes = [{"at": "bar 2", "drums": True}, {"at": 3.02, "drums": None}]
    requests = [MusicRequest("x", 4.0, 2, bpm=120, meter=4, drums=False, controls=one) for one in ([], changes)]
    steady, changed = (Piece.of(generator.bundle, request, frames) for request in requests)
    drums = changed.conditions["drums"]
    middles = (np.arange(frames) + 0.5) / rate
    assert np.array_equal(drums.known_BT[0].numpy(), middles < 3.02)
    values = drums.values_BCT[0, 0].numpy()[middles < 3.02]
    assert np.array_equal(values, np.where(middles[middles < 3.02] < 2.0, 0.0, -1.0))
    codes_2KT = SlotBatch.of(generator.bundle.lm, [steady, changed]).read(frames)
    first = int((codes_2KT[0] != codes_2KT[1]).any(dim=0).nonzero()[0])
    assert first + 0.5 >= 2.0 * rate


def test_times_count_from_the_beginning_of_given_audio(generator: Generator) -> None:
    given = generator.generate("x", 1.0, 3)
    request = MusicRequest("x", 1.0, 3, controls=[{"at": 1.5, "drums": True}], audio=given)
    piece = Take(generator.bundle, generator.renderer, request).piece
    known = int(piece.conditions["drums"].known_BT[0].nonzero()[0])
    assert known == pytest.approx(1.5 * generator.frame_rate, abs=1)
    assert known > piece.known > 0


def test_what_the_model_does_not_know_is_refused_before_anything_is_read(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"^density: this model cannot be asked by density; it takes bpm, meter, bars, chords, drums$"
    with pytest.raises(UserError, match=said):
        generator.stream("x", 1.0, density=0.5)
    given = generator.generate("x", 1.0, 3)
    monkeypatch.setattr("ssmttm.engine.continuation.GivenAudio", None)
    with pytest.raises(UserError, match=said):
        generator.extend(given, "x", 1.0, controls=[{"at": 1, "density": 0.5}])


MIXED: dict[str, Any] = {"prompts": [{"text": "b", "weight": 0.5}], "negative": "n", "control_guidance": 3.0}


def test_prompts_are_mixed_and_led_away_from(generator: Generator) -> None:
    def made(**fields: Any) -> np.ndarray:
        return generator.generate(
            MusicRequest(**{"prompt": "a", "seconds": 1.0, "seed": 6, "drums": True, **fields})
        ).samples

    plain, other = made(), made(prompt="b")
    mixed = made(prompts=[("b", 0.5)])
    assert np.array_equal(made(prompt="", prompts=[("a", 3)]), plain)
    assert np.array_equal(made(prompt="", prompts=[("a", 4), ("b", 2)]), mixed)
    for one in (plain, other, made(negative="b"), made(control_guidance=5.0)):
        assert not np.array_equal(mixed, one)
    assert not np.array_equal(made(negative="b"), plain)
    assert not np.array_equal(made(control_guidance=5.0), plain)
    with pytest.raises(UserError, match="the negative prompt is empty"):
        made(negative=" ")


def test_mixed_prompts_give_the_same_alone_in_slots_in_a_batch_and_when_they_go_on(
    generator: Generator, bundle: str
) -> None:
    request = MusicRequest("a", 2.0, 7, drums=True, **MIXED)
    whole = generator.generate(request).samples
    streamed = [piece.samples for piece in generator.stream(request)]
    assert len(streamed) > 1
    assert np.array_equal(np.concatenate(streamed, axis=1), whole)
    with Generator.load(bundle, "cpu", slots=2) as slots, ThreadPoolExecutor() as threads:
        for made in threads.map(slots.generate, [request, MusicRequest("c", 1.0, 1), request]):
            if made.seconds > 1.5:
                assert np.abs(made.samples - whole).max() < 1e-4
    batch = generator.generate_batch(["a", "c"], 1.0, [7, 8], negative="n", drums=True)
    assert np.array_equal(batch[0].samples, generator.generate("a", 1.0, 7, negative="n", drums=True).samples)
    given = generator.generate("x", 1.0, 3)
    extended = generator.extend(given, "a", 1.0, 7, drums=True, **MIXED)
    with Generator.load(bundle, "cpu", slots=1) as slots:
        assert np.abs(slots.extend(given, "a", 1.0, 7, drums=True, **MIXED).samples - extended.samples).max() < 1e-4


def test_a_file_tells_what_was_asked_and_makes_it_again(generator: Generator, bundle: str, tmp_path: Path) -> None:
    first, again = str(tmp_path / "first.wav"), str(tmp_path / "again.wav")
    asked = {"bpm": 150, "bars": 1, "chords": "Am F | C", "drums": True, "controls": [{"at": 0.5, "drums": None}]}
    asked |= {**MIXED, "prompt": "x"}
    stream = generator.stream(MusicRequest(seed=4, **asked))
    clip = audio.Audio(np.concatenate([piece.samples for piece in stream], axis=1), generator.sample_rate)
    generator.save(first, clip, stream.request, 4)
    told = audio.read_metadata(first)
    assert told["asked"] == asked
    assert told["prompt"] == "x (0.667) + b (0.333)"
    request = MusicRequest(**{"prompt": told["prompt"], "seed": told["seed"], **told["asked"]})
    generator.save(again, generator.generate(request), request, 4)
    assert Path(first).read_bytes() == Path(again).read_bytes()
    generator.save(again, clip, "x", 4)
    assert "asked" not in audio.read_metadata(again)


def test_the_command_line_asks_by_the_same_words(
    generator: Generator,
    bundle: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ssmttm, out = Command(monkeypatch, capsys), str(tmp_path / "a.flac")
    words = ("--bpm", "150", "--meter", "3/4", "--bars", "1", "--chords", "Am F | C", "--drums", "off")
    arguments = ("generate", "x", "--bundle", bundle, "--out", out, "--seed", "5")
    code, _, err = ssmttm(*arguments, *words, "--at", "bar 1 beat 2: drums=on", "--at", "0.8: drums=none, chords=F")
    assert (code, err) == (0, "")
    asked = audio.read_metadata(out)["asked"]
    assert asked == {
        "bpm": 150,
        "meter": 3,
        "bars": 1,
        "chords": "Am F | C",
        "drums": False,
        "controls": [{"at": "bar 1 beat 2", "drums": True}, {"at": 0.8, "drums": None, "chords": "F"}],
    }
    assert np.abs(audio.read(out).samples - generator.generate("x", seed=5, **asked).samples).max() < 1e-4
    mix = ("--prompt", "a=b=0.5", "--prompt", "c", "--negative", "n", "--control-guidance", "3", "--drums", "on")
    assert ssmttm("generate", "--bundle", bundle, "--out", out, "--seconds", "0.5", *mix)[0] == 0
    told = audio.read_metadata(out)
    assert told["prompt"] == "a=b (0.333) + c (0.667)"
    assert (told["asked"]["negative"], told["asked"]["control_guidance"]) == ("n", 3)
    assert ssmttm("generate", "--bundle", bundle, "--out", out)[2].startswith("error: the prompt is empty")
    for options, said in (
        (("--prompt", "techno=loud"), "--prompt techno=loud ends in no number; give TEXT=WEIGHT"),
        (("--bars", "4"), "bars needs bpm"),
        (("--key", "A minor"), "key: this model cannot be asked by key; it takes bpm, "),
        (("--drums", "maybe"), "drums is 'maybe'; give true or false"),
        (("--at", "bar 2"), "--at  names no value; give NAME=VALUE"),
        (("--at", "1: drums=on", "--control", "drums=true"), "--control holds for the whole piece"),
    ):
        code, _, err = ssmttm(*arguments, *options)
        assert code == 2
        assert err.startswith(f"error: {said}")


def test_a_bundle_says_what_it_can_be_asked_by(
    bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over HTTP, to `doctor`, and in its card."""
    language_model = LanguageModel(bundle, slots=2)
    renderer = Renderer(bundle, language_model)
    api = make_api(Service(language_model, renderer))

    async def ask(method: str, path: str, **arguments: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://127.0.0.1") as client:
            return await client.request(method, path, timeout=120, **arguments)

    body = {"prompt": "x", "seed": 1, "bpm": 150.5, "bars": 1, "drums": False, **MIXED}
    try:
        (model,) = asyncio.run(ask("GET", "/v1/models")).json()["data"]
        made = asyncio.run(ask("POST", "/v1/music/generations", json=body))
        refused = asyncio.run(ask("POST", "/v1/music/generations", json={**body, "key": "A minor"}))
    finally:
        language_model.close()
        renderer.close()
    assert list(model["asked_by"]) == ["prompt", "bpm", "meter", "bars", "chords", "drums"]
    assert made.status_code == 200
    samples, _ = soundfile.read(io.BytesIO(made.content), dtype="float32")
    assert np.abs(samples - Generator.load(bundle, "cpu").generate(MusicRequest(**body)).samples[0]).max() < 1e-3
    assert (refused.status_code, refused.json()["error"][:44]) == (400, "key: this model cannot be asked by key; it t")
    told = json.loads(Command(monkeypatch, capsys)("doctor", "--preset", "tiny", "--bundle", bundle, "--json")[1])
    assert told["bundle"]["asked by"] == "prompt, bpm, meter, bars, chords, drums"
    card = Path(bundle, "README.md").read_text()
    assert '| chords | `"Am F \\| C G7/B \\| %"` |' in card
