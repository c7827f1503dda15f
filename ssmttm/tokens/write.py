"""From a corpus to token shards: encode what the plan says, commit.

The plan (`plan.py`) is fixed before work begins. One task writes one part under a fixed name, in one piece; finished
parts are recognised and skipped; encoder batches have one shape and one thread. So a rerun, and any way of spreading
the work, gives the same bytes. Nothing here needs Ray: `jobs/preprocess.py` runs the same plan on a cluster.

Shapes: B batch, K codebooks, T code frames, N samples, D fine dimension (or text width), S text tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import __version__, storage
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.conditions.base import ControlConditioner, Excerpt, checked
from ssmttm.conditions.encoders import TextEncoder, is_same_text, load_text_encoder
from ssmttm.conditions.registry import control_of, widths_of
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.hardware import multiplies_bf16, torch_threads
from ssmttm.lease import hold
from ssmttm.sources.manifest import REJECTS_NAME, Reject, count_reasons, merged, relative_to_source, to_jsonl
from ssmttm.tokens.attribution import attribution_csv
from ssmttm.tokens.card import DatasetStatistics, dataset_card
from ssmttm.tokens.decode import RemoveVocals, Segment, read_segments
from ssmttm.tokens.plan import DatasetPlan, Plan, ShardPlan, TextPlan, plan_dataset
from ssmttm.tokens.schema import (
    ATTRIBUTION_COLUMNS,
    ATTRIBUTION_NAME,
    CODES,
    COMMIT_NAME,
    FLOATS,
    PLAN_NAME,
    SHARD_FOLDER,
    TEXT_FOLDER,
    TEXT_ROW_GROUP,
    TEXT_SCHEMA,
    PartReport,
    caption_key,
    control_column,
    open_dataset,
    part_matches,
    read_columns,
    read_part_metadata,
    row_schema,
    write_part,
)
from ssmttm.tokens.vocals import VocalRemover, vocal_remover


@dataclass(frozen=True)
class PreprocessResult:
    """dataset: the content of `dataset.json`. reports: one per part of this run, none if the dataset was complete."""

    dataset: dict[str, Any]
    reports: list[PartReport]
    wall_s: float


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
def encode_shard(
    plan: ShardPlan,
    codec: Codec,
    out: str,
    remove_vocals: RemoveVocals = None,
    controls: Sequence[ControlConditioner] = (),
) -> PartReport:
    """Decode and encode the segments of one shard and write it under its fixed name; a finished shard is left alone.

    Segments that cannot be used become rejects in the shard's metadata. Every batch is padded to
    [codec.encode_batch, 1, segment_seconds]; a shorter segment keeps the frames that its own samples reach.
    """
    uri = storage.join(out, plan.name)
    if part_matches(uri, plan.fingerprint):
        content = read_part_metadata(uri) or {}
        return PartReport(plan.name, content["rows"], content["seconds"], len(content["rejects"]), skipped=True)
    length, size = round(plan.segment_seconds * codec.sample_rate), codec.encode_batch
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    known = {control.name: 0 for control in controls}
    for batch in _batches(plan, size, rejects, remove_vocals):
        wav_B1N = torch.zeros(size, 1, length)
        for index, (_, wav_N) in enumerate(batch):
            wav_B1N[index, 0, : len(wav_N)] = torch.from_numpy(wav_N)
        codes_BKT, fine_BDT = (values.cpu().numpy() for values in codec.encode_with_latents(wav_B1N.to(codec.device)))
        for index, (segment, wav_N) in enumerate(batch):
            frames = -(-len(wav_N) // codec.hop_length)
            row = _row(segment, plan)
            row |= {"duration_s": len(wav_N) / codec.sample_rate, "frames": frames}
            row["codes"] = codes_BKT[index, :, :frames].astype(CODES).tobytes()
            row["fine"] = fine_BDT[index, :, :frames].astype(FLOATS).tobytes()
            excerpt = Excerpt(
                asdict(segment.track), wav_N[None], codec.sample_rate, segment.start_s, frames, codec.frame_rate
            )
            for control in controls:
                values_CT = _measured(control, excerpt)
                known[control.name] += int(np.count_nonzero(~np.isnan(values_CT).any(axis=0)))
                row[control_column(control.name)] = values_CT.tobytes()
            rows.append(row)
    schema = row_schema(control.name for control in controls)
    seconds = float(sum(row["duration_s"] for row in rows))
    refused = [asdict(replace(r, audio=relative_to_source(r.audio, plan.source))) for r in rejects]
    content = {"rows": len(rows), "seconds": seconds, "rejects": refused}
    if known:
        content["known_frames"] = known
    write_part(uri, rows, schema, plan.fingerprint, content)
    return PartReport(plan.name, len(rows), seconds, len(rejects), skipped=False)


def _row(segment: Segment, plan: ShardPlan) -> dict[str, Any]:
    """What is known of a row before it is encoded."""
    track = segment.track
    return {
        "id": segment.id,
        "source_id": track.id,
        "split": track.split,
        "start_s": segment.start_s,
        "text_keys": [caption_key(caption, plan.text_fingerprint) for caption in track.captions],
        "licence": track.licence,
        "artist": track.artist,
        "title": track.title,
        "source_url": track.source_url,
        "audio": relative_to_source(track.audio, plan.source),
        "tags": json.dumps(track.tags, sort_keys=True, ensure_ascii=False),
    }


def _measured(control: ControlConditioner, excerpt: Excerpt) -> np.ndarray:
    """A row's values of a control by frame, as they are stored."""
    values_CT = control.measure(excerpt)
    if values_CT is None:
        values_CT = np.full((control.channels, excerpt.frames), np.nan)
    return checked(control, values_CT, excerpt.frames).astype(FLOATS)


def write_text_table(plan: TextPlan, encoder: TextEncoder, out: str) -> PartReport:
    """Encode the captions of one part and write it under its fixed name; a finished part is left alone."""
    uri = storage.join(out, plan.name)
    if part_matches(uri, plan.fingerprint):
        return PartReport(plan.name, len(plan.captions), seconds=0.0, rejects=0, skipped=True)
    # Where the CPU multiplies bfloat16 itself this halves the time; the states move by less than 1 %.
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16("cpu")):
        states = encoder.encode(plan.captions)
    rows = [
        {
            "key": caption_key(caption, plan.encoder_fingerprint),
            "caption": caption,
            "length": len(states_SD),
            "states": states_SD.astype(FLOATS).tobytes(),
        }
        for caption, states_SD in zip(plan.captions, states, strict=True)
    ]
    write_part(uri, rows, TEXT_SCHEMA, plan.fingerprint, row_group_size=TEXT_ROW_GROUP)
    return PartReport(plan.name, len(plan.captions), seconds=0.0, rejects=0, skipped=False)


class PartWriter:
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
        return vocal_remover(self.config.corpus)

    @cached_property
    def controls(self) -> list[ControlConditioner]:
        return [control_of(name) for name in self.config.corpus.controls]

    def __call__(self, plan: Plan) -> PartReport:
        out = self.config.corpus.out
        with torch_threads():  # the tasks themselves fill the cores
            if isinstance(plan, TextPlan):
                return write_text_table(plan, self.encoder, out)
            return encode_shard(plan, self.codec, out, self.remove_vocals, self.controls)


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
        part = read_part_metadata(uri) or {}
        rejects += [Reject(**reject) for reject in part["rejects"]]
        for name, frames in part.get("known_frames", {}).items():
            statistics.known_frames[name] += frames
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
    if config.corpus.controls:
        content["controls"] = widths_of(config.corpus.controls)
        content["controls_known"] = statistics.known_shares(config.corpus.controls)
    storage.write_text(storage.join(out, ATTRIBUTION_NAME), attribution_csv(statistics.seconds_by_track))
    storage.write_text(storage.join(out, "README.md"), dataset_card(content))
    storage.write_commit(out, COMMIT_NAME, content)
    return content


def _go_by_the_name_of_before(encoder: TextEncoder, out: str) -> None:
    """Let an encoder have the fingerprint that a finished dataset knows it by, from before tokenizer and configuration
    were part of it."""
    if storage.exists(storage.join(out, COMMIT_NAME)):
        known = open_dataset(out).content["text"]["fingerprint"]
        if is_same_text(known, encoder.fingerprint):
            encoder.fingerprint = known


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


def preprocess(
    writer: PartWriter, execute: Callable[[PartWriter, Sequence[Plan]], Iterator[PartReport]]
) -> PreprocessResult:
    """Make `corpus.out` from `corpus.source`; `execute` fulfils the plans, in any order, as the writer would.

    A dataset that is already complete is returned as it is; an interrupted one is continued.

    Raises:
        UserError: if the source is missing or yields no row, the codec is missing or of another kind than
            `codec.name`, or `corpus.out` holds another dataset, is written by another job or cannot be
            written.
    """
    out = writer.config.corpus.out
    if storage.exists(storage.join(out, COMMIT_NAME)):  # nothing will be written
        return _preprocess(writer, execute)
    storage.check_writable(storage.join(out, PLAN_NAME))
    with hold(out, "choose another corpus.out"):
        return _preprocess(writer, execute)


def _preprocess(
    writer: PartWriter, execute: Callable[[PartWriter, Sequence[Plan]], Iterator[PartReport]]
) -> PreprocessResult:
    started = time.perf_counter()
    config, out = writer.config, writer.config.corpus.out
    kind = writer.codec.describe()["name"]
    if kind != config.codec.name:
        raise UserError(f"{config.codec.path} holds a codec of kind {kind}; give codec.name={kind}, or another path")
    widths_of(config.corpus.controls)  # refuses unknown names before any work
    vocals = writer.remove_vocals.fingerprint if writer.remove_vocals else "keep"
    _go_by_the_name_of_before(writer.encoder, out)
    plan = plan_dataset(config, writer.codec, writer.encoder, vocals)
    dataset = _completed(out, plan)
    if dataset is not None:
        return PreprocessResult(dataset, [], time.perf_counter() - started)
    _claim(out, plan)
    for claim in plan.claims:
        print(claim, flush=True)
    reports = list(tqdm(execute(writer, plan.parts), desc="preprocess", total=len(plan.parts), unit="part"))
    dataset = finish_dataset(out, plan, config, writer.codec, writer.encoder)
    return PreprocessResult(dataset, reports, time.perf_counter() - started)


def preprocess_local(config: Config) -> PreprocessResult:
    """`preprocess` in this process, on one thread."""
    return preprocess(PartWriter(config), map)
