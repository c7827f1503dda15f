"""Stretches of audio files as the codec hears them, and what of them is refused, in memory that does not grow with the
file.

Shapes: C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.containers import UnusableAudioError
from ssmttm.opener import AudioSource, open_audio
from ssmttm.sources.manifest import Reject, Track

RemoveVocals = Callable[[Audio], Audio] | None

# Decoded audio may miss the planned length by this much (rounded durations in metadata) before it counts as truncated.
LENGTH_TOLERANCE_S = 0.5
# Source audio read on either side of a stretch, so that the resampling filter sees past its edges.
RESAMPLE_MARGIN_S = 0.2
# Floats beyond full scale are loud, not clipped: nothing was cut off there.
FULL_SCALE, BEYOND = 0.999, 1.000001
# What mixing to mono may take away. Independent channels lose 3 dB, wide mixes about 10.
MONO_LOSS_DB = 30.0
# Beyond, times full scale, it is no level any more: integers that were written as floats, for one.
LOUDEST = 100.0


@dataclass(frozen=True)
class Decoding:
    """How a stretch becomes the codec's input, and when it is refused.

    sample_rate: of the result; 0 is the file's own. silence_dbfs: peaks below are silent. maximum_clipped: share of
    samples at full scale. loudness: LUFS that each stretch is brought to; None leaves it. vocals: "keep", or the
    fingerprint of what removes them.
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


def decode(
    source: AudioSource,
    start_s: float,
    duration_s: float,
    decoding: Decoding,
    remove_vocals: RemoveVocals = None,
) -> np.ndarray:
    """The stretch `[start_s, start_s + duration_s)` as mono float32 [N] at the codec's rate.

    Raises:
        UnusableAudioError: if it is truncated, silent (as mono, too), clipped, not finite or of no level.
        UserError: if the storage fails.
    """
    rate = source.sample_rate
    wanted = decoding.sample_rate or rate
    begin, end = round(start_s * rate), round((start_s + duration_s) * rate)
    if source.is_cut and end > source.frames - round(LENGTH_TOLERANCE_S * rate):
        raise UnusableAudioError("truncated", source.claim)
    margin = 0 if rate == wanted else round(RESAMPLE_MARGIN_S * rate)
    left = min(margin, begin)
    # Vocals are found in stereo; more channels are mixed down, as everything is without that.
    mixed = remove_vocals is None or source.channels > 2
    blocks: list[np.ndarray] = []
    read = clipped = 0
    peak = power = mono_peak = mono_power = 0.0
    for block_NC in _with_margins(source, begin, end, left, margin):
        if not np.isfinite(block_NC).all():
            raise UnusableAudioError("not-finite", f"NaN or infinite samples at {start_s:.2f} s")
        mono_N1 = block_NC.mean(axis=1, keepdims=True, dtype=np.float32)
        inner = slice(max(0, left - read), max(0, left + end - begin - read))
        level_NC, level_N1 = np.abs(block_NC[inner]), np.abs(mono_N1[inner])
        peak, mono_peak = (max(p, float(v.max(initial=0.0))) for p, v in ((peak, level_NC), (mono_peak, level_N1)))
        power += float(np.square(level_NC, dtype=np.float64).sum()) / source.channels
        mono_power += float(np.square(level_N1, dtype=np.float64).sum())
        clipped += int(np.count_nonzero((level_NC >= FULL_SCALE) & (level_NC <= BEYOND)))
        read += len(block_NC)
        blocks.append(mono_N1 if mixed else block_NC)
    seconds = min((read - left) / rate, duration_s)
    if seconds < duration_s - LENGTH_TOLERANCE_S:
        detail = f"{max(seconds, 0):.2f} s of {duration_s:.2f} s at {start_s:.2f} s could be decoded"
        raise UnusableAudioError("truncated", detail)
    if peak > LOUDEST:
        raise UnusableAudioError("damaged", f"samples reach {peak:.3g} times full scale; write it again within [-1, 1]")
    if seconds < decoding.minimum_seconds:
        raise UnusableAudioError("too-short", f"{seconds:.2f} s, the minimum is {decoding.minimum_seconds:g} s")
    floor = 10 ** (decoding.silence_dbfs / 20)
    if peak < floor:
        raise UnusableAudioError("silent", f"peak below {decoding.silence_dbfs:g} dBFS at {start_s:.2f} s")
    if mono_peak < floor or mono_power < power * 10 ** (-MONO_LOSS_DB / 10):
        raise UnusableAudioError(
            "silent", f"its channels cancel each other out in mono at {start_s:.2f} s; turn one of them around"
        )
    share = clipped / ((end - begin) * source.channels)
    if share > decoding.maximum_clipped:
        raise UnusableAudioError("clipped", f"{share:.1%} of the samples at {start_s:.2f} s are at full scale")
    stretch = Audio(np.ascontiguousarray(np.concatenate(blocks).T), rate)
    if remove_vocals is not None:
        stretch = audio.to_mono(remove_vocals(stretch))
    wav_N = audio.resample(stretch, wanted).samples[0]
    skip = round(left * wanted / rate)
    wav_N = wav_N[skip : skip + round(seconds * wanted)]
    if decoding.loudness is not None:
        wav_N = audio.normalise_loudness(Audio(wav_N[None], wanted), decoding.loudness).samples[0]
    return wav_N


def _with_margins(source: AudioSource, begin: int, end: int, left: int, right: int) -> Iterator[np.ndarray]:
    """Blocks float32 [N, C] of the samples `[begin, end)` and so many on either side, which only help to resample: what
    is wrong there is silence, as it is another stretch's."""

    def margin(first: int, count: int) -> np.ndarray:
        try:
            return np.nan_to_num(source.samples(first, count), nan=0.0, posinf=0.0, neginf=0.0)
        except UnusableAudioError:
            return np.zeros((count, source.channels), np.float32)

    if left:
        yield margin(begin - left, left)
    yield from source.read(begin, end - begin)
    if right:
        yield margin(end, right)


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
            there = [segment for segment in segments if segment.start_s < source.seconds]
            for segment in there:
                try:
                    yield segment, decode(source, segment.start_s, segment.duration_s, decoding, remove_vocals)
                except UnusableAudioError as refused:
                    yield (
                        segment,
                        Reject(segment.id, track.audio, refused.reason, refused.detail, 1, segment.duration_s),
                    )
            if late := segments[len(there) :]:
                detail = f"{track.duration_s:.2f} s are stated, {source.seconds:.2f} s are there"
                seconds = sum(segment.duration_s for segment in late)
                yield late[0], Reject(track.id, track.audio, "truncated", detail, len(late), seconds)
    except UnusableAudioError as refused:
        seconds = sum(segment.duration_s for segment in segments)
        yield segments[0], Reject(track.id, track.audio, refused.reason, refused.detail, len(segments), seconds)
