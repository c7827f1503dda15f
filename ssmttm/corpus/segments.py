"""Cutting tracks into segments: planned from durations before work begins, then decoded one segment at a time.

Shapes: C channels, N samples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from ssmttm import audio, storage
from ssmttm.config import CorpusConfig
from ssmttm.corpus.manifest import Track
from ssmttm.corpus.rejects import Reason, Reject
from ssmttm.errors import UserError

SILENCE_PEAK = 1e-3  # -60 dBFS
# Decoded audio may miss the planned length by this much (rounded durations in metadata) before it counts as truncated.
LENGTH_TOLERANCE_S = 0.5
# Source audio read on either side of a segment, so that the resampling filter sees past its edges.
RESAMPLE_MARGIN_S = 0.2


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

    def samples(self, sample_rate: int) -> int:
        return round(self.duration_s * sample_rate)


class _RefusedError(Exception):
    """A file that becomes a reject."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _open(uri: str) -> soundfile.SoundFile:
    """Open through storage. Network and disk faults pass through: they are no property of the file."""
    try:
        data = storage.read_bytes(uri)
    except (UserError, NotADirectoryError):
        raise _RefusedError("missing", "no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise _RefusedError("unreadable", str(error)) from None
    if not data:
        raise _RefusedError("empty", "0 bytes")
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise _RefusedError("not-audio", str(error.error_string)) from None
    if file.frames <= 0:
        raise _RefusedError("empty", "no samples")
    return file


def _track_seconds(track: Track) -> float:
    if track.duration_s > 0:
        return track.duration_s
    with _open(track.audio) as file:
        return float(file.frames / file.samplerate)


def plan_segments(track: Track, config: CorpusConfig) -> list[Segment] | Reject:
    """Segments of `segment_seconds` at a fixed hop of the same length; a shorter last one is kept from
    `minimum_seconds` on. The file is opened only if the manifest does not state its duration."""
    try:
        seconds = _track_seconds(track)
        if seconds < config.minimum_seconds:
            raise _RefusedError("too-short", f"{seconds:.2f} s, the minimum is {config.minimum_seconds:g} s")
    except _RefusedError as refused:
        return Reject(track.id, track.audio, refused.reason, refused.detail)
    length = config.segment_seconds
    whole = int((seconds + 1e-6) / length)
    segments = [Segment(track, index, index * length, length) for index in range(whole)]
    rest = seconds - whole * length
    if rest >= config.minimum_seconds:
        segments.append(Segment(track, whole, whole * length, rest))
    return segments


def _decode(file: soundfile.SoundFile, segment: Segment, sample_rate: int, minimum_seconds: float) -> np.ndarray:
    rate = file.samplerate
    begin = round(segment.start_s * rate)
    end = round((segment.start_s + segment.duration_s) * rate)
    margin = 0 if rate == sample_rate else round(RESAMPLE_MARGIN_S * rate)
    left = min(margin, begin)
    read = 0
    try:
        # libsndfile cannot seek beyond the end, where a file is shorter than planned.
        if begin - left < file.frames:
            file.seek(begin - left)
            samples_NC = file.read(end - begin + left + margin, dtype="float32", always_2d=True)
            read = len(samples_NC)
    except soundfile.LibsndfileError as error:
        raise _RefusedError("truncated", str(error.error_string)) from None
    seconds = min((read - left) / rate, segment.duration_s)
    if seconds < segment.duration_s - LENGTH_TOLERANCE_S or seconds < minimum_seconds:
        detail = f"{max(seconds, 0):.2f} s of {segment.duration_s:.2f} s at {segment.start_s:.2f} s could be decoded"
        raise _RefusedError("truncated", detail)
    if not np.isfinite(samples_NC).all():
        raise _RefusedError("not-finite", f"NaN or infinite samples at {segment.start_s:.2f} s")
    if np.abs(samples_NC[left : left + end - begin]).max() < SILENCE_PEAK:
        raise _RefusedError("silent", f"peak below {SILENCE_PEAK:g} at {segment.start_s:.2f} s")
    mono = audio.to_mono(audio.Audio(np.ascontiguousarray(samples_NC.T), rate))
    wav_N = audio.resample(mono, sample_rate).samples[0]
    skip = round(left * sample_rate / rate)
    return wav_N[skip : skip + round(seconds * sample_rate)]


def read_segments(
    segments: Sequence[Segment], sample_rate: int, minimum_seconds: float
) -> Iterator[tuple[Segment, np.ndarray | Reject]]:
    """Decode segments of ONE track, in order: each as mono float32 [N] at `sample_rate`, or as a reject.

    The file is read once and decoded segment by segment, so that memory does not grow with its length.
    """
    track = segments[0].track
    try:
        file = _open(track.audio)
    except _RefusedError as refused:
        yield segments[0], Reject(track.id, track.audio, refused.reason, refused.detail)
        return
    with file:
        for segment in segments:
            try:
                yield segment, _decode(file, segment, sample_rate, minimum_seconds)
            except _RefusedError as refused:
                yield segment, Reject(segment.id, track.audio, refused.reason, refused.detail)
