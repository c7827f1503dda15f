from __future__ import annotations

import numpy as np
import pytest

from ssmttm.evaluation.clips import analyse

RATE = 24_000
TIME = np.arange(5 * RATE) / RATE


def melody() -> np.ndarray:
    notes = np.repeat(220 * 2 ** (np.array([0, 4, 7, 12, 7, 4, 0, 5, 9, 12]) / 12), RATE // 2)
    envelope = np.exp(-3 * (TIME % 0.5))
    return (0.4 * np.sin(2 * np.pi * np.cumsum(notes) / RATE) * envelope).astype(np.float32)


SOUNDS = {
    "silence": np.zeros_like(TIME),
    "hum": 0.3 * np.sin(2 * np.pi * 50 * TIME) + 0.1 * np.sin(2 * np.pi * 100 * TIME),
    "noise": np.random.default_rng(0).normal(size=len(TIME)) * 0.1,
    "music": melody(),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_kinds_of_sound(kind: str) -> None:
    assert analyse(SOUNDS[kind].astype(np.float32), RATE)[0].kind == kind


def test_levels_and_length() -> None:
    wav = np.zeros((2, RATE), np.float32)
    wav[0, 100] = -0.5
    clip, moments = analyse(wav, RATE)
    assert (clip.seconds, clip.peak) == (1.0, 0.5)
    assert clip.rms == pytest.approx(0.25 / np.sqrt(RATE))
    assert moments.count == 25
