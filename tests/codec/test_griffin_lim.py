"""Griffin-Lim in blocks: right pitch, small spectral error, and independent blocks of a stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssmttm.codec.griffin_lim import GriffinLim, GriffinLimState, _peak_bins

FFT, HOP, RATE = 256, 64, 8000


def tones(frames: int) -> Tensor:
    """A chord with a gap and a second chord: [1, N]."""
    t = torch.arange(frames * HOP) / RATE
    first = sum(torch.sin(2 * torch.pi * f * t) for f in (440.0, 660.0, 1234.5))
    second = sum(torch.sin(2 * torch.pi * f * t) for f in (300.0, 900.0))
    half = len(t) // 2
    return (0.2 * torch.where(torch.arange(len(t)) < half, first, second))[None]


def in_blocks(vocoder: GriffinLim, magnitude_BFK: Tensor, block: int, ahead: int) -> Tensor:
    pieces, state, start = [], None, 0
    while start < magnitude_BFK.shape[1]:
        rest = magnitude_BFK[:, start:]
        last = rest.shape[1] < block + ahead
        finish = rest.shape[1] if last else block
        wav_BN, state = vocoder.block(rest if last else rest[:, : block + ahead], state, finish)
        pieces.append(wav_BN)
        start += finish
    return torch.cat(pieces, dim=1)


def spectral_error(vocoder: GriffinLim, wav_BN: Tensor, magnitude_BFK: Tensor) -> float:
    return float((vocoder.stft(wav_BN).abs() - magnitude_BFK).norm() / magnitude_BFK.norm())


@pytest.mark.parametrize(("block", "ahead"), [(1000, 0), (10, 4), (7, 3)])
def test_magnitudes_come_back(block: int, ahead: int) -> None:
    vocoder = GriffinLim(FFT, HOP, iterations=16)
    magnitude_BFK = vocoder.stft(tones(60)).abs()
    wav_BN = in_blocks(vocoder, magnitude_BFK, block, ahead)
    assert wav_BN.shape == (1, 60 * HOP)
    assert spectral_error(vocoder, wav_BN, magnitude_BFK) < 0.1


def test_more_iterations_fit_better() -> None:
    errors = []
    for iterations in (1, 4, 16):
        vocoder = GriffinLim(FFT, HOP, iterations)
        magnitude_BFK = vocoder.stft(tones(60)).abs()
        errors.append(spectral_error(vocoder, in_blocks(vocoder, magnitude_BFK, 10, 4), magnitude_BFK))
    assert errors == sorted(errors, reverse=True)


def test_no_click_where_blocks_meet() -> None:
    vocoder = GriffinLim(FFT, HOP, iterations=8)
    t = torch.arange(60 * HOP) / RATE
    wav_BN = in_blocks(vocoder, vocoder.stft(torch.sin(2 * torch.pi * 440 * t)[None]).abs(), 10, 4)
    bend = (wav_BN[0, 2:] - 2 * wav_BN[0, 1:-1] + wav_BN[0, :-2]).abs()  # (2 pi 440 / 8000)^2 = 0.12 for the sine
    assert bend[4 * HOP : -4 * HOP].max() < 0.2


def test_finished_samples_do_not_depend_on_later_blocks() -> None:
    vocoder = GriffinLim(FFT, HOP, iterations=4)
    magnitude_BFK = vocoder.stft(tones(40)).abs()
    other_BFK = magnitude_BFK.clone()
    other_BFK[:, 24:] = 0
    one, other = (in_blocks(vocoder, values, 10, 4) for values in (magnitude_BFK, other_BFK))
    kept = 20 * HOP - vocoder.margin  # blocks 0 and 1 see frames 0 to 23
    assert torch.equal(one[:, :kept], other[:, :kept])
    assert not torch.equal(one, other)


def test_silence_stays_silent() -> None:
    vocoder = GriffinLim(FFT, HOP, iterations=4)
    wav_BN = in_blocks(vocoder, torch.zeros(2, 20, FFT // 2 + 1), 8, 4)
    assert torch.equal(wav_BN, torch.zeros(2, 20 * HOP))


def test_state_carries_only_what_overlaps() -> None:
    vocoder = GriffinLim(FFT, HOP, iterations=2)
    wav_BN, state = vocoder.block(vocoder.stft(tones(14)).abs(), None, finish=10)
    assert isinstance(state, GriffinLimState)
    assert wav_BN.shape == (1, 10 * HOP - vocoder.margin)
    assert state.sum_BN.shape == (1, FFT - HOP)
    assert state.ahead_BFK.shape == (1, 4, FFT // 2 + 1)


def test_peaks_are_found_between_bins() -> None:
    frequency = 441.7
    t = torch.arange(FFT) / RATE
    window = torch.hann_window(FFT)
    magnitude_K = torch.fft.rfft(torch.sin(2 * torch.pi * frequency * t) * window).abs()
    expected = frequency * FFT / RATE
    found_K = _peak_bins(magnitude_K)
    assert found_K[round(expected) - 1 : round(expected) + 2] == pytest.approx(expected, abs=0.05)
    assert torch.equal(_peak_bins(torch.ones(5)), torch.arange(5.0))  # no peak: each bin is its own
