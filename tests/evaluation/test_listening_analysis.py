"""Simulated listeners whose preferences are known, through the real plan and store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.evaluation.listening import ANCHORS, Answer, Trial, TrialCounts, analyse, attentive, bradley_terry, plan
from ssmttm.evaluation.listening_app import Answers
from ssmttm.reports.listening import to_html, to_markdown

STRENGTHS = {"good": 1.0, "middling": 0.0, "poor": -1.0}  # log odds, mean 0
OPINIONS = {"good": 4.0, "middling": 3.2, "poor": 2.3, **dict.fromkeys(ANCHORS, 1.3)}
ITEMS = [f"item {i}" for i in range(12)]
COUNTS = TrialCounts(pairs=12, ratings=9, anchors=2, checks=1)


def answer(trial: Trial, random: np.random.Generator, bias: float) -> dict[str, str | int]:
    """A listener with a bias of their own in ratings, the same for all systems."""
    if trial.kind == "pair-check":
        return {"preference": str(trial.expected)}
    if trial.kind == "rating-check":
        return {"quality": int(trial.expected or 0), "relevance": int(trial.expected or 0)}
    if trial.kind == "pair":
        odds = STRENGTHS[trial.systems[0]] - STRENGTHS[trial.systems[1]]
        first = random.random() < 1 / (1 + np.exp(-odds))
        return {"preference": "a" if first else "b"}

    def score(mean: float) -> int:
        low = np.floor(mean)
        return int(low + (random.random() < mean - low))

    mean = np.clip(OPINIONS[trial.systems[0]] + bias, 1, 5)
    return {"quality": score(mean), "relevance": score(mean)}


def simulate(answers: Answers, sessions: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    answers.settle(sorted(STRENGTHS), ITEMS, COUNTS)
    for i in range(sessions):
        name = f"listener {seed} {i}"
        answers.begin(name)
        bias = random.uniform(-0.3, 0.3)
        for number, trial in enumerate(plan(name, sorted(STRENGTHS), ITEMS, COUNTS)):
            assert answers.add(name, number, trial, **answer(trial, random, bias))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    stored = Answers(str(tmp_path_factory.mktemp("listening") / "answers.sqlite"))
    simulate(stored, 40, 0)
    return stored


def test_known_preferences_are_recovered_within_their_intervals(answers: Answers) -> None:
    content = analyse(answers.all(), answers.number_of_trials())
    assert (content["sessions"], content["finished"], content["inattentive"]) == (40, 40, 0)
    for name, strength in STRENGTHS.items():
        entry = content["bradley_terry"][name]
        assert entry["low"] <= strength <= entry["high"], (name, entry)
        assert entry["high"] - entry["low"] < 0.8
        assert entry["n"] == 40 * 8
    for question in ("quality", "relevance"):
        for name, opinion in OPINIONS.items():
            entry = content["mean_opinion"][question][name]
            assert entry["low"] - 0.02 <= opinion <= entry["high"] + 0.02, (question, name, entry)
    means = [content["mean_opinion"]["quality"][name]["low"] for name in ("good", "middling", "poor")]
    assert means[0] > means[1] > means[2] > content["mean_opinion"]["quality"][ANCHORS[0]]["high"]


def test_intervals_narrow_with_listeners(answers: Answers) -> None:
    def mean_width(chosen: list[Answer]) -> float:
        entries = analyse(chosen, answers.number_of_trials())["bradley_terry"].values()
        return float(np.mean([entry["high"] - entry["low"] for entry in entries]))

    few = [one for one in answers.all() if int(one.session.rsplit(" ", 1)[-1]) < 8]
    assert mean_width(answers.all()) < 0.75 * mean_width(few)


def test_listeners_who_do_not_listen_are_left_out(answers: Answers) -> None:
    def careless(kind: str, **changes: str | int) -> list[Answer]:
        sample = [one for one in answers.all() if one.session == "listener 0 0"]
        return [
            Answer(**{**one.__dict__, "session": "careless", **(changes if one.kind == kind else {})}) for one in sample
        ]

    honest = answers.all()
    without = analyse(honest, answers.number_of_trials())
    for spoiled in (careless("rating-check", quality=5), careless("pair-check", preference="same")):
        assert not attentive(spoiled)
        content = analyse(honest + spoiled, answers.number_of_trials())
        assert content["inattentive"] == 1
        assert content["bradley_terry"] == without["bradley_terry"]
        assert content["mean_opinion"] == without["mean_opinion"]


def test_strengths_of_two_have_a_closed_form() -> None:
    """With one pair the odds are those of wins, here with half a win of the prior for each."""
    strengths = bradley_terry(np.array([[0.0, 29.5], [9.5, 0.0]]))
    assert strengths[0] - strengths[1] == pytest.approx(np.log(3))
    assert strengths.sum() == pytest.approx(0)
    assert np.isfinite(bradley_terry(np.array([[0.0, 10], [0, 0]]))).all()


def test_pages_hold_all_tables(answers: Answers) -> None:
    content = analyse(answers.all(), answers.number_of_trials())
    markdown, html = to_markdown(content), to_html(content)
    for words in ("Overall quality", "Fit to the text", "Bradley-Terry", "good", "anchor: noise"):
        assert words in markdown
        assert words in html
    assert markdown.index("| good") < markdown.index("| middling") < markdown.index("| poor")
    assert "listener 0" not in markdown + html


def test_an_empty_test_has_an_empty_report() -> None:
    content = analyse([], 10)
    assert content["sessions"] == 0
    assert to_markdown(content).count("|") == 0


def test_of_a_listener_nothing_but_answers_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    Answers(str(path))
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}
    given = ["preference", "quality", "relevance"]
    assert columns == {
        "test": ["id", "content"],
        "sessions": ["id"],
        "answers": ["session", "trial", "kind", "item", "systems", "expected", *given],
    }


def test_the_store_keeps_first_answers_and_one_test(tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    answers = Answers(path)
    with pytest.raises(UserError, match="holds no test"):
        answers.number_of_trials()
    answers.settle(["a", "b"], ["x"], COUNTS)
    answers.begin("s")
    trial = Trial("pair", "x", ("a", "b"))
    assert answers.add("s", 0, trial, preference="a")
    assert not answers.add("s", 0, trial, preference="b")
    assert Answers(path).all() == [Answer("s", 0, "pair", "x", ("a", "b"), None, "a")]
    assert (answers.done("s"), answers.knows("s"), answers.knows("t")) == ({0}, True, False)
    with pytest.raises(UserError, match="answers of another test"):
        answers.settle(["a", "c"], ["x"], COUNTS)
    (tmp_path / "other").write_text("no database, but long enough to be looked at")
    with pytest.raises(UserError, match="not a file of answers"):
        Answers(str(tmp_path / "other"))
