"""The codec's error measure."""

from __future__ import annotations

import math

import pytest
import torch

from ssmttm.codec.metrics import FLOOR, NUM_MELS, log_mel, logmel_l1, stft_distance


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


def test_stft_distance_is_zero_for_the_same_and_blind_to_sign() -> None:
    wav_BN = torch.randn(2, 9600, generator=torch.Generator().manual_seed(0))
    same = stft_distance(-wav_BN, wav_BN)
    assert float(same.convergence) == pytest.approx(0, abs=1e-4)
    assert float(same.level) == pytest.approx(0, abs=1e-4)


def test_stft_distance_of_a_louder_copy_is_known() -> None:
    wav_BN = torch.randn(2, 9600, generator=torch.Generator().manual_seed(0))
    louder = stft_distance(2 * wav_BN, wav_BN)
    assert float(louder.convergence) == pytest.approx(1, abs=1e-3)
    assert float(louder.level) == pytest.approx(math.log(2), abs=1e-3)


def test_stft_distance_has_gradients_in_silence() -> None:
    decoded_BN = torch.zeros(1, 9600, requires_grad=True)
    distance = stft_distance(decoded_BN, torch.randn(1, 9600, generator=torch.Generator().manual_seed(0)))
    (distance.convergence + distance.level).backward()
    assert decoded_BN.grad is not None
    assert bool(decoded_BN.grad.isfinite().all())
