from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssmttm.errors import UserError
from ssmttm.evaluation import adherence, music
from ssmttm.evaluation.measures import ClipAnalysis

GENRES, LEADS = ("rock", "jazz", "techno"), ("piano", "flute")
TRIAD = (0, 4, 7)


def piece(seed: int) -> tuple[ClipAnalysis, dict[str, Any]]:
    """A clip that is what its tags say: statistics with a direction for each attribute, exact tempo, a plain triad."""
    random = np.random.default_rng(seed)
    genre, lead, drums = seed % 3, seed // 3 % 2, seed % 2 == 0
    tonic, bpm = int(random.integers(12)), int(random.integers(70, 170))
    statistics = random.normal(size=30) * 0.3
    statistics[[genre, 3 + lead, 5 + drums]] += 3
    chroma = np.zeros(12)
    chroma[[(tonic + step) % 12 for step in TRIAD]] = (0.4, 0.25, 0.35)
    tags = {
        "genre": GENRES[genre],
        "lead": LEADS[lead],
        "drums": drums,
        "bpm": bpm,
        "key": music.TONICS[tonic],
        "mode": "major",
    }
    return ClipAnalysis(10.0, 0.8, 0.1, 0.3, 0.6, statistics.astype(np.float32), float(bpm), chroma), tags


def pieces(seeds: range) -> tuple[list[ClipAnalysis], list[dict[str, Any]]]:
    clips, tags = zip(*(piece(seed) for seed in seeds), strict=True)
    return list(clips), list(tags)


@pytest.fixture(scope="module")
def probes() -> adherence.Probes:
    clips, tags = pieces(range(90))
    return adherence.Probes([clip.statistics for clip in clips], tags)


def shares(probes: adherence.Probes, clips: list[ClipAnalysis], asked: list[dict[str, Any]]) -> dict[str, float]:
    hits = adherence.follows(probes.hear(clips), clips, asked)
    return {name: adherence.share(name, values, asked) for name, values in hits.items()}


def test_what_is_as_asked_scores_one_and_shuffled_prompts_score_chance(probes: adherence.Probes) -> None:
    clips, tags = pieces(range(100, 196))
    real = shares(probes, clips, tags)
    assert set(real) == set(adherence.TITLES)
    assert {real[name] for name in adherence.ATTRIBUTES} == {1.0}
    assert real["key_rank"] == 0
    shuffled = shares(probes, clips, [tags[i] for i in adherence.derangement(len(tags))])
    assert shuffled["genre"] == 0  # neighbours differ in genre here
    assert shuffled["drums"] == 0
    assert shuffled["tempo"] < 0.5
    assert shuffled["key"] < 0.25
    assert shuffled["key_rank"] > 2


def test_drums_are_the_mean_over_both_classes(probes: adherence.Probes) -> None:
    clips, tags = pieces(range(100, 160))
    asked = [{**tag, "drums": True} for tag in tags[:40]] + [{**tag, "drums": False} for tag in tags[40:]]
    heard = [{**ear, "drums": "True"} for ear in probes.hear(clips)]
    hits = adherence.follows(heard, clips, asked)["drums"]
    assert adherence.share("drums", hits, asked) == 0.5
    assert adherence.share("drums", hits, asked, np.arange(40)) == 1  # a draw without the other class


def test_half_tempo_counts_but_is_not_strict(probes: adherence.Probes) -> None:
    clips, tags = pieces(range(100, 110))
    slow = [replace(clip, bpm=clip.bpm / 2) for clip in clips]
    found = shares(probes, slow, tags)
    assert (found["tempo"], found["tempo_strict"]) == (1.0, 0.0)


def test_measured_speaks_in_tags(probes: adherence.Probes) -> None:
    clip, tags = piece(123)
    assert adherence.measured(probes.hear([clip])[0], clip, tags["mode"]) == tags


def test_probes_need_two_kinds() -> None:
    clips, tags = pieces(range(12))
    with pytest.raises(UserError, match="probe for 'genre' needs clips of at least two kinds"):
        adherence.Probes([clip.statistics for clip in clips], [{**tag, "genre": "rock"} for tag in tags])


def test_derangement_moves_everything() -> None:
    for count in (2, 5, 96):
        order = adherence.derangement(count)
        assert sorted(order) == list(range(count))
        assert all(i != j for i, j in enumerate(order))
    with pytest.raises(ValueError, match="two clips"):
        adherence.derangement(1)


@pytest.fixture
def drifting() -> tuple[list[list[ClipAnalysis]], list[dict[str, Any]]]:
    """Two pieces of twelve segments of 10 s: as asked for a minute, then like another piece of another genre."""
    clips, tags = pieces(range(100, 104))
    made = [[clips[i]] * 6 + [clips[i + 1]] * 6 for i in (0, 2)]
    return made, [tags[0], tags[2]]


def test_rows_are_of_the_last_minute_before_each_mark(
    probes: adherence.Probes,
    drifting: tuple[list[list[ClipAnalysis]], list[dict[str, Any]]],
) -> None:
    made, asked = drifting
    beginning, one, half_way, two = adherence.drift(probes, asked, made, (1, 1.5, 2), 10.0)
    assert [row["minute"] for row in (beginning, one, half_way, two)] == [0, 1, 1.5, 2]
    assert [row["segments"] for row in (beginning, one, half_way, two)] == [2, 12, 12, 12]
    for name in ("genre", "genre_kept", "tempo"):
        assert beginning[name] == one[name] == 1
    assert (half_way["genre"], half_way["genre_kept"]) == (0.5, 0.5)
    assert (two["genre"], two["genre_kept"]) == (0, 0)
    assert two["rms"] == pytest.approx(np.mean([piece[-1].rms for piece in made]))
