"""What listeners said: mean opinion scores and Bradley-Terry strengths, with bootstrap intervals over sessions.

S systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ssmttm.evaluation.intervals import interval, resampled
from ssmttm.evaluation.listening import ANCHORS
from ssmttm.evaluation.listening_store import Answer
from ssmttm.reports.comparison import short
from ssmttm.reports.page import page, table

DRAWS = 1000
QUESTIONS = ("quality", "relevance")
PRIOR = 0.5  # of a win and a loss against every other: keeps strengths finite where one system always wins


def attentive(answers: Sequence[Answer]) -> bool:
    """Whether a session answered all of its checks right."""
    return all(
        one.preference == one.expected
        if one.kind == "pair-check"
        else one.quality == one.expected and one.relevance in (one.expected, None)
        for one in answers
        if one.kind.endswith("-check")
    )


def bradley_terry(wins_SS: np.ndarray, rounds: int = 500) -> np.ndarray:
    """Strengths [S] in log odds, of mean 0, from wins of each system (row) over each other (column); a tie is half a
    win for both. Minorisation-maximisation (Hunter 2004, The Annals of Statistics 32), with a weak prior. Further
    dimensions before these are tables of their own."""
    wins = wins_SS + PRIOR * (1 - np.eye(wins_SS.shape[-1]))
    met, total = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    logs = np.zeros_like(total)
    for _ in range(rounds):
        strength = np.exp(logs)
        updated = np.log(total / (met / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1))
        updated -= updated.mean(axis=-1, keepdims=True)
        moved, logs = np.abs(updated - logs).max(), updated
        if moved < 1e-9:
            break
    return logs


def _wins(answers: Sequence[Answer], systems: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(systems)}
    wins = np.zeros((len(systems), len(systems)))
    for one in answers:
        first, second = (place[name] for name in one.systems)
        share = {"a": 1.0, "b": 0.0, "same": 0.5}[str(one.preference)]
        wins[first, second] += share
        wins[second, first] += 1 - share
    return wins


def _entry(value: float, replicas: np.ndarray) -> dict[str, float]:
    low, high = interval(value, replicas)
    assert low is not None
    assert high is not None
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}


def _means(sessions: Sequence[Sequence[Answer]], name: str, question: str, seed: int) -> dict[str, float] | None:
    """Mean score of a system and its interval. Sessions are drawn, not answers: one listener's are alike."""
    given = [
        [value for one in session if one.systems == (name,) and (value := getattr(one, question)) is not None]
        for session in sessions
    ]
    given = [values for values in given if values]
    if not given:
        return None
    sums, counts = np.array([sum(v) for v in given], dtype=float), np.array([len(v) for v in given], dtype=float)
    drawn = [sums[chosen].sum() / counts[chosen].sum() for chosen in resampled(len(given), DRAWS, seed)]
    return {**_entry(float(sums.sum() / counts.sum()), np.array(drawn)), "n": int(counts.sum())}


def analyse(answers: Sequence[Answer], trials: int, seed: int = 0) -> dict[str, Any]:
    """Scores of all systems and anchors, from sessions that are attentive; unfinished ones count as far as they went.

    Args:
        trials: of a whole session.
    """
    by_session: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        by_session[one.session].append(one)
    kept = [session for session in by_session.values() if attentive(session)]
    pairs = [[one for one in session if one.kind == "pair"] for session in kept]
    ratings = [[one for one in session if one.kind == "rating"] for session in kept]
    rated = sorted({name for session in ratings for one in session for name in one.systems})
    opinions = {
        question: {name: entry for name in rated if (entry := _means(ratings, name, question, seed))}
        for question in QUESTIONS
    }
    met = sorted({name for session in pairs for one in session for name in one.systems})
    preferences: dict[str, Any] = {}
    if met:
        wins = np.stack([_wins(session, met) for session in pairs])
        strengths = bradley_terry(wins.sum(axis=0))
        drawn = bradley_terry(np.stack([wins[chosen].sum(axis=0) for chosen in resampled(len(wins), DRAWS, seed)]))
        met_times = (wins + wins.transpose(0, 2, 1)).sum(axis=(0, 2))
        preferences = {
            name: {**_entry(float(strengths[i]), drawn[:, i]), "n": round(float(met_times[i]))}
            for i, name in enumerate(met)
        }
    return {
        "sessions": len(by_session),
        "finished": sum(len(session) == trials for session in by_session.values()),
        "inattentive": len(by_session) - len(kept),
        "draws": DRAWS,
        "seed": seed,
        "mean_opinion": opinions,
        "bradley_terry": preferences,
    }


def _tables(content: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    def rows(entries: dict[str, Any]) -> list[tuple[str, str, str]]:
        order = sorted(entries, key=lambda name: (name in ANCHORS, -entries[name]["value"]))
        return [
            (
                name,
                f"{short(entries[name]['value'])} [{short(entries[name]['low'])}, {short(entries[name]['high'])}]",
                str(entries[name]["n"]),
            )
            for name in order
        ]

    titles = {"quality": "Overall quality, 1 to 5", "relevance": "Fit to the text, 1 to 5"}
    found = [(titles[question], rows(content["mean_opinion"][question])) for question in QUESTIONS]
    found.append(("Preferred in pairs, log odds (Bradley-Terry)", rows(content["bradley_terry"])))
    return [(title, entries) for title, entries in found if entries]


def _about(content: dict[str, Any]) -> str:
    return (
        f"{content['sessions']} sessions, {content['finished']} of them finished; {content['inattentive']} that failed "
        f"a check are left out. In brackets 95 % bootstrap intervals over sessions ({content['draws']} draws)."
    )


def to_markdown(content: dict[str, Any]) -> str:
    blocks = ["# Listening test", _about(content)]
    for title, rows in _tables(content):
        lines = [f"| {title} | Mean | Answers |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def to_html(content: dict[str, Any]) -> str:
    tables = "".join(
        f'<section><div class="card">{table(title, ("", "Mean", "Answers"), [tuple(map(escape, row)) for row in rows])}'
        "</div></section>"
        for title, rows in _tables(content)
    )
    return page("Listening test", f"<header><h1>Listening test</h1><p>{escape(_about(content))}</p></header>{tables}")
