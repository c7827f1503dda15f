"""Sound as everything here hears it: two spectrograms, each made once, and what is read off them.

A fine one in time (10 ms) tells of onsets and colour, a fine one in frequency (3 Hz, below 2.1 kHz) of pitch. All at
one rate, so that bands mean the same whatever the sound was made with.

N samples, T fine frames, M mel bands, U pitch frames.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch

from ssmttm import audio
from ssmttm.audio import Audio, mel_filters, resample

RATE = 24_000  # Hz
FINE_FFT, FINE_HOP = 1024, 240
FINE_RATE = RATE / FINE_HOP  # 100 frames per second; frame t lies at t / FINE_RATE
NUM_MELS = 40
FLOOR = 1e-4  # -80 dB
DECIMATION, PITCH_FFT, PITCH_HOP = 4, 2048, 600
PITCH_RATE = RATE / DECIMATION / PITCH_HOP  # 10 frames per second
BIN_HZ = RATE / DECIMATION / PITCH_FFT
LOWEST_HZ, HIGHEST_HZ = 40.0, 2100.0
PROMINENCE, AROUND = 3.0, 41  # a partial stands this high over the mean of 120 Hz around it; noise does not


def stft(samples_N: np.ndarray, fft_size: int, hop: int) -> np.ndarray:
    """Hann-windowed magnitudes [frames, bins] float32 of frames centred at multiples of `hop`; a sine of
    amplitude 1 reads 1."""
    window = torch.hann_window(fft_size)
    samples = torch.from_numpy(np.ascontiguousarray(samples_N, dtype=np.float32))
    if samples.numel() <= fft_size:  # reflection needs more samples than it adds
        samples = torch.nn.functional.pad(samples, (0, fft_size + 1 - samples.numel()))
    spectrum = torch.stft(samples, fft_size, hop, window=window, return_complex=True)
    return (spectrum.abs().T * (2 / float(window.sum()))).numpy()


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    return np.ascontiguousarray(mel_filters(RATE, FINE_FFT, NUM_MELS).numpy().T * (RATE / FINE_FFT))


class Partials(NamedTuple):
    """Spectral peaks that stand out, each with its frame, its pitch (MIDI, not rounded, tuned to what is heard), and
    its magnitude."""

    frames: np.ndarray
    pitches: np.ndarray
    magnitudes: np.ndarray


class Sound:
    """Mono samples [N] in [-1, 1]; `rate` in Hz."""

    def __init__(self, samples_N: np.ndarray, rate: int):
        self.samples_N = resample(Audio(np.asarray(samples_N, np.float32)[None], rate), RATE).samples[0]
        self.seconds = len(samples_N) / rate

    @cached_property
    def log_mel(self) -> np.ndarray:
        """Logarithm of mel bands' amplitudes [T, M], floored at -80 dB."""
        return audio.log_mel(stft(self.samples_N, FINE_FFT, FINE_HOP), _filters(), FLOOR)

    @cached_property
    def partials(self) -> Partials:
        """What has a pitch between `LOWEST_HZ` and `HIGHEST_HZ`."""
        from scipy.ndimage import uniform_filter1d
        from scipy.signal import resample_poly

        spectrum = stft(resample_poly(self.samples_N, 1, DECIMATION), PITCH_FFT, PITCH_HOP)[: self.pitch_frames]
        floor = np.maximum(PROMINENCE * uniform_filter1d(spectrum, AROUND, axis=1), FLOOR)
        middle = spectrum[:, 1:-1]
        peaks = (middle > spectrum[:, :-2]) & (middle >= spectrum[:, 2:]) & (middle > floor[:, 1:-1])
        peaks[:, : int(LOWEST_HZ / BIN_HZ)] = peaks[:, int(HIGHEST_HZ / BIN_HZ) :] = False
        frames, bins = np.nonzero(peaks)
        left, top, right = (np.log(spectrum[frames, bins + shift] + 1e-9) for shift in (0, 1, 2))
        exact = bins + 1 + 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-6)
        pitches = 69 + 12 * np.log2(exact * BIN_HZ / 440)
        magnitudes = spectrum[frames, bins + 1]
        # A recording may be tuned to another pitch than 440 Hz, or run at another speed.
        off = np.angle((np.sqrt(magnitudes) * np.exp(2j * np.pi * pitches)).sum()) / (2 * np.pi) if len(bins) else 0.0
        return Partials(frames, pitches - off, magnitudes)

    @property
    def pitch_frames(self) -> int:
        """U; frame u lies at u / PITCH_RATE."""
        return 1 + int(self.seconds * PITCH_RATE)

    def chroma(self, low: float = 0.0, high: float = 128.0) -> np.ndarray:
        """Strength of pitch classes [U, 12], C first: square roots of the magnitudes of partials between two pitches,
        so that one loud instrument does not drown the harmony."""
        frames, pitches, magnitudes = self.partials
        chosen = (pitches >= low) & (pitches < high)
        classes = np.round(pitches[chosen]).astype(int) % 12
        places, weights = frames[chosen] * 12 + classes, np.sqrt(magnitudes[chosen])
        return np.bincount(places, weights, self.pitch_frames * 12).reshape(-1, 12)


def change(chroma_U12: np.ndarray, frames: int, width: int = 3) -> np.ndarray:
    """How unlike the `width` pitch frames before and after are, one less their cosine, at each of `frames` fine
    frames."""
    count = len(chroma_U12)
    sums = np.cumsum(np.pad(chroma_U12, ((width + 1, width), (0, 0))), axis=0)
    upto = sums[width : width + count]
    before, after = upto - sums[:count], sums[2 * width : 2 * width + count] - upto
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    unlike = 1 - (before * after).sum(axis=1) / np.maximum(lengths, 1e-9)
    return np.interp(np.arange(frames) / FINE_RATE, np.arange(count) / PITCH_RATE, unlike)
