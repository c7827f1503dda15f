"""The plan of a dataset: segment -> shard in manifest order, caption -> text part, fixed before work begins.

One task fulfils one plan under a fixed name. A plan's fingerprint covers everything that decides the bytes it leads
to, so that a rerun recognises what is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from tqdm import tqdm

from ssmttm import storage
from ssmttm.codec.base import Codec
from ssmttm.conditions.encoders import TextEncoder
from ssmttm.config import Config
from ssmttm.sources import licences
from ssmttm.sources.decode import Decoding, RefusedError, file_seconds
from ssmttm.sources.duplicates import find_duplicates
from ssmttm.sources.manifest import Track
from ssmttm.sources.readers import relative_to_source, scan_source
from ssmttm.sources.rejects import Reject
from ssmttm.tokens.segments import Segment, plan_segments
from ssmttm.tokens.text_table import TextPlan, overlong_captions, plan_text

FORMAT_VERSION = 2
SHARD_FOLDER = "shards"
READER_THREADS = 16


@dataclass(frozen=True)
class ShardPlan:
    """The segments of one shard, in order, and what its rows depend on. file_bytes: size of each segment's file, which
    tells when one was replaced. source: the corpus that audio paths are stored relative to."""

    index: int
    segments: tuple[Segment, ...]
    file_bytes: tuple[int, ...]
    codec_fingerprint: str
    text_fingerprint: str
    decoding: Decoding
    segment_seconds: float
    source: str

    @property
    def name(self) -> str:
        return f"{SHARD_FOLDER}/part-{self.index:05d}.parquet"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the shard's bytes; of the audio files, their sizes."""
        content = {"version": FORMAT_VERSION, **asdict(self)}
        source = content.pop("source")
        for segment in content["segments"]:
            segment["track"]["audio"] = relative_to_source(segment["track"]["audio"], source)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


Plan = ShardPlan | TextPlan


@dataclass(frozen=True)
class DatasetPlan:
    """All work of one dataset. rejects: files refused before any audio is encoded."""

    shards: list[ShardPlan]
    texts: list[TextPlan]
    rejects: list[Reject]
    overlong_captions: int

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


def admit_tracks(tracks: Iterable[Track], config: Config) -> tuple[list[Track], list[Reject]]:
    """Keep tracks under an allowed licence, in whatever spelling; refuse the others."""
    kept, rejects = [], []
    for track in tracks:
        if not track.licence.strip():
            detail = "no licence stated; set corpus.default_licence if you know it"
            rejects.append(Reject(track.id, track.audio, "missing-licence", detail))
        elif not licences.is_allowed(track.licence, config.corpus.allow_licences):
            detail = f"'{track.licence}' is not in corpus.allow_licences"
            rejects.append(Reject(track.id, track.audio, "licence-not-allowed", detail))
        else:
            kept.append(track)
    return kept, rejects


def drop_overlong_captions(tracks: Sequence[Track], encoder: TextEncoder) -> tuple[list[Track], list[Reject], int]:
    """Remove blank, repeated and over-long captions; refuse tracks left without one. Returns the number removed for
    their length."""
    cleaned = [
        replace(track, captions=tuple(dict.fromkeys(c.strip() for c in track.captions if c.strip())))
        for track in tracks
    ]
    overlong = overlong_captions(dict.fromkeys(c for track in cleaned for c in track.captions), encoder)
    kept, rejects = [], []
    for track in cleaned:
        captions = tuple(c for c in track.captions if c not in overlong)
        if captions:
            kept.append(replace(track, captions=captions))
        else:
            detail = f"all captions are over {encoder.max_tokens} tokens" if track.captions else "no caption"
            rejects.append(Reject(track.id, track.audio, "no-caption", detail))
    return kept, rejects, len(overlong)


@dataclass(frozen=True)
class Measured:
    """A track whose duration is known, and the size of its file."""

    track: Track
    file_bytes: int


def measure(track: Track, minimum_seconds: float) -> Measured | Reject:
    """Look at a track's file: its size, and its duration where the manifest does not state one."""
    fs, path = storage.filesystem(track.audio)
    try:
        seconds = track.duration_s or file_seconds(track.audio, minimum_seconds)
        size = int(storage.with_retries(lambda: fs.size(path), track.audio) or 0)
    except RefusedError as refused:
        return Reject(track.id, track.audio, refused.reason, refused.detail)
    except (FileNotFoundError, NotADirectoryError):
        return Reject(track.id, track.audio, "missing", "no such file")
    return Measured(replace(track, duration_s=seconds), size)


def plan_shards(
    tracks: Sequence[Track],
    config: Config,
    sample_rate: int,
    codec_fingerprint: str,
    text_fingerprint: str,
    vocals: str = "keep",
) -> tuple[list[ShardPlan], list[Reject]]:
    """Cut tracks into segments and deal these to shards of `corpus.rows_per_shard`, in manifest order. Of the same
    audio under several names, the first is taken."""
    corpus = config.corpus
    found: list[Measured] = []
    rejects: list[Reject] = []
    # Threads: files are opened, perhaps on an object store, and libsndfile lets others work.
    with ThreadPoolExecutor(READER_THREADS) as pool:
        measured = tqdm(
            pool.map(lambda track: measure(track, corpus.minimum_seconds), tracks),
            desc="files",
            total=len(tracks),
            unit="file",
            leave=False,
        )
        for one in measured:
            if isinstance(one, Measured):
                found.append(one)
            else:
                rejects.append(one)
        if corpus.duplicates == "reject":
            duplicates = find_duplicates([one.track for one in found], pool)
            rejects += duplicates
            again = {reject.id for reject in duplicates}
            found = [one for one in found if one.track.id not in again]
    segments: list[Segment] = []
    sizes: list[int] = []
    for one in found:
        planned = plan_segments(one.track, corpus)
        if isinstance(planned, Reject):
            rejects.append(planned)
        else:
            segments += planned
            sizes += len(planned) * [one.file_bytes]
    decoding = Decoding(
        sample_rate,
        corpus.minimum_seconds,
        corpus.silence_dbfs,
        corpus.maximum_clipped,
        corpus.loudness,
        vocals,
    )
    shards = [
        ShardPlan(
            index,
            tuple(segments[start : start + corpus.rows_per_shard]),
            tuple(sizes[start : start + corpus.rows_per_shard]),
            codec_fingerprint,
            text_fingerprint,
            decoding,
            corpus.segment_seconds,
            corpus.source,
        )
        for index, start in enumerate(range(0, len(segments), corpus.rows_per_shard))
    ]
    return shards, rejects


def plan_dataset(config: Config, codec: Codec, encoder: TextEncoder, vocals: str = "keep") -> DatasetPlan:
    """Read the source and fix all work on it. `audio` becomes relative to the source in everything that is stored.

    Args:
        vocals: what is done to them: "keep", or the fingerprint of what removes them.

    Raises:
        UserError: if `corpus.source` does not exist or holds no track.
    """
    tracks, rejects = scan_source(config.corpus.source, config.corpus)
    tracks, refused = admit_tracks(tracks, config)
    rejects += refused
    if config.corpus.captioner:
        from ssmttm.sources.captioner import caption_tracks

        tracks = caption_tracks(tracks, config.corpus.captioner, config.corpus.out)
    tracks, refused, overlong = drop_overlong_captions(tracks, encoder)
    rejects += refused
    shards, refused = plan_shards(tracks, config, codec.sample_rate, codec.fingerprint(), encoder.fingerprint)
    rejects += refused
    captions = [caption for shard in shards for segment in shard.segments for caption in segment.track.captions]
    rejects = [replace(reject, audio=relative_to_source(reject.audio, config.corpus.source)) for reject in rejects]
    return DatasetPlan(shards, plan_text(captions, encoder.fingerprint), rejects, overlong)
