"""Log-mel frames and the fixed-length vector of their statistics that probes read.

N samples, T frames, M mel bands. Audio of any rate is resampled to `ANALYSIS_RATE` first, so that figures of two
codecs or two corpora are comparable.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ssmttm import audio
from ssmttm.audio import Audio, mel_filters, resample

ANALYSIS_RATE = 24_000  # Hz
FFT_SIZE = 1024
HOP = 240
ONSET_RATE = ANALYSIS_RATE / HOP  # 100 frames per second: 10 ms, the resolution tempo needs
# Frames are averaged before statistics are taken: 10 ms frames of any vocoded or quantised audio flutter, and a probe
# trained on real clips took that for a genre (0.08 right on a codec's reconstructions without averaging, 0.99 with it).
DISTANCE_FRAMES = 4  # 40 ms: one code frame
STATISTICS_FRAMES = 8  # 80 ms
NUM_MELS = 80
FLOOR = 1e-4  # -80 dB: below it two clips sound alike, and codecs differ from digital silence by more


def as_mono(wav: np.ndarray, sample_rate: int, rate: int = ANALYSIS_RATE) -> np.ndarray:
    """Bring samples [N] or [C, N] at `sample_rate` to mono float32 [N] at `rate` (Hz)."""
    samples = np.asarray(wav, dtype=np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    return resample(Audio(samples[None], sample_rate), rate).samples[0]


def magnitudes(wav_N: np.ndarray, fft_size: int, hop: int) -> np.ndarray:
    """Hann-windowed magnitude spectra [T, fft_size // 2 + 1] float32, scaled so that a sine of amplitude 1 reads 1."""
    window = torch.hann_window(fft_size)
    samples = torch.from_numpy(np.ascontiguousarray(wav_N, dtype=np.float32))
    if samples.numel() <= fft_size:  # reflection padding needs more samples than it adds
        samples = torch.nn.functional.pad(samples, (0, fft_size + 1 - samples.numel()))
    spectrum = torch.stft(samples, fft_size, hop, window=window, return_complex=True)
    return (spectrum.abs().T * (2 / float(window.sum()))).numpy()


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    bandwidth = ANALYSIS_RATE / FFT_SIZE  # unit-area filters times the bin width: dimensionless band means
    return np.ascontiguousarray(mel_filters(ANALYSIS_RATE, FFT_SIZE, NUM_MELS).numpy().T * bandwidth)


def log_mel(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Natural logarithm of mel band amplitudes, float32 [T, NUM_MELS], 100 frames per second, floored at -80 dB.

    Args:
        wav: samples [N] or [C, N] in [-1, 1].
        sample_rate: of `wav`, in Hz.
    """
    return audio.log_mel(magnitudes(as_mono(wav, sample_rate), FFT_SIZE, HOP), _filters(), FLOOR)


def averaged(log_mel_TM: np.ndarray, frames: int) -> np.ndarray:
    """Logarithm of the mean amplitude over blocks of `frames` frames: [T, M] -> [T // frames, M], at least one."""
    blocks = max(len(log_mel_TM) // frames, 1)
    amplitude = np.exp(log_mel_TM[: blocks * frames]).reshape(blocks, -1, log_mel_TM.shape[1])
    return np.log(amplitude.mean(axis=1))


def with_changes(frames_TM: np.ndarray) -> np.ndarray:
    """Frames beside the difference of their two neighbours: [T, M] -> [T, 2 M]."""
    padded = np.concatenate([frames_TM[:1], frames_TM, frames_TM[-1:]])
    return np.concatenate([frames_TM, padded[2:] - padded[:-2]], axis=1)


def statistics_of(log_mel_TM: np.ndarray) -> np.ndarray:
    """Statistics vector of log-mel frames at 100 Hz (see `logmel_statistics`)."""
    level, change = np.split(with_changes(averaged(log_mel_TM, STATISTICS_FRAMES)), 2, axis=1)
    percentiles = np.percentile(level, (10, 90), axis=0)
    parts = [level.mean(0), level.std(0), np.abs(change).mean(0), change.std(0), percentiles[0], percentiles[1]]
    return np.concatenate(parts).astype(np.float32)


def logmel_statistics(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """One vector for a clip of any length: per mel band the mean, deviation, 10th and 90th percentile of the level,
    and mean magnitude and deviation of its change. Float32 [6 x NUM_MELS].

    Args:
        wav: samples [N] or [C, N] in [-1, 1].
        sample_rate: of `wav`, in Hz.
    """
    return statistics_of(log_mel(wav, sample_rate))
