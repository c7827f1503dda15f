"""The listening test's routes, without a network."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation.listening import Stimuli, Trial, TrialCounts, plan
from ssmttm.evaluation.listening_app import HEADERS, Answers, make_app
from ssmttm.reports.listening import page_of_test

COUNTS = TrialCounts(pairs=3, ratings=2, anchors=1, checks=1)
SECRETS = ("ours-secret", "peer-secret", "item-secret", "anchor")


def make_stimuli() -> Stimuli:
    time = np.arange(12_000) / 24_000
    clips = {
        f"item-secret-{item}": {
            system: Audio((0.2 * np.sin(2 * np.pi * hz * (item + 1) * time))[None].astype(np.float32), 24_000)
            for system, hz in (("ours-secret", 300), ("peer-secret", 500))
        }
        for item in range(3)
    }
    return Stimuli(clips, {"item-secret-0": "slow <b>piano</b>"})


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return make_stimuli()


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(str(tmp_path / "answers.sqlite"))


@pytest.fixture
def client(stimuli: Stimuli, answers: Answers) -> TestClient:
    return TestClient(make_app(stimuli, answers, COUNTS, page_of_test()), raise_server_exceptions=False)


def given(question: dict[str, Any]) -> dict[str, Any]:
    if question["kind"] == "pair":
        return {"preference": "a"}
    return {"quality": 2, "relevance": 2} if question["relevance"] else {"quality": 2}


def test_a_whole_session(client: TestClient, answers: Answers, stimuli: Stimuli) -> None:
    state = client.post("/api/sessions").json()
    session = state["session"]
    trials = plan(session, stimuli.systems, stimuli.items, COUNTS)
    assert state["trials"] == len(trials) == 8
    while state["next"]:
        number = state["next"]["trial"]
        for side in state["next"]["sides"]:
            clip = client.get(f"/api/sessions/{session}/clips/{number}/{side}")
            assert clip.headers["content-type"] == "audio/flac"
            samples, rate = soundfile.read(io.BytesIO(clip.content))
            assert (len(samples), rate) == (22_050, 44_100)
        response = client.post(f"/api/sessions/{session}/answers/{number}", json=given(state["next"]))
        assert response.status_code == 200
        assert response.json()["done"] == state["done"] + 1
        state = response.json()
    assert client.get(f"/api/sessions/{session}").json() == state
    stored = answers.all()
    assert [(one.kind, one.item, one.systems) for one in stored] == [(t.kind, t.item, t.systems) for t in trials]
    assert all(one.preference == "a" for one in stored if one.kind.startswith("pair"))


def test_nothing_that_is_sent_tells_a_system(client: TestClient) -> None:
    state = client.post("/api/sessions").json()
    session, sent = state["session"], client.get("/").content + json.dumps(state).encode()
    for number in range(state["trials"]):
        for side in "ab":
            response = client.get(f"/api/sessions/{session}/clips/{number}/{side}")
            sent += response.content + json.dumps(dict(response.headers)).encode()
    for secret in SECRETS:
        assert secret.encode() not in sent


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("answers/0", {}, 422),
        ("answers/0", {"preference": "c"}, 422),
        ("answers/0", {"quality": 0}, 422),
        ("answers/0", {"quality": 6, "relevance": 1}, 422),
        ("answers/0", {"quality": 2.5}, 422),
        ("answers/0", {"quality": True}, 422),
        ("answers/0", {"preference": "a", "quality": 3, "relevance": 3}, 422),
        ("answers/0", {"preference": "a", "name": "me"}, 422),
        ("answers/0", [], 422),
        ("answers/99", {"preference": "a"}, 404),
        ("answers/-1", {"preference": "a"}, 404),
        ("answers/x", {"preference": "a"}, 422),
        ("answers/0", {"preference": "a" * 3000}, 413),
    ],
)
def test_bad_answers_are_refused(client: TestClient, answers: Answers, path: str, body: Any, status: int) -> None:
    session = client.post("/api/sessions").json()["session"]
    response = client.post(f"/api/sessions/{session}/{path}", json=body)
    assert response.status_code == status
    assert "error" in response.json()
    assert answers.all() == []


def test_an_answer_stands(client: TestClient, answers: Answers) -> None:
    state = client.post("/api/sessions").json()
    path = f"/api/sessions/{state['session']}/answers/{state['next']['trial']}"
    assert client.post(path, json=given(state["next"])).status_code == 200
    assert client.post(path, json=given(state["next"])).status_code == 409
    assert len(answers.all()) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/sessions/nobody",
        "/api/sessions/nobody/clips/0/a",
        "/api/sessions/..%2f..%2fetc/clips/0/a",
        "/clips/x.flac",
        "/../answers.sqlite",
        "/docs",
        "/openapi.json",
    ],
)
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_clips_are_those_of_the_trial(client: TestClient, stimuli: Stimuli) -> None:
    session = client.post("/api/sessions").json()["session"]
    trials: list[Trial] = plan(session, stimuli.systems, stimuli.items, COUNTS)
    for number, trial in enumerate(trials):
        for place, side in enumerate("ab"):
            response = client.get(f"/api/sessions/{session}/clips/{number}/{side}")
            if place >= len(trial.systems):
                assert response.status_code == 404
                continue
            samples = soundfile.read(io.BytesIO(response.content), always_2d=True)[0].T
            expected = stimuli.clip(trial.item, trial.systems[place]).samples
            assert samples == pytest.approx(np.clip(expected, -1, 1), abs=1e-4)
    assert client.get(f"/api/sessions/{session}/clips/{len(trials)}/a").status_code == 404
    assert client.get(f"/api/sessions/{session}/clips/0/c").status_code == 422


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for response in (client.get("/"), client.get("/nowhere"), client.post("/api/sessions")):
        for name, value in HEADERS.items():
            assert response.headers[name] == value


def test_the_page_needs_nothing_from_outside(client: TestClient) -> None:
    page = client.get("/").text
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<link") == page.count('<link rel="icon" href="data:,">') == 1  # no request for a favicon


def test_two_tests_do_not_share_a_file(stimuli: Stimuli, answers: Answers) -> None:
    make_app(stimuli, answers, COUNTS, page_of_test())
    with pytest.raises(UserError, match="answers of another test"):
        make_app(stimuli, answers, TrialCounts(), "")
