"""How close decoded audio is to its original, blind to phase.

Shapes: B batch, N samples, F frames, M mel bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmttm.audio import mel_filters

FFT_SIZE = 2048
HOP = 480
NUM_MELS = 100
FLOOR = 1e-5


def log_mel(wav_BN: Tensor, sample_rate: int) -> Tensor:
    """Natural logarithm [B, F, M] of `NUM_MELS` mel magnitudes, floored at `FLOOR`.

    Magnitudes of an unscaled Hann STFT under unit-area filters (the convention of HiFi-GAN, arXiv 2010.05646), at
    2048 samples per frame and a hop of 480: at 24 kHz, 85 ms and 20 ms.
    """
    window = torch.hann_window(FFT_SIZE, device=wav_BN.device)
    spectrum_BKF = torch.stft(wav_BN, FFT_SIZE, HOP, window=window, pad_mode="constant", return_complex=True)
    filters = mel_filters(sample_rate, FFT_SIZE, NUM_MELS).to(wav_BN.device)
    return (spectrum_BKF.abs().mT @ filters.T).clamp_min(FLOOR).log()


def logmel_l1(decoded_BN: Tensor, original_BN: Tensor, sample_rate: int) -> float:
    """Mean absolute difference of the two waveforms' `log_mel`, in nats (1 nat is 8.7 dB).

    The waveforms are compared as they are, so they should be at a usual level (peaks near 1).
    """
    return float((log_mel(decoded_BN, sample_rate) - log_mel(original_BN, sample_rate)).abs().mean())
