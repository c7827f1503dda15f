from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation.listening import (
    ANCHORS,
    FADE_S,
    LOW_ANCHOR,
    NOISE_ANCHOR,
    RATE,
    TrialCounts,
    in_noise,
    low_pass,
    plan,
    read_stimuli,
)
from ssmttm.evaluation.measures import loudness

SYSTEMS, ITEMS = ["a", "b", "c"], [f"item {i}" for i in range(7)]


def tone(level: float, seconds: float = 1.0, rate: int = 24_000, channels: int = 1) -> Audio:
    time = np.arange(round(seconds * rate)) / rate
    wav = level * (np.sin(2 * np.pi * 300 * time) + 0.5 * np.sin(2 * np.pi * 5000 * time))
    return Audio(np.stack([wav] * channels).astype(np.float32), rate)


def write(folder: Path, clips: dict[str, Audio], prompt: str | None = None) -> str:
    folder.mkdir()
    for name, clip in clips.items():
        audio.write(str(folder / f"{name}.wav"), clip, {"prompt": prompt, "model": folder.name} if prompt else None)
    return str(folder)


def test_stimuli_are_alike_in_all_that_could_tell_them_apart(tmp_path: Path) -> None:
    quiet = write(tmp_path / "quiet", {"x": tone(0.02), "y": tone(0.05), "alone": tone(0.1)})
    loud = write(tmp_path / "loud", {"x": tone(0.5, 1.2, 44_100, 2), "y": tone(0.6, 0.9, 32_000)}, "a tone")
    stimuli = read_stimuli([quiet, loud])
    assert (stimuli.items, stimuli.systems) == (["x", "y"], ["loud", "quiet"])
    assert stimuli.prompts == {"x": "a tone", "y": "a tone"}
    for item, seconds in (("x", 1.0), ("y", 0.9)):
        for system in (*stimuli.systems, *ANCHORS):
            clip = stimuli.clip(item, system)
            assert clip.samples.shape == (2, round(seconds * RATE))
            assert loudness(clip) == pytest.approx(stimuli.loudness, abs=0.05)
            assert np.abs(clip.samples).max() < 0.951
            assert clip.samples[:, 0].tolist() == [0, 0] or system in ANCHORS
    assert stimuli.loudness == pytest.approx(-23, abs=0.01)
    assert FADE_S * RATE > 500


def test_clips_that_cannot_be_raised_lower_all_others(tmp_path: Path) -> None:
    spiky = tone(0.01)
    spiky.samples[0, 5000] = 0.9
    folders = [write(tmp_path / "spiky", {"x": spiky}), write(tmp_path / "plain", {"x": tone(0.3)})]
    stimuli = read_stimuli(folders)
    assert stimuli.loudness < -30
    assert loudness(stimuli.clip("x", "plain")) == pytest.approx(stimuli.loudness, abs=0.05)
    assert np.abs(stimuli.clip("x", "spiky").samples).max() == pytest.approx(0.95, abs=0.01)


def test_anchors_are_what_they_are_called() -> None:
    clip = tone(0.3, rate=RATE)
    spectrum = np.abs(np.fft.rfft(low_pass(clip).samples[0]))
    assert spectrum[300] > 1000 * spectrum[5000]
    noisy = in_noise(clip, 0).samples - clip.samples
    assert 10 * np.log10(np.square(noisy).mean() / np.square(clip.samples).mean()) == pytest.approx(6, abs=0.2)


def test_folders_that_make_no_test_are_refused(tmp_path: Path) -> None:
    x, y = write(tmp_path / "x", {"a": tone(0.1)}), write(tmp_path / "y", {"b": tone(0.1)})
    with pytest.raises(UserError, match="no clip name in common"):
        read_stimuli([x, y])
    with pytest.raises(UserError, match="two folders are named x"):
        read_stimuli([x, x])
    silent = write(tmp_path / "silent", {"a": Audio(np.zeros((1, 24_000), np.float32), 24_000)})
    with pytest.raises(UserError, match="a clip is silent"):
        read_stimuli([x, silent])


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1, max_size=30), st.integers(0, 12), st.integers(0, 12), st.integers(0, 4), st.integers(0, 3))
def test_a_plan_is_its_sessions_and_balanced(session: str, pairs: int, ratings: int, anchors: int, checks: int) -> None:
    numbers = TrialCounts(pairs, ratings, anchors, checks)
    trials = plan(session, SYSTEMS, ITEMS, numbers)
    assert trials == plan(session, SYSTEMS, ITEMS, numbers)
    kinds = Counter(trial.kind for trial in trials)
    expected = {"pair": pairs, "rating": ratings + anchors, "pair-check": checks, "rating-check": checks}
    assert kinds == Counter({kind: number for kind, number in expected.items() if number})
    couples = Counter(frozenset(trial.systems) for trial in trials if trial.kind == "pair")
    assert not couples or max(couples.values()) - min(couples[frozenset(c)] for c in ("ab", "bc", "ac")) <= 1
    rated = Counter(trial.systems[0] for trial in trials if trial.kind == "rating")
    assert max(rated[name] for name in SYSTEMS) - min(rated[name] for name in SYSTEMS) <= 1
    assert sum(rated[name] for name in ANCHORS) == anchors
    for trial in trials:
        if trial.kind == "pair-check":
            assert trial.systems["ab".index(str(trial.expected))] in SYSTEMS
            assert NOISE_ANCHOR in trial.systems


def test_sessions_differ_and_sides_are_even() -> None:
    numbers = TrialCounts(pairs=6)
    plans = [plan(f"session {i}", SYSTEMS, ITEMS, numbers) for i in range(100)]
    assert plans[0] != plans[1]
    pairs = [trial for trials in plans for trial in trials if trial.kind == "pair"]
    first = np.mean([trial.systems[0] < trial.systems[1] for trial in pairs])
    assert 0.43 < first < 0.57
    assert {trial.item for trial in pairs} == set(ITEMS)
    assert LOW_ANCHOR in {trial.systems[0] for trials in plans for trial in trials if trial.kind == "rating"}


def test_pairs_need_two_systems() -> None:
    with pytest.raises(UserError, match="pairs need two systems"):
        plan("x", ["a"], ITEMS, TrialCounts())
    assert plan("x", ["a"], ITEMS, TrialCounts(pairs=0))
