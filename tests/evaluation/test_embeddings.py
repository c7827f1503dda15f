from __future__ import annotations

import numpy as np
import pytest

from ssmttm.evaluation.embeddings import (
    FLOOR,
    NUM_MELS,
    averaged,
    log_mel,
    logmel_statistics,
    magnitudes,
    with_changes,
)

RATE = 24_000


def tone(hz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_magnitude_of_a_sine_is_its_amplitude() -> None:
    spectrum = magnitudes(tone(1500.0), 1024, 256)  # 1500 Hz is bin 64 exactly
    assert spectrum[10:-10, 64] == pytest.approx(0.5, rel=1e-3)


def test_frames_are_10_ms_and_silence_is_the_floor() -> None:
    frames = log_mel(np.zeros(RATE, np.float32), RATE)
    assert frames.shape == (101, NUM_MELS)
    assert np.all(frames == np.log(np.float32(FLOOR)))


def test_other_rates_and_channels_give_the_same_picture() -> None:
    mono = log_mel(tone(440.0), RATE)
    stereo_44k = log_mel(np.stack([tone(440.0, rate=44_100)] * 2), 44_100)
    loud = mono > np.log(0.01)
    assert mono.shape == stereo_44k.shape
    assert np.abs(mono - stereo_44k)[10:-10][loud[10:-10]].max() < 0.05


def test_clips_shorter_than_a_window_are_measured() -> None:
    assert np.isfinite(logmel_statistics(tone(440.0, seconds=0.01), RATE)).all()


def test_averaging_is_over_amplitude() -> None:
    frames = np.log(np.array([[1.0], [3.0], [5.0], [5.0], [9.0]], np.float32))
    assert np.exp(averaged(frames, 2))[:, 0] == pytest.approx([2.0, 5.0])


def test_changes_are_of_the_neighbours() -> None:
    frames = np.array([[0.0], [1.0], [4.0]])
    assert with_changes(frames).tolist() == [[0, 1], [1, 4], [4, 3]]


def test_statistics_ignore_length_and_tell_sounds_apart() -> None:
    short, long = (logmel_statistics(tone(440.0, seconds), RATE) for seconds in (2.0, 4.0))
    other = logmel_statistics(tone(2000.0, 2.0), RATE)
    assert short.shape == (6 * NUM_MELS,)
    assert short.dtype == np.float32
    assert np.linalg.norm(short - long) < 0.3 * np.linalg.norm(short - other)
