"""The routes over a service that makes tones at once: what is accepted, refused and answered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
from serving import EXTENSIONS, GOOD, RATE, URL, FakeService, call, client_of, tone

from serve.api import make_api
from serve.limits import Limits
from serve.wire import Refusal
from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.engine.request import MusicRequest

# Each of these changes is refused, by name.
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 10_001}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"seconds": 0}, "seconds"),
    ({"seconds": -1}, "seconds"),
    ({"seconds": 1e9}, "seconds"),
    ({"seconds": "long"}, "seconds"),
    ({"seconds": "x"}, "seconds"),
    ({"seconds": "1"}, "seconds"),
    ({"seconds": True}, "seconds"),
    ({"guidance": False}, "guidance"),
    ({"stream": 1}, "stream"),
    ({"seed": -1}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"guidance": -1}, "guidance"),
    ({"guidance": 21}, "guidance"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 100}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 1e6}, "top_k"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"steps": 0}, "steps"),
    ({"steps": 1000}, "steps"),
    ({"format": "exe"}, "format"),
    ({"format": "../wav"}, "format"),
    ({"variations": 0}, "variations"),
    ({"variations": 9}, "variations"),
    ({"stream": "perhaps"}, "stream"),
    ({"answer": "xml"}, "answer"),
    ({"tempo": 100}, "tempo"),
    ({"controls": [1]}, "controls"),
]
MIXED = [{"stream": True, "format": "flac"}, {"stream": True, "variations": 2}, {"stream": True, "answer": "json"}]


def decoded(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    import json

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.samplerate == RATE
        return file.read(dtype="float32"), json.loads(file.comment)


@pytest.mark.parametrize(
    ("extension", "media"),
    [("wav", "audio/wav"), ("flac", "audio/flac"), ("ogg", "audio/ogg"), ("mp3", "audio/mpeg")],
)
def test_a_clip_comes_back_as_a_file_that_says_what_it_is(extension: str, media: str) -> None:
    answer = call(make_api(FakeService()), "POST", URL, json={**GOOD, "seed": 3, "format": extension})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media
    assert answer.headers["x-seed"] == "3"
    assert answer.headers["x-model"] == "ssmttm-fake-1"
    assert answer.headers["x-ai-generated"] == "true"
    assert f'filename="ssmttm-fake-1-3.{extension}"' in answer.headers["content-disposition"]
    samples, comment = decoded(answer.content)
    assert len(samples) == RATE
    assert comment["ai_generated"] is True
    assert (comment["notice"], comment["model"], comment["seed"]) == ("AI-generated", "ssmttm-fake-1", 3)
    assert comment["prompt_sha256"] == hashlib.sha256(b"calm piano").hexdigest()


def test_a_stream_is_the_same_file_in_pieces() -> None:
    api = make_api(FakeService())
    whole = call(api, "POST", URL, json={**GOOD, "seed": 3})
    stream = call(api, "POST", URL, json={**GOOD, "seed": 3, "stream": True})
    assert stream.status_code == 200
    assert "content-length" not in stream.headers
    assert stream.headers["x-seed"] == "3"
    expected, comment = decoded(whole.content)
    streamed, told = decoded(stream.content)
    assert np.array_equal(streamed, expected)
    assert told == comment


def test_a_stream_begins_before_the_clip_is_made() -> None:
    service = FakeService()

    async def go() -> None:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)
            # The last piece is held back until the first is out.
            service.pause_s = 0.0

        body = b'{"prompt": "x", "seconds": 1, "stream": true}'
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await asyncio.sleep(3600)

        headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "POST", "path": URL, "raw_path": URL.encode(), "headers": headers}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1)}
        await make_api(service)(scope, receive, send)
        pieces = [message["body"] for message in sent if message.get("body")]
        assert len(pieces) == 11  # the header, then each piece by itself
        assert len(pieces[0]) < 1000

    asyncio.run(go())


def test_every_field_reaches_the_generator() -> None:
    service = FakeService()
    settings = {"guidance": 2.0, "temperature": 0.5, "top_k": 10, "top_p": 0.9, "steps": 4}
    settings["controls"] = {"beat": [1, None], "key": "A minor"}
    call(make_api(service), "POST", URL, json={**GOOD, **settings, "seed": 0, "format": "ogg"})
    assert service.requests == [MusicRequest("calm piano", 1, 0, **settings)]


WORDS: dict[str, Any] = {
    "prompts": [{"text": "techno", "weight": 0.5}],
    "negative": "vocals",
    "control_guidance": 3.0,
    "bpm": 96.5,
    "meter": "3/4",
    "chords": "Am | F",
    "key": "A minor",
    "drums": False,
    "bass": True,
    "density": 0.3,
    "brightness": 0.7,
    "melody": [[0, 1, 60]],
    "controls": [{"at": "bar 2", "drums": True}],
}


def test_words_reach_the_generator_from_both_doors_and_are_told_by_the_file() -> None:
    service = FakeService()
    api = make_api(service)
    made = call(api, "POST", URL, json={"prompt": "calm piano", "bars": 1, "seed": 0, **WORDS})
    (request,) = service.requests
    assert request == MusicRequest("calm piano", seed=0, bars=1, **WORDS)
    samples, comment = decoded(made.content)
    assert len(samples) == round(3 * 60 / 96.5 * RATE)
    assert comment["asked"] == json.loads(json.dumps(request.told))
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in WORDS.items()}
    files = {"audio": ("a.wav", wav(1.0), "audio/wav")}
    call(api, "POST", EXTENSIONS, data={"prompt": "calm piano", "bars": "1", "seed": "0", **form}, files=files)
    assert replace(service.requests[-1], audio=None) == request


def test_variations_are_consecutive_seeds_beside_what_made_them() -> None:
    answer = call(make_api(FakeService()), "POST", URL, json={**GOOD, "seed": 5, "variations": 3, "format": "flac"})
    assert answer.headers["content-type"] == "application/json"
    clips = answer.json()["data"]
    assert [clip["provenance"]["seed"] for clip in clips] == [5, 6, 7]
    for clip in clips:
        assert (clip["media_type"], clip["seconds"]) == ("audio/flac", 1.0)
        samples, comment = decoded(base64.b64decode(clip["data"]))
        assert comment == clip["provenance"]
        assert np.abs(samples - tone(MusicRequest("", 1, comment["seed"]))).max() < 1e-4


def test_one_clip_with_its_provenance_as_json() -> None:
    (clip,) = call(make_api(FakeService()), "POST", URL, json={**GOOD, "answer": "json"}).json()["data"]
    assert clip["provenance"]["ai_generated"] is True


@pytest.mark.parametrize(("change", "named"), BAD_FIELDS)
def test_bad_fields_are_named(change: dict[str, Any], named: str) -> None:
    service = FakeService()
    answer = call(make_api(service), "POST", URL, json={**GOOD, **change})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{named}: ")
    assert not service.requests


@pytest.mark.parametrize("change", MIXED)
def test_fields_that_exclude_one_another(change: dict[str, Any]) -> None:
    answer = call(make_api(FakeService()), "POST", URL, json={**GOOD, **change})
    assert answer.status_code == 422
    assert "stream gives one WAV file" in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"prompt": "x", "seconds": NaN}', b'{"prompt": "x", "guidance": Infinity}']
)
def test_bad_bodies_are_answered_in_json(body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = call(make_api(FakeService()), "POST", URL, content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_generator_refuses_has_its_status_and_reason(stream: bool) -> None:
    answer = call(make_api(FakeService()), "POST", URL, json={**GOOD, "seconds": 61, "stream": stream})
    assert answer.status_code == 400
    assert answer.json() == {"error": "seconds is 61; give a length above 0 and up to 60"}
    full = FakeService(refusal=Refusal(429, "too many clips are waiting; try again later", 5))
    answer = call(make_api(full), "POST", URL, json={**GOOD, "stream": stream})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert full.active == 0


def test_a_clip_lost_before_its_first_byte_is_a_clear_error() -> None:
    for stream in (False, True):
        answer = call(make_api(FakeService(fails_at=0)), "POST", URL, json={**GOOD, "stream": stream})
        assert answer.status_code == 503
        assert answer.json() == {"error": "the clip was interrupted by a failure; try again"}
    answer = call(make_api(FakeService(fails_at=5)), "POST", URL, json=GOOD)
    assert answer.status_code == 503


def test_a_clip_without_progress_is_given_up_and_one_with_progress_is_not() -> None:
    limits = Limits(deadline_s=0.3)
    stuck = FakeService(pause_s=60)
    answer = call(make_api(stuck, limits), "POST", URL, json=GOOD)
    assert answer.status_code == 504
    assert stuck.active == 0
    slow = FakeService(pause_s=0.05)  # half a second in all
    assert call(make_api(slow, limits), "POST", URL, json=GOOD).status_code == 200


def test_more_than_may_be_in_flight_are_told_to_come_back() -> None:
    async def go() -> list[int]:
        service = FakeService(pause_s=0.02)
        async with client_of(make_api(service, Limits(in_flight=3, burst=100))) as client:
            answers = await asyncio.gather(*(client.post(URL, json={**GOOD, "stream": n % 2 == 0}) for n in range(8)))
            assert service.active == 0
            assert {a.headers.get("retry-after") for a in answers if a.status_code == 429} == {"5"}
            again = await client.post(URL, json=GOOD)
            return [*(answer.status_code for answer in answers), again.status_code]

    codes = asyncio.run(go())
    assert codes.count(429) == 5
    assert codes.count(200) == 4


def wav(seconds: float, rate: int = 44_100, channels: int = 2) -> bytes:
    return audio.to_bytes(Audio(np.full((channels, round(seconds * rate)), 0.1, np.float32), rate))


def test_audio_is_sent_to_be_continued() -> None:
    service = FakeService()
    files = {"audio": ("../../x.wav", wav(2.0), "audio/wav")}
    fields = {"prompt": "go on", "seconds": "3", "seed": "4", "format": "flac", "controls": '{"key": "A"}'}
    answer = call(make_api(service), "POST", EXTENSIONS, data=fields, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/flac"
    (request,) = service.requests
    assert (request.prompt, request.seconds, request.seed) == ("go on", 3.0, 4)
    assert request.audio is not None
    assert (request.audio.samples.shape, request.audio.sample_rate) == ((1, 2 * RATE), RATE)
    assert np.abs(request.audio.samples[0, 100:-100] - 0.1).max() < 1e-3  # the filter rings at the edges


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        (b"no audio at all", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (wav(1.0)[:40], "cannot be decoded"),
        (wav(61.0, 8000, 1), "over the limit of 60 seconds"),
        (wav(0.1, 4000), "unusual|2 channels at 4000 Hz"),
        (wav(0.1, 8000, 9), "9 channels"),
    ],
)
def test_uploads_that_are_not_fit(upload: bytes, said: str) -> None:
    import re

    answer = call(make_api(FakeService()), "POST", EXTENSIONS, data={"prompt": "x"}, files={"audio": ("a", upload)})
    assert answer.status_code == 400
    assert re.search(said, answer.json()["error"])


def test_bad_forms_are_named() -> None:
    api, files = make_api(FakeService()), {"audio": ("a", wav(1.0))}
    prompt = {"prompt": (None, "x")}
    assert call(api, "POST", EXTENSIONS, files=prompt).json()["error"].startswith("audio: ")
    assert call(api, "POST", EXTENSIONS, files=files).json()["error"].startswith("prompt: ")
    unknown = call(api, "POST", EXTENSIONS, data={"prompt": "x", "tempo": "1"}, files=files)
    assert (unknown.status_code, unknown.json()["error"].partition(":")[0]) == (422, "tempo")
    for controls in ("{", "[1]"):
        answer = call(api, "POST", EXTENSIONS, data={"prompt": "x", "controls": controls}, files=files)
        assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (422, "controls")


def test_models_health_and_metrics() -> None:
    api = make_api(FakeService())
    assert call(api, "GET", "/healthz").json() == {"status": "ok"}
    assert call(api, "GET", "/readyz").json() == {"status": "ok"}
    (model,) = call(api, "GET", "/v1/models").json()["data"]
    assert (model["id"], model["max_seconds"], model["max_prompt_tokens"]) == ("ssmttm-fake-1", 60, 20)
    call(api, "POST", URL, json=GOOD)
    text = call(api, "GET", "/metrics").text
    assert "ssmttm_engine_slots 3.0" in text
    assert "ssmttm_music_seconds_total 1.0" in text
    assert "ssmttm_first_audio_seconds_count 1.0" in text
    assert f'ssmttm_requests_total{{method="POST",route="{URL}",status="200"}} 1.0' in text


def test_not_ready_without_a_language_model() -> None:
    class Empty(FakeService):
        async def counters(self) -> list[dict[str, float]]:
            return []

    answer = call(make_api(Empty()), "GET", "/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_the_openapi_document_describes_the_surface() -> None:
    document = call(make_api(FakeService()), "GET", "/openapi.json").json()
    assert set(document["paths"]) == {URL, EXTENSIONS, "/v1/models", "/healthz", "/readyz", "/metrics"}
    request = document["components"]["schemas"]["MusicForm"]
    assert request["additionalProperties"] is False
    assert request["examples"]
    assert set(document["paths"][URL]["post"]["responses"]["200"]["content"]) >= {"audio/wav", "audio/mpeg"}
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
