"""The plan of a dataset: segment -> shard in manifest order, caption -> text part, fixed before work begins.

One task fulfils one plan under a fixed name. A plan's fingerprint covers everything that decides the bytes it leads
to, so that a rerun recognises what is finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ssmttm.codec.base import Codec
from ssmttm.conditions.encoders import TextEncoder
from ssmttm.config import Config, CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Reject, Track, relative_to_source, source_root
from ssmttm.sources.readers import unlisted
from ssmttm.sources.splits import with_held_out
from ssmttm.tokens.admit import Measured, decoding_of, drop_overlong_captions, licensed_tracks, measure
from ssmttm.tokens.decode import Decoding, Segment, read_segments
from ssmttm.tokens.schema import FORMAT_VERSION, SHARD_FOLDER, TEXT_FOLDER

logger = logging.getLogger(__name__)

CAPTIONS_PER_PART = 1024


@dataclass(frozen=True)
class ShardPlan:
    """The segments of one shard, in order, and what its rows depend on. file_bytes: size of each segment's file, which
    tells when one was replaced. source: the folder that audio paths are stored relative to. controls: names of those by
    frame that are measured."""

    index: int
    segments: tuple[Segment, ...]
    file_bytes: tuple[int, ...]
    codec_fingerprint: str
    text_fingerprint: str
    decoding: Decoding
    segment_seconds: float
    source: str
    controls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{SHARD_FOLDER}/part-{self.index:05d}.parquet"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the shard's bytes; of the audio files, their sizes."""
        content = {"version": FORMAT_VERSION, **asdict(self)}
        source = content.pop("source")
        if not self.controls:
            del content["controls"]  # as it was before there were any
        for segment in content["segments"]:
            track = segment["track"]
            track["audio"] = relative_to_source(track["audio"], source)
            score = track.pop("score")  # of which only what is measured matters
            if used := {name: score[name] for name in self.controls if name in score}:
                track["score"] = used
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TextPlan:
    """The captions of one part of the text table."""

    index: int
    captions: tuple[str, ...]
    encoder_fingerprint: str

    @property
    def name(self) -> str:
        return f"{TEXT_FOLDER}/table-{self.index:05d}.parquet"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.encoder_fingerprint, self.captions]).encode()).hexdigest()


Plan = ShardPlan | TextPlan


@dataclass(frozen=True)
class DatasetPlan:
    """All work of one dataset. rejects: files refused before any audio is encoded. claims: a line for each track that
    is not as long as its header or the manifest say."""

    shards: list[ShardPlan]
    texts: list[TextPlan]
    rejects: list[Reject]
    overlong_captions: int
    claims: list[str]

    @property
    def parts(self) -> list[Plan]:
        """In the order of work. Text first: its parts take longest, and a long part at the end would leave workers
        idle."""
        return [*self.texts, *self.shards]

    @property
    def segments(self) -> int:
        return sum(len(shard.segments) for shard in self.shards)

    @property
    def seconds(self) -> float:
        return sum(segment.duration_s for shard in self.shards for segment in shard.segments)

    @property
    def fingerprint(self) -> str:
        parts = [part.fingerprint for part in self.parts]
        refused = [(reject.id, reject.reason) for reject in self.rejects]
        return hashlib.sha256(json.dumps([parts, refused]).encode()).hexdigest()


def plan_segments(track: Track, config: CorpusConfig) -> list[Segment] | Reject:
    """Segments of `segment_seconds` at a fixed hop, or the one in the middle, of a track whose duration is known; a
    shorter last one is kept from `minimum_seconds` on."""
    seconds = track.duration_s
    if seconds < config.minimum_seconds:
        detail = f"{seconds:.2f} s, the minimum is {config.minimum_seconds:g} s"
        return Reject(track.id, track.audio, "too-short", detail)
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


def plan_text(captions: Sequence[str], encoder_fingerprint: str) -> list[TextPlan]:
    """Parts of at most `CAPTIONS_PER_PART` distinct captions, in order of first appearance."""
    distinct = list(dict.fromkeys(captions))
    return [
        TextPlan(index, tuple(distinct[start : start + CAPTIONS_PER_PART]), encoder_fingerprint)
        for index, start in enumerate(range(0, len(distinct), CAPTIONS_PER_PART))
    ]


def _with_held_out(measured: list[Measured], corpus: CorpusConfig, decoding: Decoding) -> list[Measured]:
    """The tracks with something held out that yields at least one row, and something else to learn from.

    Raises:
        UserError: if there are too few tracks.
    """

    def can_be_used(track: Track) -> bool:
        planned = plan_segments(track, corpus)
        if isinstance(planned, Reject):
            return False
        return any(not isinstance(decoded, Reject) for _, decoded in read_segments(planned, decoding))

    try:
        tracks, line = with_held_out([one.track for one in measured], can_be_used)
    except UserError as error:
        raise UserError(f"corpus.source={corpus.source}: {error}") from None
    if line:
        logger.warning("corpus.source=%s: %s", corpus.source, line)
    return [replace(one, track=track) for one, track in zip(measured, tracks, strict=True)]


def plan_dataset(config: Config, codec: Codec, encoder: TextEncoder, vocals: str = "keep") -> DatasetPlan:
    """Read the source and fix all work on it: tracks are cut into segments, and these dealt to shards of
    `corpus.rows_per_shard`, in manifest order. `audio` becomes relative to the source in everything that is stored.

    Args:
        vocals: what is done to them: "keep", or the fingerprint of what removes them.

    Raises:
        UserError: if `corpus.source` does not exist or holds no track, or too few to hold one out.
    """
    corpus = config.corpus
    tracks, rejects = licensed_tracks(corpus)
    if others := unlisted(corpus.source, corpus, tracks):
        logger.warning(
            "corpus.source=%s does not list %d audio files of its folder, such as %s; `ssmttm corpus scan` adds them",
            corpus.source,
            len(others),
            others[0],
        )
    if corpus.captioner:
        from ssmttm.sources.captioner import caption_tracks

        tracks = caption_tracks(tracks, corpus.captioner, corpus.out)
    tracks, refused, overlong = drop_overlong_captions(tracks, encoder)
    rejects += refused
    measured, refused = measure(tracks, corpus)
    rejects += refused
    decoding = decoding_of(corpus, codec.sample_rate, vocals)
    measured = _with_held_out(measured, corpus, decoding)
    segments: list[tuple[Segment, int]] = []
    for one in measured:
        planned = plan_segments(one.track, corpus)
        if isinstance(planned, Reject):
            rejects.append(planned)
        else:
            segments += [(segment, one.file_bytes) for segment in planned]
    codec_fingerprint, root = codec.fingerprint(), source_root(corpus.source)
    size = corpus.rows_per_shard
    dealt = [segments[start : start + size] for start in range(0, len(segments), size)]
    shards = [
        ShardPlan(
            index,
            tuple(segment for segment, _ in share),
            tuple(file_bytes for _, file_bytes in share),
            codec_fingerprint,
            encoder.fingerprint,
            decoding,
            corpus.segment_seconds,
            root,
            corpus.controls,
        )
        for index, share in enumerate(dealt)
    ]
    captions = [caption for segment, _ in segments for caption in segment.track.captions]
    rejects = [replace(reject, audio=relative_to_source(reject.audio, root)) for reject in rejects]
    claims = [one.claim for one in measured if one.claim]
    return DatasetPlan(shards, plan_text(captions, encoder.fingerprint), rejects, overlong, claims)
