"""What is said of requests that cannot be taken: the field, and what to send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving import EXTENSIONS, GOOD, JOBS, URL, FakeService, call
from test_api import wav

from serve.api import make_api

JSON = {"content-type": "application/json"}
EXAMPLE = 'send a JSON object as application/json, e.g. {"prompt": "calm piano", "seconds": 10}'
FORM = "send a form as multipart/form-data with the fields prompt and audio, which is a file"


def post(url: str = URL, **arguments: Any) -> tuple[int, str]:
    answer = call(make_api(FakeService()), "POST", url, **arguments)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seconds": 0}, "seconds: give a length above 0 and up to 86400, or leave it out"),
        ({"bpm": 5}, "bpm: give a number from 20 to 400, or leave it out"),
        ({"prompt": None}, "prompt: it is missing; give what the music should be like"),
        ({"prompts": [{"text": "techno", "weight": 0}]}, "prompts: Input should be greater than 0"),
        ({"prompts": [{"text": "x"}] * 4}, "5 prompts are asked for; give up to 4, the first one included"),
        ({"drums": "off"}, "drums: Input should be a valid boolean"),
        ({"bars": 4, "seconds": 1}, "bars needs bpm, which says how long a bar is"),
        ({"bars": 4, "bpm": 90}, "seconds and bars both say how long the clip is; give one of them"),
        ({"meter": 9, "bpm": 90}, "meter is 9; give 2 to 7 beats a bar, as 3 or 3/4, or 6/8"),
        ({"melody": [[1, 2]]}, "melody is [[1.0, 2.0]]; give notes [start in s, duration in s, MIDI pitch]"),
        ({"melody": "/etc/passwd"}, "melody: Input should be a valid list"),
        ({"controls": [{"at": "bar 5", "drums": False}]}, "at: 'bar 5' needs bpm"),
        ({"seconds": True}, "seconds: give a length above 0 and up to 86400, or leave it out"),
        ({"seconds": "10"}, "seconds: give a length above 0 and up to 86400, or leave it out"),
        ({"temperature": -1}, "temperature: give a number from 0.01 to 5, or 0, or leave it out"),
        ({"top_k": 1.5}, "top_k: give a whole number from 0 to 100000, or leave it out"),
        ({"seed": 10**40}, f"seed: give a whole number from 0 to {2**63 - 1}, or leave it out"),
        ({"sedonds": 3}, "sedonds: unknown; did you mean seconds?"),
        ({"q": 3}, "q: unknown; the fields are prompt, prompts, negative, seconds, seed, "),
        ({"prompt": 7}, "prompt: Input should be a valid string"),
        ({"format": "aiff"}, "format: Input should be 'wav', 'flac', 'ogg' or 'mp3'"),
        ({"stream": True, "format": "mp3"}, "stream gives one WAV file; leave out format"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_what_does(change: dict[str, Any], said: str) -> None:
    status, message = post(json={**GOOD, **change})
    assert status == 422
    assert message.startswith(said)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, f"the body is empty; {EXAMPLE}"),
        (b"null", 422, f"the body is empty; {EXAMPLE}"),
        (b"[1]", 422, f"the body is a list; {EXAMPLE}"),
        (b'"calm"', 422, f"the body is text; {EXAMPLE}"),
        (b'{"prompt": "x",', 422, f"character 15); {EXAMPLE}"),
        (b"prompt=calm", 422, f"the body is no JSON (Expecting value, character 0); {EXAMPLE}"),
        (b'{"prompt": "\xff"}', 400, EXAMPLE),
        (b"[" * 50_000, 400, EXAMPLE),
        (b'{"prompt": "x", "seed": ' + b"1" * 5000 + b"}", 400, EXAMPLE),
        (b'{"seconds": 1}', 422, "prompt: it is missing; give what the music should be like"),
        (b'{"prompt": "\\ud800", "seconds": 1}', 422, "prompt: "),
        (b'{"prompt": "x", "\\ud800\\u0000\\n": 1}', 422, "the body is an object with a name that is no text; "),
        (b'{"prompt": "x", "' + b"y" * 9000 + b'": 1}', 422, "yyy: unknown; the fields are"),
        (b'{"prompt": "x", "controls": {"a": NaN}}', 422, "controls: give finite numbers"),
        (b'{"prompt": "x", "controls": {"a": 1e999}}', 422, "controls: give finite numbers"),
        (b'{"prompt": "x", "controls": {"\\udfff": 1}}', 422, "controls: give finite numbers and valid Unicode text"),
        (b'{"prompt": "x", "controls": {"a": ' + b"[" * 3000 + b"]" * 3000 + b"}}", 400, EXAMPLE),
    ],
)
@pytest.mark.parametrize("url", [URL, JOBS])
def test_a_body_that_cannot_be_read_is_told_what_to_send(
    url: str, body: bytes, status: int, said: str, tmp_path: Any
) -> None:
    from serve.job_runner import JobRunner
    from serve.jobs import JobStore
    from serve.limits import Limits

    service = FakeService()
    store = JobStore(str(tmp_path), 60)
    api = make_api(service, jobs=JobRunner(store, service, Limits()))
    answer = call(api, "POST", url, content=body, headers=JSON)
    store.close()
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert said in answer.json()["error"]
    assert len(answer.json()["error"]) < 700
    assert "\n" not in answer.json()["error"]
    assert not service.requests


@pytest.mark.parametrize("url", [URL, EXTENSIONS])
@pytest.mark.parametrize("given", [None, "text/plain", "application/x-www-form-urlencoded", "", "nonsense"])
def test_another_content_type_is_told_which_to_send(url: str, given: str | None) -> None:
    body = json.dumps(GOOD).encode()
    status, message = post(url, content=body, headers={} if given is None else {"content-type": given})
    assert status == 415
    assert message.startswith("the body has no Content-Type" if not given else f"the body has the Content-Type {given}")
    assert message.endswith(FORM if url == EXTENSIONS else EXAMPLE)


def test_kinds_of_json_are_json() -> None:
    body = json.dumps(GOOD).encode()
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"):
        answer = call(make_api(FakeService()), "POST", URL, content=body, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text


def test_forms_say_what_they_lack() -> None:
    multipart = {"content-type": "multipart/form-data"}
    assert post(EXTENSIONS, content=b"x", headers=multipart) == (
        400,
        f"the body cannot be read (Missing boundary in multipart); {FORM}",
    )
    audio = {"audio": ("a.wav", wav(1.0), "audio/wav")}
    for fields, said in (
        ({}, "prompt: it is missing; give what the music should be like"),
        ({"prompt": "x", "seconds": "ten"}, "seconds: give a length above 0"),
        ({"prompt": "x", "controls": "{"}, "controls: give a JSON object or list"),
        ({"prompt": "x", "melody": "{"}, "melody: give a JSON object or list"),
        ({"prompt": "x", "tempo": "120"}, "tempo: unknown; "),
        ({"prompt": "x", "bars": "4"}, "bars needs bpm"),
    ):
        status, message = post(EXTENSIONS, data=fields, files=audio)
        assert status == 422
        assert message.startswith(said)
    status, message = post(EXTENSIONS, files={"prompt": (None, "x"), "audio": (None, "no file")})
    assert (status, message) == (422, "audio: give a WAV, FLAC, OGG or MP3 file, not text")
    many = [("audio", (f"{number}.wav", b"x")) for number in range(3)]
    status, message = post(EXTENSIONS, data={"prompt": "x"}, files=many)
    assert status == 400
    assert "Maximum number of files is 1" in message
    status, message = post(EXTENSIONS, data={"prompt": "x" * 70_000}, files=audio)
    assert status == 400
    assert "maximum size of 64KB" in message


def test_what_is_not_there_says_what_is() -> None:
    api = make_api(FakeService())
    answer = call(api, "GET", "/v1/music")
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "there is no such path; /openapi.json lists them all"},
    )
    answer = call(api, "PUT", URL)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "this path does not take PUT; it takes POST"}


def test_what_the_model_says_of_a_callers_own_words_can_be_sent() -> None:
    from serve.wire import Refusal

    said = FakeService(refusal=Refusal(400, "there is no control \ud800\n\x00" + "y" * 5000))
    answer = call(make_api(said), "POST", URL, json=GOOD)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(r"there is no control \ud800")
    assert len(answer.json()["error"]) < 700
