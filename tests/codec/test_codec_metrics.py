"""The codec's error measure."""

from __future__ import annotations

import math

import pytest
import torch

from ssmttm.codec.metrics import FLOOR, NUM_MELS, log_mel, logmel_l1


def noise(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(seed))


def test_identical_audio_has_no_error_and_level_counts_in_nats() -> None:
    wav = noise(0)
    assert logmel_l1(wav, wav, 24_000) == 0
    assert logmel_l1(wav * math.e, wav, 24_000) == pytest.approx(1.0, abs=1e-4)


def test_phase_does_not_count_but_pitch_does() -> None:
    t = torch.arange(24_000) / 24_000
    tones = [torch.sin(2 * math.pi * f * t + p) for f, p in ((440, 0), (440, 1), (466, 0))]
    sine, shifted, other = (tone[None] * torch.hann_window(24_000) + 0.001 * noise(0)[:1] for tone in tones)
    assert logmel_l1(shifted, sine, 24_000) < 0.3 * logmel_l1(other, sine, 24_000)


def test_silence_lies_on_the_floor() -> None:
    frames = log_mel(torch.zeros(1, 4800), 24_000)
    assert frames.shape == (1, 11, NUM_MELS)
    assert torch.allclose(frames, torch.tensor(math.log(FLOOR)))
