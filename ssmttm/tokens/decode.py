"""Opening and decoding stretches of audio files from any storage, in memory that does not grow with the file, and what
is refused.

Shapes: C channels, N samples.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import soundfile

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.sources.manifest import Reason, Reject, Track

Value = TypeVar("Value")
RemoveVocals = Callable[[Audio], Audio] | None

# Decoded audio may miss the planned length by this much (rounded durations in metadata) before it counts as truncated.
LENGTH_TOLERANCE_S = 0.5
# Source audio read on either side of a stretch, so that the resampling filter sees past its edges.
RESAMPLE_MARGIN_S = 0.2
BLOCK_SECONDS = 10.0  # decoded and mixed down at a time
FULL_SCALE = 0.999
# Remote files up to this size are fetched in one request; bigger ones in blocks, as they are decoded.
WHOLE_FILE_BYTES = 64 * 2**20
REMOTE_BLOCK_BYTES = 8 * 2**20
OGG_TAIL_BYTES = 2**17  # more than the largest page
# What libsndfile's log says of a header that promises more data than there is (WAV, AIFF, AU).
_PROMISED = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 2**31 - 1  # written by programs that stream into a pipe


class UnusableAudioError(Exception):
    """Audio that becomes a reject."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Decoding:
    """How a stretch becomes the codec's input, and when it is refused.

    sample_rate: of the result. silence_dbfs: peaks below are silent. maximum_clipped: share of samples at full scale.
    loudness: LUFS that each stretch is brought to; None leaves it. vocals: "keep", or the fingerprint of what removes
    them.
    """

    sample_rate: int
    minimum_seconds: float
    silence_dbfs: float
    maximum_clipped: float
    loudness: float | None
    vocals: str


@dataclass(frozen=True)
class Segment:
    """A stretch of a track: `[start_s, start_s + duration_s)` in seconds."""

    track: Track
    index: int
    start_s: float
    duration_s: float

    @property
    def id(self) -> str:
        return f"{self.track.id}-{self.index:04d}"


class _Watched:
    """A file as libsndfile reads it through callbacks, in which an exception would be lost and taken for the end of
    the data: it is kept, to be raised afterwards."""

    def __init__(self, file: Any, uri: str):
        self._file, self._uri = file, uri
        self.error: Exception | None = None

    def _try(self, action: Callable[[], Value], default: Value) -> Value:
        if self.error is None:
            try:
                return storage.with_retries(action, self._uri)
            except Exception as error:
                self.error = error
        return default

    def read(self, size: int = -1) -> bytes:
        place = self._file.tell()

        def again() -> bytes:
            self._file.seek(place)
            return self._file.read(size)

        return self._try(again, b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(lambda: self._file.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._file.tell()


@dataclass
class AudioSource:
    """An opened file. is_cut: it ends before its own header or last page says."""

    file: soundfile.SoundFile
    is_cut: bool
    _watched: _Watched | None

    @property
    def seconds(self) -> float:
        return self.file.frames / self.file.samplerate

    def read(self, begin: int, count: int) -> Iterator[np.ndarray]:
        """Blocks float32 [N, C] of the samples from `begin`, fewer than `count` where the data ends.

        Raises:
            UnusableAudioError: if they cannot be decoded.
            UserError: if the storage fails.
        """
        # libsndfile cannot seek beyond the end, where a file is shorter than planned.
        if begin >= self.file.frames:
            return
        try:
            if self.file.tell() != begin:
                self.file.seek(begin)
            while count > 0:
                block_NC = self.file.read(
                    min(count, round(BLOCK_SECONDS * self.file.samplerate)), dtype="float32", always_2d=True
                )
                self.check()
                if not len(block_NC):
                    return
                count -= len(block_NC)
                yield block_NC
        except soundfile.LibsndfileError as error:
            self.check()
            raise UnusableAudioError("truncated", str(error.error_string)) from None

    def samples(self, begin: int, count: int) -> np.ndarray:
        """`read` in one piece, float32 [N, C]."""
        return np.concatenate([np.zeros((0, self.file.channels), np.float32), *self.read(begin, count)])

    def check(self) -> None:
        """Raise what storage raised while libsndfile was reading."""
        if self._watched is not None and self._watched.error is not None:
            raise self._watched.error


@contextmanager
def open_audio(uri: str) -> Iterator[AudioSource]:
    """Open an audio file.

    Raises:
        UnusableAudioError: if it is missing, empty or not audio.
        UserError: if the storage fails, which is no property of the file.
    """
    fs, path = storage.filesystem(uri)
    try:
        info = storage.with_retries(lambda: fs.info(path), uri)
        if info["type"] == "directory":
            raise UnusableAudioError("unreadable", "is a folder")
        if info["size"] == 0:
            raise UnusableAudioError("empty", "0 bytes")
        if not storage.is_remote(uri):
            raw: Any = open(path, "rb")  # noqa: SIM115
        elif info["size"] <= WHOLE_FILE_BYTES:
            raw = io.BytesIO(storage.read_bytes(uri))
        else:
            raw = fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableAudioError("missing", "no such file") from None
    except PermissionError as error:
        raise UnusableAudioError("unreadable", str(error)) from None
    with raw:
        watched = _Watched(raw, uri) if storage.is_remote(uri) else None
        is_cut = _ogg_without_end(watched or raw)
        (watched or raw).seek(0)
        try:
            file = soundfile.SoundFile(watched or path)
        except soundfile.LibsndfileError as error:
            if watched is not None and watched.error is not None:
                raise watched.error from None
            raise UnusableAudioError("truncated" if is_cut else "not-audio", _one_line(error.error_string)) from None
        with file:
            source = AudioSource(file, is_cut or _promises_more(file.extra_info), watched)
            source.check()
            if file.frames <= 0:
                raise UnusableAudioError("truncated" if source.is_cut else "empty", "no samples")
            yield source


def _one_line(text: str) -> str:
    return " ".join(str(text).split()) or "not a format that libsndfile knows"


def _promises_more(log: str) -> bool:
    return any(
        int(promised) > int(there) and int(promised) < _UNKNOWN_SIZE for promised, there in _PROMISED.findall(log)
    )


def _ogg_without_end(file: Any) -> bool:
    """Whether this is an Ogg stream whose last page is not marked as such, or not whole (RFC 3533, section 6):
    libsndfile takes it for a shorter file."""
    if file.read(4) != b"OggS":
        return False
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OGG_TAIL_BYTES))
    tail = file.read(OGG_TAIL_BYTES)
    last = tail.rfind(b"OggS")
    page = tail[last:] if last >= 0 else b""
    segments = page[26] if len(page) > 26 else 0
    whole = len(page) >= 27 + segments + sum(page[27 : 27 + segments])
    return not (len(page) > 26 and whole and page[5] & 4)


def decode(
    source: AudioSource,
    start_s: float,
    duration_s: float,
    decoding: Decoding,
    remove_vocals: RemoveVocals = None,
) -> np.ndarray:
    """The stretch `[start_s, start_s + duration_s)` as mono float32 [N] at the codec's rate.

    Raises:
        UnusableAudioError: if it is truncated, silent, clipped or not finite.
        UserError: if the storage fails.
    """
    rate = source.file.samplerate
    begin, end = round(start_s * rate), round((start_s + duration_s) * rate)
    if source.is_cut and end > source.file.frames - round(LENGTH_TOLERANCE_S * rate):
        raise UnusableAudioError("truncated", f"the file ends at {source.seconds:.2f} s, before its header says")
    margin = 0 if rate == decoding.sample_rate else round(RESAMPLE_MARGIN_S * rate)
    left = min(margin, begin)
    # Vocals are found in stereo; more channels are mixed down, as everything is without that.
    mixed = remove_vocals is None or source.file.channels > 2
    blocks: list[np.ndarray] = []
    read = clipped = 0
    peak = 0.0
    for block_NC in source.read(begin - left, end - begin + left + margin):
        if not np.isfinite(block_NC).all():
            raise UnusableAudioError("not-finite", f"NaN or infinite samples at {start_s:.2f} s")
        inner_NC = np.abs(block_NC[max(0, left - read) : max(0, left + end - begin - read)])
        peak = max(peak, float(inner_NC.max(initial=0.0)))
        clipped += int(np.count_nonzero(inner_NC >= FULL_SCALE))
        read += len(block_NC)
        blocks.append(block_NC.mean(axis=1, keepdims=True, dtype=np.float32) if mixed else block_NC)
    seconds = min((read - left) / rate, duration_s)
    if seconds < duration_s - LENGTH_TOLERANCE_S or seconds < decoding.minimum_seconds:
        detail = f"{max(seconds, 0):.2f} s of {duration_s:.2f} s at {start_s:.2f} s could be decoded"
        raise UnusableAudioError("truncated", detail)
    if peak < 10 ** (decoding.silence_dbfs / 20):
        raise UnusableAudioError("silent", f"peak below {decoding.silence_dbfs:g} dBFS at {start_s:.2f} s")
    share = clipped / ((end - begin) * source.file.channels)
    if share > decoding.maximum_clipped:
        raise UnusableAudioError("clipped", f"{share:.1%} of the samples at {start_s:.2f} s are at full scale")
    stretch = Audio(np.ascontiguousarray(np.concatenate(blocks).T), rate)
    if remove_vocals is not None:
        stretch = audio.to_mono(remove_vocals(stretch))
    wav_N = audio.resample(stretch, decoding.sample_rate).samples[0]
    skip = round(left * decoding.sample_rate / rate)
    wav_N = wav_N[skip : skip + round(seconds * decoding.sample_rate)]
    if decoding.loudness is not None:
        wav_N = audio.normalise_loudness(Audio(wav_N[None], decoding.sample_rate), decoding.loudness).samples[0]
    return wav_N


def read_segments(
    segments: Sequence[Segment], decoding: Decoding, remove_vocals: RemoveVocals = None
) -> Iterator[tuple[Segment, np.ndarray | Reject]]:
    """Decode segments of ONE track, in order: each as mono float32 [N] at the codec's rate, or as a reject. A file
    that cannot be opened is one reject that stands for all of them.

    Memory does not grow with the file's length.

    Raises:
        UserError: if the storage fails.
    """
    track = segments[0].track
    try:
        with open_audio(track.audio) as source:
            for segment in segments:
                try:
                    yield segment, decode(source, segment.start_s, segment.duration_s, decoding, remove_vocals)
                except UnusableAudioError as refused:
                    yield (
                        segment,
                        Reject(segment.id, track.audio, refused.reason, refused.detail, 1, segment.duration_s),
                    )
    except UnusableAudioError as refused:
        seconds = sum(segment.duration_s for segment in segments)
        yield segments[0], Reject(track.id, track.audio, refused.reason, refused.detail, len(segments), seconds)


def file_seconds(uri: str, minimum_seconds: float = 0.0) -> float:
    """Length of an audio file, from its header.

    Raises:
        UnusableAudioError, UserError: as `open_audio`; and if it is shorter than the minimum.
    """
    with open_audio(uri) as source:
        if source.seconds < minimum_seconds:
            reason: Reason = "truncated" if source.is_cut else "too-short"
            raise UnusableAudioError(reason, f"{source.seconds:.2f} s, the minimum is {minimum_seconds:g} s")
        return source.seconds
