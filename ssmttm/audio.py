"""Reading, resampling, levelling and writing audio; the mel scale. Float32 samples, channels first."""

from __future__ import annotations

import io
import json
import math
import os
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import soundfile
import soxr
import torch

from ssmttm import storage, tags
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import AudioSource, open_audio


class Audio(NamedTuple):
    """Samples float32 [C, N] in [-1, 1] and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate


LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 1_000, 768_000, 64
LOUDEST = 32.0  # of float samples; what reaches further was meant for integers
_ZERO = {"u": 1.0, "i": 0.0}  # of integer samples, as a share of full scale: unsigned ones lie around the middle


def checked(audio: Any, name: str = "audio") -> Audio:
    """Audio that somebody else's code gave, as float32 [C, N].

    Args:
        audio: (samples, rate in Hz). Samples of NumPy or torch, [C, N] or [N]; floats with full scale 1, or integers of
            8, 16 or 32 bits, which are brought to that.
        name: what the message calls it.

    Raises:
        UserError: if it is anything else: of another shape or type, with [N, C], samples that are not finite or far
            beyond full scale, or a rate that is none.
    """
    try:
        samples, rate = audio
    except (TypeError, ValueError):
        raise UserError(f"{name} is {type(audio).__name__}; give Audio(samples, sample_rate)") from None
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    try:
        samples = np.asarray(samples)
    except ValueError:
        raise UserError(f"{name} has samples that make no array; give [channels, samples]") from None
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or not len(samples):
        raise UserError(f"{name} has samples of shape {list(samples.shape)}; give [channels, samples]")
    if samples.shape[0] > MOST_CHANNELS:
        raise UserError(
            f"{name} has {samples.shape[0]} channels of {samples.shape[1]} samples; give [channels, samples], which "
            "is .T of [samples, channels]"
        )
    if kind == "f":
        with np.errstate(over="ignore"):  # told below
            samples = samples.astype(np.float32, copy=False)
    elif kind in _ZERO and size <= 4:
        full = 2.0 ** (8 * size - 1)
        samples = (samples / full - _ZERO[kind]).astype(np.float32)
    else:
        raise UserError(
            f"{name} has samples of type {samples.dtype}; give floats from -1 to 1, or integers of 8, 16 or 32 bits"
        )
    loudest = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if not math.isfinite(loudest):
        raise UserError(f"{name} holds samples that are not finite; replace them, e.g. with numpy.nan_to_num")
    if loudest > LOUDEST:
        raise UserError(f"{name} reaches {loudest:g}, and floats lie from -1 to 1; divide what was 16 bits by 32768")
    return Audio(np.ascontiguousarray(samples), _rate(rate, name))


def _rate(rate: Any, name: str) -> int:
    plain = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not plain or not LOWEST_RATE <= rate <= HIGHEST_RATE or rate != int(rate):
        told = rate if plain else type(rate).__name__
        raise UserError(
            f"{name} has a sample rate of {told}; give whole samples a second from {LOWEST_RATE} to {HIGHEST_RATE}"
        )
    return int(rate)


def read(uri: str | os.PathLike[str], start_s: float = 0.0, seconds: float | None = None) -> Audio:
    """Decode an audio file, or `seconds` of it from `start_s` on, at its own rate.

    Raises:
        UserError: if the file does not exist or cannot be decoded.
    """
    uri = storage.as_text(uri)
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


# Samples of each channel that are encoded at a time. libvorbis keeps the first part on the stack, of which a thread has
# as little as 512 KB.
WRITTEN = 1 << 16
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
SOFTWARE = "ssmttm"


def extension_of(uri: str) -> str:
    """The format that a file's name stands for, one of `FORMATS`.

    Raises:
        UserError: for an unknown one.
    """
    extension = uri.rsplit(".", 1)[-1].lower()
    if extension not in FORMATS:
        raise UserError(f"cannot write {uri}; end its name in one of: {', '.join('.' + name for name in FORMATS)}")
    return extension


def to_bytes(audio: Audio, extension: str = "wav", metadata: dict[str, Any] | None = None) -> bytes:
    """Encode as WAV, FLAC, OGG or MP3; `metadata` goes into the file's comment field as JSON, and its `prompt` into the
    title.

    Raises:
        UserError: for an unknown extension, or audio that `checked` refuses.
    """
    if extension not in FORMATS:
        raise UserError(f"cannot write .{extension}; use one of: {', '.join(FORMATS)}")
    container, subtype = FORMATS[extension]
    audio = checked(audio)
    comment = json.dumps(metadata, ensure_ascii=True, sort_keys=True, default=np.generic.item) if metadata else ""
    title = " ".join(str((metadata or {}).get("prompt") or "").replace("\0", " ").split())[:200]
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", audio.sample_rate, len(audio.samples), subtype, format=container) as file:
        if metadata and extension in ("flac", "ogg"):
            if title:  # libsndfile refuses an empty one
                file.title = title
            file.software = SOFTWARE
            file.comment = comment
        for begin in range(0, audio.samples.shape[1], WRITTEN):  # a clipped copy of all of it takes as much again
            file.write(np.clip(audio.samples[:, begin : begin + WRITTEN], -1.0, 1.0).T)
    data = buffer.getvalue()
    if metadata and extension == "mp3":
        return tags.id3(title, SOFTWARE, comment) + data
    if metadata and extension == "wav":
        told = {tags.TITLE: title} if title else {}
        return tags.with_riff_info(data, told | {tags.SOFTWARE: SOFTWARE, tags.COMMENT: comment})
    return data


def write(uri: str | os.PathLike[str], audio: Audio, metadata: dict[str, Any] | None = None) -> None:
    """Write a file whose format follows from its extension (see `to_bytes`)."""
    uri = storage.as_text(uri)
    storage.write_bytes(uri, to_bytes(audio, extension_of(uri), metadata))


def read_metadata(uri: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON that `write` put into the comment field; empty if there is none.

    Raises:
        UserError: if the file does not exist or is no audio.
    """
    uri = storage.as_text(uri)
    data = storage.read_bytes(uri)
    comment = tags.riff_comment(data)
    if comment is None:
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                comment = file.comment
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise UserError(f"{uri} cannot be decoded as audio: {error}") from None
    try:
        found = json.loads(comment)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


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
