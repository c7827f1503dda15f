"""How close decoded audio is to its original, blind to phase.

Shapes: B batch, N samples, F frames, M mel bands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssmttm import audio
from ssmttm.audio import mel_filters

FFT_SIZE = 2048
HOP = 480
NUM_MELS = 100
FLOOR = 1e-5
RESOLUTIONS = (512, 1024, 2048)
STFT_FLOOR = 1e-3


def log_mel(wav_BN: Tensor, sample_rate: int) -> Tensor:
    """Natural logarithm [B, F, M] of `NUM_MELS` mel magnitudes, floored at `FLOOR`.

    Magnitudes of an unscaled Hann STFT under unit-area filters (the convention of HiFi-GAN, arXiv 2010.05646), at
    2048 samples per frame and a hop of 480: at 24 kHz, 85 ms and 20 ms.
    """
    window = torch.hann_window(FFT_SIZE, device=wav_BN.device)
    spectrum_BKF = torch.stft(wav_BN, FFT_SIZE, HOP, window=window, pad_mode="constant", return_complex=True)
    filters = mel_filters(sample_rate, FFT_SIZE, NUM_MELS).to(wav_BN.device)
    return audio.log_mel(spectrum_BKF.abs().mT, filters.T, FLOOR)


class StftDistance(NamedTuple):
    """Scalars, each a mean over `RESOLUTIONS`; differentiable in the first waveform.

    convergence: norm of the difference of magnitudes over that of the original's, a mean over rows. level: mean
    absolute difference of natural-log magnitudes, floored at `STFT_FLOOR` (about the rounding noise of 16-bit samples).
    """

    convergence: Tensor
    level: Tensor


def stft_distance(decoded_BN: Tensor, original_BN: Tensor) -> StftDistance:
    """Multi-resolution STFT distance (Parallel WaveGAN, arXiv 1910.11480, whose loss is the sum of the two).

    Unscaled Hann STFTs of 512, 1024 and 2048 samples, a quarter of that apart.
    """
    convergence, level = [], []
    for size in RESOLUTIONS:
        window = torch.hann_window(size, device=decoded_BN.device)
        decoded, original = (
            torch.view_as_real(
                torch.stft(wav_BN, size, size // 4, window=window, pad_mode="constant", return_complex=True)
            )
            .square()
            .sum(-1)
            .clamp_min(STFT_FLOOR**2)
            for wav_BN in (decoded_BN, original_BN)
        )
        wrong_B = (decoded.sqrt() - original.sqrt()).norm(dim=(1, 2)) / original.sqrt().norm(dim=(1, 2))
        convergence.append(wrong_B.mean())
        level.append(0.5 * (decoded.log() - original.log()).abs().mean())
    return StftDistance(torch.stack(convergence).mean(), torch.stack(level).mean())


def logmel_l1(decoded_BN: Tensor, original_BN: Tensor, sample_rate: int) -> float:
    """Mean absolute difference of the two waveforms' `log_mel`, in nats (1 nat is 8.7 dB).

    The waveforms are compared as they are, so they should be at a usual level (peaks near 1).
    """
    return float((log_mel(decoded_BN, sample_rate) - log_mel(original_BN, sample_rate)).abs().mean())
