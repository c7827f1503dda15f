"""From a corpus to token shards: plan, encode, commit.

The plan (`plan.py`) is fixed before work begins. One task writes one part under a fixed name, in one piece; finished
parts are recognised and skipped; encoder batches have one shape and one thread. So a rerun, and any way of spreading
the work, gives the same bytes. Nothing here needs Ray: `jobs/preprocess.py` runs the same plan on a cluster.

Shapes: B batch, K codebooks, T code frames, N samples, D fine dimension.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from ssmttm import __version__, storage
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec, load_codec
from ssmttm.config import Config
from ssmttm.corpus.dataset_card import (
    ATTRIBUTION_COLUMNS,
    ATTRIBUTION_NAME,
    DatasetStatistics,
    attribution_csv,
    dataset_card,
)
from ssmttm.corpus.parts import PartReport, part_matches, read_columns, read_part_metadata, write_part
from ssmttm.corpus.plan import SHARD_FOLDER, DatasetPlan, Plan, ShardPlan, plan_dataset, plan_shards
from ssmttm.corpus.readers import relative_to_source
from ssmttm.corpus.rejects import REJECTS_NAME, Reject, count_reasons, merged, to_jsonl
from ssmttm.corpus.segments import Segment, read_segments
from ssmttm.corpus.text_table import TEXT_FOLDER, TextPlan, caption_key, write_text_table
from ssmttm.errors import UserError
from ssmttm.model.text import TextEncoder, load_text_encoder
from ssmttm.threads import torch_threads

if TYPE_CHECKING:
    from ssmttm.corpus.vocals import VocalRemover

__all__ = [
    "COMMIT_NAME",
    "PreprocessResult",
    "Worker",
    "encode_shard",
    "finish_dataset",
    "plan_dataset",
    "plan_shards",
    "preprocess",
    "preprocess_local",
    "write_text_table",
]

COMMIT_NAME = "dataset.json"
PLAN_NAME = "plan.json"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("frames", pa.int32()),
        ("codes", pa.binary()),
        ("fine", pa.binary()),
        ("text_keys", pa.list_(pa.string())),
        ("licence", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("source_url", pa.string()),
        ("audio", pa.string()),
        ("tags", pa.string()),
    ]
)


@dataclass(frozen=True)
class PreprocessResult:
    """dataset: the content of `dataset.json`. reports: one per part of this run, none if the dataset was complete."""

    dataset: dict[str, Any]
    reports: list[PartReport]
    wall_s: float


RemoveVocals = Callable[[Audio], Audio] | None


def _batches(
    plan: ShardPlan, batch_size: int, rejects: list[Reject], remove_vocals: RemoveVocals
) -> Iterator[list[tuple[Segment, np.ndarray]]]:
    """Decoded segments in groups; what cannot be decoded goes to `rejects`."""
    batch: list[tuple[Segment, np.ndarray]] = []
    for _, of_track in groupby(plan.segments, key=lambda segment: segment.track.id):
        for segment, decoded in read_segments(list(of_track), plan.decoding, remove_vocals):
            if isinstance(decoded, Reject):
                rejects.append(decoded)
                continue
            batch.append((segment, decoded))
            if len(batch) == batch_size:
                yield batch
                batch = []
    if batch:
        yield batch


@torch.inference_mode()
def encode_shard(plan: ShardPlan, codec: Codec, out: str, remove_vocals: RemoveVocals = None) -> PartReport:
    """Decode and encode the segments of one shard and write it under its fixed name; a finished shard is left alone.

    Segments that cannot be used become rejects in the shard's metadata. Every batch is padded to
    [codec.encode_batch, 1, segment_seconds]; a shorter segment keeps the frames that its own samples reach.
    """
    uri = storage.join(out, plan.name)
    if part_matches(uri, plan.fingerprint):
        content = read_part_metadata(uri) or {}
        return PartReport(plan.name, content["rows"], content["seconds"], len(content["rejects"]), skipped=True)
    length, size = round(plan.segment_seconds * codec.sample_rate), codec.encode_batch
    rows: list[tuple[Any, ...]] = []
    rejects: list[Reject] = []
    for batch in _batches(plan, size, rejects, remove_vocals):
        wav_B1N = torch.zeros(size, 1, length)
        for index, (_, wav_N) in enumerate(batch):
            wav_B1N[index, 0, : len(wav_N)] = torch.from_numpy(wav_N)
        codes_BKT, fine_BDT = (values.cpu() for values in codec.encode_with_latents(wav_B1N.to(codec.device)))
        for index, (segment, wav_N) in enumerate(batch):
            frames = -(-len(wav_N) // codec.hop_length)
            track = segment.track
            rows.append(
                (
                    segment.id,
                    track.id,
                    track.split,
                    segment.start_s,
                    len(wav_N) / codec.sample_rate,
                    frames,
                    codes_BKT[index, :, :frames].numpy().astype(np.int16).tobytes(),
                    fine_BDT[index, :, :frames].numpy().astype(np.float16).tobytes(),
                    [caption_key(caption, plan.text_fingerprint) for caption in track.captions],
                    track.licence,
                    track.artist,
                    track.title,
                    track.source_url,
                    relative_to_source(track.audio, plan.source),
                    json.dumps(track.tags, sort_keys=True, ensure_ascii=False),
                )
            )
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    seconds = float(sum(columns[SCHEMA.names.index("duration_s")]))
    refused = [asdict(replace(r, audio=relative_to_source(r.audio, plan.source))) for r in rejects]
    write_part(uri, columns, SCHEMA, plan.fingerprint, {"rows": len(rows), "seconds": seconds, "rejects": refused})
    return PartReport(plan.name, len(rows), seconds, len(rejects), skipped=False)


class Worker:
    """Fulfils plans of either kind; codec and text encoder are loaded once, when first needed."""

    def __init__(self, config: Config):
        self.config = config

    @cached_property
    def codec(self) -> Codec:
        device = "cuda" if self.config.corpus.gpus_per_actor else "cpu"
        return load_codec(self.config.codec.path).eval().to(device)

    @cached_property
    def encoder(self) -> TextEncoder:
        return load_text_encoder(self.config.text)

    @cached_property
    def remove_vocals(self) -> VocalRemover | None:
        if self.config.corpus.vocals == "keep":
            return None
        from ssmttm.corpus.vocals import VocalRemover

        return VocalRemover("cuda" if self.config.corpus.gpus_per_actor else "cpu")

    def __call__(self, plan: Plan) -> PartReport:
        out = self.config.corpus.out
        with torch_threads():  # the tasks themselves fill the cores
            if isinstance(plan, TextPlan):
                return write_text_table(plan, self.encoder, out)
            return encode_shard(plan, self.codec, out, self.remove_vocals)


def _remove_strays(out: str, names: set[str]) -> None:
    """Delete parts of an earlier, abandoned plan."""
    fs, path = storage.filesystem(out)
    for folder in (SHARD_FOLDER, TEXT_FOLDER):
        for name in storage.list_names(storage.join(out, folder)):
            if f"{folder}/{name}" not in names:
                fs.rm(storage.join(path, folder, name))


def finish_dataset(out: str, plan: DatasetPlan, config: Config, codec: Codec, encoder: TextEncoder) -> dict[str, Any]:
    """Write rejects, attribution, dataset card and, last, the commit file; returns the latter's content.

    Raises:
        UserError: if not one row came out, or more tracks than `corpus.maximum_rejects` were refused; with the reasons.
    """
    missing = [part.name for part in plan.parts if not part_matches(storage.join(out, part.name), part.fingerprint)]
    assert not missing, f"parts not written: {missing}"
    _remove_strays(out, {part.name for part in plan.parts})
    rejects = list(plan.rejects)
    statistics = DatasetStatistics()
    for shard in plan.shards:
        uri = storage.join(out, shard.name)
        rejects += [Reject(**reject) for reject in (read_part_metadata(uri) or {})["rejects"]]
        statistics.add(read_columns(uri, DatasetStatistics.COLUMNS))
    rejects = merged(rejects)
    lost = sum(reject.segments for reject in rejects)
    assert statistics.rows + lost == plan.segments, (
        f"{statistics.rows} rows + {lost} rejects != {plan.segments} planned"
    )
    storage.write_text(storage.join(out, REJECTS_NAME), to_jsonl(rejects))
    reasons = ", ".join(f"{reason} {number}" for reason, number in count_reasons(rejects).items())
    see = f"see {storage.join(out, REJECTS_NAME)}"
    if statistics.rows == 0:
        raise UserError(f"nothing in {config.corpus.source} could be used ({reasons or 'no tracks'}); {see}")
    used = {track[ATTRIBUTION_COLUMNS.index("audio")] for track in statistics.seconds_by_track}
    refused = {reject.audio or reject.id for reject in rejects} - used  # of a track that was used, parts may be refused
    share = len(refused) / (len(refused) + len(used))
    if share > config.corpus.maximum_rejects:
        raise UserError(
            f"{share:.1%} of the tracks were refused ({reasons}), over corpus.maximum_rejects="
            f"{config.corpus.maximum_rejects:g}; {see}"
        )
    content = {
        "version": __version__,
        "fingerprint": plan.fingerprint,
        **statistics.summary(),
        "segments_planned": plan.segments,
        "segments_rejected": lost,
        "seconds_planned": round(plan.seconds, 3),
        "seconds_rejected": round(sum(reject.seconds for reject in rejects), 3),
        "allow_licences": list(config.corpus.allow_licences),
        "rejects": len(rejects),
        "rejects_by_reason": count_reasons(rejects),
        "captions": sum(len(text.captions) for text in plan.texts),
        "captions_overlong": plan.overlong_captions,
        "codec": {
            "uri": config.codec.path,
            "fingerprint": codec.fingerprint(),
            "config": codec.describe(),
        },
        "text": {"reference": encoder.reference, "fingerprint": encoder.fingerprint, "dim": encoder.dim},
        "config": config.model_dump(mode="json"),
    }
    storage.write_text(storage.join(out, ATTRIBUTION_NAME), attribution_csv(statistics))
    storage.write_text(storage.join(out, "README.md"), dataset_card(content))
    storage.write_commit(out, COMMIT_NAME, content)
    return content


def _completed(out: str, plan: DatasetPlan) -> dict[str, Any] | None:
    """The dataset if `out` already holds exactly this one.

    Raises:
        UserError: if it holds another one, or a damaged one.
    """
    if not storage.exists(storage.join(out, COMMIT_NAME)):
        return None
    dataset = storage.read_commit(out, COMMIT_NAME)
    if dataset["fingerprint"] != plan.fingerprint:
        raise UserError(
            f"corpus.out={out} already holds a dataset made from another corpus, codec, text encoder or settings; "
            "choose another corpus.out or delete the folder"
        )
    return dataset


def _claim(out: str, plan: DatasetPlan) -> None:
    """Mark an unfinished folder with its plan, so that parts of two datasets never lie in one.

    Raises:
        UserError: if it holds parts of another one.
    """
    uri = storage.join(out, PLAN_NAME)
    if storage.exists(uri) and storage.read_json(uri)["fingerprint"] != plan.fingerprint:
        raise UserError(
            f"corpus.out={out} holds an unfinished dataset made from another corpus, codec, text encoder or settings; "
            "choose another corpus.out, or delete the folder"
        )
    storage.write_json(uri, {"fingerprint": plan.fingerprint, "segments": plan.segments, "parts": len(plan.parts)})


def preprocess(worker: Worker, execute: Callable[[Worker, Sequence[Plan]], Iterator[PartReport]]) -> PreprocessResult:
    """Make `corpus.out` from `corpus.source`; `execute` fulfils the plans, in any order, as the worker would.

    A dataset that is already complete is returned as it is; an interrupted one is continued.

    Raises:
        UserError: if the source is missing or yields no row, the codec is missing or of another kind than
            `codec.name`, or `corpus.out` holds another dataset.
    """
    started = time.perf_counter()
    config, out = worker.config, worker.config.corpus.out
    kind = worker.codec.describe()["name"]
    if kind != config.codec.name:
        raise UserError(f"{config.codec.path} holds a codec of kind {kind}; give codec.name={kind}, or another path")
    vocals = worker.remove_vocals.fingerprint if worker.remove_vocals else "keep"
    plan = plan_dataset(config, worker.codec, worker.encoder, vocals)
    dataset = _completed(out, plan)
    if dataset is not None:
        return PreprocessResult(dataset, [], time.perf_counter() - started)
    _claim(out, plan)
    reports = list(tqdm(execute(worker, plan.parts), desc="preprocess", total=len(plan.parts), unit="part"))
    dataset = finish_dataset(out, plan, config, worker.codec, worker.encoder)
    return PreprocessResult(dataset, reports, time.perf_counter() - started)


def preprocess_local(config: Config) -> PreprocessResult:
    """`preprocess` in this process, on one thread."""
    return preprocess(Worker(config), map)
