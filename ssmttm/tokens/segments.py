"""Cutting tracks into segments: planned from durations before work begins, then decoded one segment at a time.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssmttm.audio import Audio
from ssmttm.config import CorpusConfig
from ssmttm.sources.decode import Decoding, RefusedError, decode, file_seconds, open_audio
from ssmttm.sources.manifest import Track
from ssmttm.sources.rejects import Reject


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


def plan_segments(track: Track, config: CorpusConfig) -> list[Segment] | Reject:
    """Segments of `segment_seconds` at a fixed hop, or the one in the middle; a shorter last one is kept from
    `minimum_seconds` on. The file is opened only if the manifest does not state its duration."""
    try:
        seconds = track.duration_s if track.duration_s > 0 else file_seconds(track.audio, config.minimum_seconds)
        if seconds < config.minimum_seconds:
            raise RefusedError("too-short", f"{seconds:.2f} s, the minimum is {config.minimum_seconds:g} s")
    except RefusedError as refused:
        return Reject(track.id, track.audio, refused.reason, refused.detail)
    length = config.segment_seconds
    if config.segments == "middle":
        return [Segment(track, 0, max(0.0, (seconds - length) / 2), min(seconds, length))]
    hop = config.hop_seconds or length
    whole = max(0, int((seconds - length + 1e-6) / hop) + 1) if seconds + 1e-6 >= length else 0
    segments = [Segment(track, index, index * hop, length) for index in range(whole)]
    rest = seconds - whole * hop
    if rest >= config.minimum_seconds and (whole == 0 or seconds > segments[-1].start_s + length + 1e-6):
        segments.append(Segment(track, whole, whole * hop, min(rest, length)))
    return segments


def read_segments(
    segments: Sequence[Segment], decoding: Decoding, remove_vocals: Callable[[Audio], Audio] | None = None
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
                except RefusedError as refused:
                    yield (
                        segment,
                        Reject(segment.id, track.audio, refused.reason, refused.detail, 1, segment.duration_s),
                    )
    except RefusedError as refused:
        seconds = sum(segment.duration_s for segment in segments)
        yield segments[0], Reject(track.id, track.audio, refused.reason, refused.detail, len(segments), seconds)
