"""Reading, resampling, levelling and writing audio; the mel scale. Float32 samples, channels first."""

from __future__ import annotations

import io
import json
import math
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import soundfile
import soxr
import torch

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.opener import AudioSource, UnusableAudioError, open_audio


class Audio(NamedTuple):
    """Samples float32 [C, N] in [-1, 1] and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate


def read(uri: str, start_s: float = 0.0, seconds: float | None = None) -> Audio:
    """Decode an audio file, or `seconds` of it from `start_s` on, at its own rate.

    Raises:
        UserError: if the file does not exist or cannot be decoded.
    """
    try:
        with open_audio(uri) as source:
            begin = round(start_s * source.sample_rate)
            count = source.frames if seconds is None else round(seconds * source.sample_rate)
            return Audio(np.ascontiguousarray(source.samples(begin, count).T), source.sample_rate)
    except UnusableAudioError as error:
        if error.reason == "missing":
            raise UserError(f"{uri} does not exist") from None
        raise UserError(f"{uri} cannot be decoded as audio: {error.reason}, {error.detail}") from None


def mono_at(source: AudioSource, sample_rate: int, seconds: float | None = None) -> Audio:
    """The first `seconds` of opened sound, or all of it, as mono at `sample_rate` (Hz): decoded, mixed and resampled in
    blocks, so that memory grows with what comes out alone.

    Raises:
        UnusableAudioError: if it cannot be decoded, or holds samples that are not finite.
        UserError: if the storage fails.
    """
    filter = None if source.sample_rate == sample_rate else soxr.ResampleStream(source.sample_rate, sample_rate, 1)
    count = source.frames if seconds is None else min(source.frames, round(seconds * source.sample_rate))
    made_N, place = np.empty(math.ceil(count * sample_rate / source.sample_rate) + 1, np.float32), 0

    def add(mono_N: np.ndarray) -> None:
        nonlocal place
        made_N[place : place + len(mono_N)] = mono_N
        place += len(mono_N)

    for block_NC in source.read(0, count):
        mono_N = block_NC.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono_N).all():
            raise UnusableAudioError("not-finite", "it holds samples that are not numbers; export it again")
        add(mono_N if filter is None else filter.resample_chunk(mono_N))
    if filter is not None:
        add(filter.resample_chunk(np.zeros(0, np.float32), last=True))
    return Audio(made_N[None, :place], sample_rate)


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Change the sample rate with soxr's high-quality filter."""
    if audio.sample_rate == sample_rate:
        return audio
    samples = soxr.resample(audio.samples.T, audio.sample_rate, sample_rate, quality="HQ").T
    return Audio(np.ascontiguousarray(samples, dtype=np.float32), sample_rate)


def to_mono(audio: Audio) -> Audio:
    """Average the channels: [C, N] -> [1, N]."""
    if audio.samples.shape[0] == 1:
        return audio
    return Audio(audio.samples.mean(axis=0, keepdims=True, dtype=np.float32), audio.sample_rate)


def normalise_loudness(audio: Audio, lufs: float = -16.0, peak: float = 0.95) -> Audio:
    """Bring integrated loudness (ITU-R BS.1770, through pyloudnorm) to `lufs`, lowered where needed so that no
    sample exceeds `peak`. Silence and clips shorter than the 400 ms gating block are only peak-limited."""
    import pyloudnorm

    gain = 1.0
    if audio.seconds > 0.4:
        loudness = pyloudnorm.Meter(audio.sample_rate).integrated_loudness(audio.samples.T)
        if math.isfinite(loudness):
            gain = 10 ** ((lufs - loudness) / 20)
    highest = float(np.abs(audio.samples).max(initial=0.0))
    if highest * gain > peak:
        gain = peak / highest
    return Audio(audio.samples * np.float32(gain), audio.sample_rate)


WRITTEN = 1 << 18  # samples of each channel that are encoded at a time
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def to_bytes(audio: Audio, extension: str = "wav", metadata: dict[str, Any] | None = None) -> bytes:
    """Encode as WAV, FLAC, OGG or MP3; `metadata` goes into the file's comment field as JSON.

    Raises:
        UserError: for an unknown extension.
    """
    if extension not in FORMATS:
        raise UserError(f"cannot write .{extension}; use one of: {', '.join(FORMATS)}")
    container, subtype = FORMATS[extension]
    buffer = io.BytesIO()
    channels = audio.samples.shape[0]
    with soundfile.SoundFile(buffer, "w", audio.sample_rate, channels, subtype, format=container) as file:
        if metadata:
            if metadata.get("prompt"):  # libsndfile refuses an empty title
                file.title = str(metadata["prompt"])[:200]
            file.software = "ssmttm"
            file.comment = json.dumps(metadata, ensure_ascii=True, sort_keys=True)
        for begin in range(0, audio.samples.shape[1], WRITTEN):  # a clipped copy of all of it would take as much again
            file.write(np.clip(audio.samples[:, begin : begin + WRITTEN], -1.0, 1.0).T)
    return buffer.getvalue()


def write(uri: str, audio: Audio, metadata: dict[str, Any] | None = None) -> None:
    """Write a file whose format follows from its extension (see `to_bytes`)."""
    storage.write_bytes(uri, to_bytes(audio, uri.rsplit(".", 1)[-1].lower(), metadata))


def read_metadata(uri: str) -> dict[str, Any]:
    """The JSON that `write` put into the comment field; empty if there is none."""
    with soundfile.SoundFile(io.BytesIO(storage.read_bytes(uri))) as file:
        try:
            return json.loads(file.comment)
        except json.JSONDecodeError:
            return {}


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=8)
def mel_filters(sample_rate: int, fft_size: int, num_mels: int, low_hz: float = 0.0) -> torch.Tensor:
    """Triangular filters of unit area [num_mels, fft_size // 2 + 1], float32, from `low_hz` to Nyquist."""
    edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(sample_rate / 2), num_mels + 2))
    frequencies = np.linspace(0, sample_rate / 2, fft_size // 2 + 1)
    rising = (frequencies[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies[None]) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    with torch.inference_mode(False):  # the first caller's mode must not stay on what is kept for all
        return torch.from_numpy(weights.astype(np.float32))


Array = TypeVar("Array", np.ndarray, torch.Tensor)


def log_mel(magnitudes_FL: Array, filters_LM: Array, floor: float) -> Array:
    """Natural logarithm [..., F, M] of the mel bands of magnitude spectra [..., F, L], not below `floor`; of arrays as
    of tensors, each by its own arithmetic."""
    bands_FM = magnitudes_FL @ filters_LM
    if isinstance(bands_FM, np.ndarray):
        return np.log(np.maximum(bands_FM, floor))
    return bands_FM.clamp_min(floor).log()
