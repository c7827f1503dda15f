"""What lies in a corpus or a token dataset, and what is wrong with it: entries, rejects, problems, and figures of what
there is of what, and how evenly; for people, pages and `--json`."""

from __future__ import annotations

import json
import math
import posixpath
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ssmttm import audio, licences, storage
from ssmttm.codec.mini import DEAD_SHARE, dead_codebooks
from ssmttm.config import CorpusConfig
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import DamagedError, UserError
from ssmttm.opener import open_audio
from ssmttm.sources.fields import tempo
from ssmttm.sources.manifest import (
    MANIFEST_NAME,
    REJECTS_NAME,
    Reject,
    Track,
    count_reasons,
    free_id,
    read_rejects,
    source_root,
    write_manifest,
)
from ssmttm.sources.readers import scan_source, unlisted
from ssmttm.sources.splits import groups_of, with_held_out
from ssmttm.sources.tables import read_table_text
from ssmttm.tokens.admit import READER_THREADS, Measured, decoding_of, look_at
from ssmttm.tokens.card import allow_list
from ssmttm.tokens.decode import read_segments
from ssmttm.tokens.plan import plan_segments
from ssmttm.tokens.schema import (
    COMMIT_NAME,
    ROW_COLUMNS,
    TEXT_FOLDER,
    codes_of,
    open_dataset,
    read_columns,
    shard_names,
)
from ssmttm.verified import Listing

T = TypeVar("T")
MAXIMUM_BINS = 30
FIRST_NAMES = 5
NONE_STATED = "none stated"
# Loudness of long files is measured on this much, so that a recording of hours does not fill the memory.
LOUDNESS_SECONDS = 600.0
GATING_BLOCK_S = 0.4  # of ITU-R BS.1770: nothing shorter has an integrated loudness
LOUDNESS_SAMPLES = 2**25  # of all its channels, at most
# Rejects that are faults of the corpus itself, not decisions about good files.
FAULTS = frozenset({"bad-entry", "missing", "unreadable", "empty", "not-audio", "truncated", "damaged", "not-finite"})


@dataclass(frozen=True)
class Entry:
    """A track of a corpus, or a row of a dataset: then `track` has the row's id, captions and length, and `audio` is
    the whole source file, in which the row begins at `start_s` seconds. shard: the row's file, relative to the
    dataset."""

    track: Track
    source_id: str
    start_s: float = 0.0
    shard: str = ""


@dataclass(frozen=True)
class Inventory:
    """kind: what was found at `uri`. dataset: the content of `dataset.json`. present: URIs of the source files that
    are there. problems: one line each. claims: a line for each track that is not as long as its header or the manifest
    say. corpus: by what a corpus was read; its segments are cut and refused as these settings say. unlisted: audio
    files beside those that a manifest lists, relative to their folder. held_out: a line, if what should be held out
    cannot be."""

    uri: str
    kind: Literal["corpus", "dataset"]
    entries: list[Entry]
    rejects: list[Reject]
    present: frozenset[str]
    problems: list[str]
    dataset: dict[str, Any] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    unlisted: list[str] = field(default_factory=list)
    held_out: str = ""


def bar(items: Iterable[T], name: str, unit: str, progress: bool, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar if `progress` and if someone is looking (stderr is a terminal)."""
    return tqdm(items, desc=name, unit=unit, total=total, leave=False, disable=None if progress else True)


def read_inventory(uri: str, corpus: CorpusConfig, progress: bool = True) -> Inventory:
    """List a corpus (anything `scan_source` reads) or a finished token dataset, with the files that lack or differ.

    Raises:
        UserError: if there is neither.
    """
    if storage.exists(storage.join(uri, COMMIT_NAME)):
        return _dataset_inventory(uri, progress)
    return _corpus_inventory(uri, corpus, progress)


def _present(root: str) -> frozenset[str]:
    return frozenset(storage.join(root, name) for name in storage.list_files(root))


def _at_hand(root: str) -> frozenset[str]:
    """`_present`, of a folder that a dataset remembers: it may lie on storage that this machine cannot reach."""
    try:
        return _present(root)
    except Exception as error:  # each kind of storage fails in its own way
        print(f"{root} cannot be listed ({error}); going on without its audio", file=sys.stderr)
        return frozenset()


def _faults(rejects: Iterable[Reject]) -> list[str]:
    """A line for each reject that is a fault."""
    lines = []
    for reject in rejects:
        if reject.reason == "missing":
            lines.append(f"missing file: {reject.audio}")
        elif reject.reason in FAULTS:
            lines.append(f"{reject.reason}: {reject.detail}" + (f" ({reject.audio})" if reject.audio else ""))
    return lines


def _missing(tracks: Iterable[Track], present: frozenset[str]) -> list[str]:
    return [f"missing file: {track.audio}" for track in tracks if track.audio not in present]


def _corpus_inventory(uri: str, corpus: CorpusConfig, progress: bool, past_manifest: bool = False) -> Inventory:
    tracks, rejects = scan_source(uri, corpus, past_manifest)
    present = _present(source_root(uri))
    others = [] if past_manifest else unlisted(uri, corpus, tracks)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        seen = pool.map(lambda track: look_at(track, corpus.minimum_seconds), tracks)
        looked_at = list(bar(seen, "files", "file", progress, len(tracks)))
    claims = [one.claim for one in looked_at if isinstance(one, Measured) and one.claim]
    rejects += [one for one in looked_at if isinstance(one, Reject)]
    tracks = [
        one.track if isinstance(one, Measured) else replace(track, duration_s=0.0)
        for track, one in zip(tracks, looked_at, strict=True)
    ]
    try:
        tracks, held_out = with_held_out(tracks, lambda track: track.duration_s > 0)
    except UserError as error:
        held_out = str(error)
    entries = [Entry(track, track.id) for track in tracks]
    return Inventory(uri, "corpus", entries, rejects, present, _faults(rejects), {}, claims, corpus, others, held_out)


def _damage(dataset: Listing, progress: bool) -> dict[str, str]:
    """Files of a dataset that are missing or differ from the commit file, with a line about each."""
    damage = {}
    for name, file in bar(dataset.files.items(), "files", "file", progress):
        try:
            file.check()
        except DamagedError:
            is_there = storage.exists(file.uri)
            damage[name] = (
                f"damaged file: {name} differs from its digest in {COMMIT_NAME}"
                if is_there
                else f"missing file: {name}"
            )
    return damage


def _captions(uri: str, names: Iterable[str]) -> dict[str, str]:
    tables = [read_columns(storage.join(uri, name), ["key", "caption"]) for name in names]
    return {row["key"]: row["caption"] for table in tables for row in table.to_pylist()}


def _row_entries(table: pa.Table, shard: str, root: str, captions: dict[str, str]) -> list[Entry]:
    """The rows of a shard, read with `ROW_COLUMNS`. root: folder of the corpus of old. captions: by key."""
    return [
        Entry(
            Track(
                id=row["id"],
                audio=storage.join(root, row["audio"]),
                captions=tuple(captions[key] for key in row["text_keys"] if key in captions),
                split=row["split"],
                duration_s=row["duration_s"],
                tags=json.loads(row["tags"]),
                **{name: row[name] for name in ("licence", "artist", "title", "source_url")},
            ),
            row["source_id"],
            row["start_s"],
            shard,
        )
        for row in table.to_pylist()
    ]


def _dataset_inventory(uri: str, progress: bool) -> Inventory:
    listing = open_dataset(uri)
    dataset, damage = listing.content, _damage(listing, progress)
    whole = [name for name in dataset["files"] if name not in damage]
    source = dataset["config"]["corpus"]["source"]
    root = source_root(source)
    captions = _captions(uri, [name for name in whole if name.startswith(f"{TEXT_FOLDER}/")])
    entries = []
    for name in shard_names(dataset):
        if name not in damage:
            entries += _row_entries(read_columns(storage.join(uri, name), ROW_COLUMNS), name, root, captions)
    repeated = [name for name, count in Counter(entry.track.id for entry in entries).items() if count > 1]
    return Inventory(
        uri,
        "dataset",
        entries,
        read_rejects(uri) if REJECTS_NAME in whole else [],
        _at_hand(root),
        [*damage.values(), *(f"id '{name}' occurs more than once" for name in repeated)],
        dataset,
    )


def write_scan(source: str, out: str | None, corpus: CorpusConfig, progress: bool = True) -> tuple[Inventory, str, int]:
    """Write the manifest of what a source holds, or add to it what it does not list: its lines stay as they are, since
    people may have edited them.

    Args:
        source: anything `scan_source` reads.
        out: the manifest, `*.jsonl`; default: the one in the source's folder if there is one, else
            `runs/NAME/manifest.jsonl`, with the folder's name. Nobody's music folder is written into.
        corpus: layout and default licence.
        progress: show progress bars.

    Returns:
        The inventory of all that the manifest lists now, its URI, and how many tracks were added.

    Raises:
        UserError: if there is no source, `out` is no `*.jsonl`, it is the manifest of another folder or cannot
            be written.
    """
    source = storage.absolute(source)
    root = source_root(source)
    name = posixpath.basename(root) or "music"
    there = storage.join(root, MANIFEST_NAME)
    manifest = there if storage.exists(there) else storage.absolute(storage.join("runs", name, MANIFEST_NAME))
    manifest = storage.absolute(out) if out is not None else manifest
    if not manifest.endswith(".jsonl"):
        raise UserError(f"--out {out} must be a manifest, such as {out}.jsonl")
    storage.check_writable(manifest)
    found = _corpus_inventory(root if manifest == source else source, corpus, progress, past_manifest=True)
    if not storage.exists(manifest):
        write_manifest(manifest, [entry.track for entry in found.entries], root)
        return found, manifest, len(found.entries)
    if source_root(manifest) != root:
        raise UserError(f"{manifest} lists the audio of {source_root(manifest)}; give another --out")
    listed, rejects = scan_source(manifest, corpus.model_copy(update={"format": "manifest"}))
    files = {track.audio for track in listed}
    new = _joining(listed, [entry.track for entry in found.entries if entry.track.audio not in files])
    if new:
        write_manifest(manifest, new, root, before=read_table_text(manifest))
    problems = [*found.problems, *_faults(rejects), *_missing(listed, found.present)]
    entries = [Entry(track, track.id) for track in (*listed, *new)]
    return replace(found, entries=entries, rejects=[*rejects, *found.rejects], problems=problems), manifest, len(new)


def _joining(listed: Sequence[Track], new: Iterable[Track]) -> list[Track]:
    """New tracks under ids that are free, in the split that their artist or album has already."""
    free, taken = [], {track.id for track in listed}
    for track in new:
        free.append(replace(track, id=free_id([track.id], taken)))
        taken.add(free[-1].id)
    known = {track.id: track.split for track in listed}
    split_of: dict[str, Any] = {}
    for group in groups_of([*listed, *free]).values():
        splits = {known[track.id] for track in group if track.id in known}
        if len(splits) == 1:
            split_of |= dict.fromkeys((track.id for track in group), splits.pop())
    return [replace(track, split=split_of.get(track.id, track.split)) for track in free]


def histogram(values: Sequence[float], finest: float = 1.0) -> dict[str, Any] | None:
    """Counts in at most `MAXIMUM_BINS` bins `[edge, next edge)`, 1, 2 or 5 times a power of ten wide but not below
    `finest`. `whole`: the values are whole numbers. None if there are no values."""
    if not values:
        return None
    low, high = min(values), max(values)
    least = max((high - low) / (MAXIMUM_BINS - 2), finest)
    magnitude = 10 ** math.floor(math.log10(least))
    width = next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= least * (1 - 1e-9))
    bins = np.floor(np.asarray(values, dtype=np.float64) / width + 1e-9).astype(int)
    start = int(bins.min())
    counts = np.bincount(bins - start)
    return {
        "edges": [round((start + index) * width, 6) for index in range(len(counts) + 1)],
        "counts": counts.tolist(),
        "whole": all(isinstance(value, int) for value in values),
        "number": len(values),
        "median": round(float(median(values)), 4),
        "least": round(float(low), 4),
        "most": round(float(high), 4),
    }


def _seconds_by(entries: Iterable[Entry], names: Callable[[Entry], Iterable[str]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for entry in entries:
        for name in names(entry):
            group = found.setdefault(name, {"entries": 0, "seconds": 0.0})
            group["entries"] += 1
            group["seconds"] += entry.track.duration_s
    return {name: {**group, "seconds": round(group["seconds"], 3)} for name, group in sorted(found.items())}


def _genres(entry: Entry) -> list[str]:
    genre = entry.track.tags.get("genre") or []
    return [str(name) for name in genre] if isinstance(genre, list) else [str(genre)]


def _known_shares(inventory: Inventory, tracks: Sequence[Entry]) -> dict[str, float]:
    """The share of the time in which each control is known: of a dataset as preprocessing found it, of a corpus as far
    as its tracks' scores name it."""
    if inventory.kind == "dataset":
        return inventory.dataset.get("controls_known", {})
    seconds = sum(entry.track.duration_s for entry in tracks)
    stated: Counter[str] = Counter()
    for entry in tracks:
        stated.update(dict.fromkeys(entry.track.score, entry.track.duration_s))
    return {name: round(known / seconds, 4) for name, known in sorted(stated.items()) if seconds}


def _licence(entry: Entry) -> list[str]:
    stated = entry.track.licence.strip()
    return [licences.normalise(stated) or stated or NONE_STATED]


def _tempi(tracks: Iterable[Entry]) -> list[float]:
    return [bpm for entry in tracks if (bpm := tempo(entry.track.tags.get("bpm"))) is not None]


def _rejects(rejects: Sequence[Reject]) -> dict[str, dict[str, Any]]:
    return {
        reason: {"number": number, "first": [r.id for r in rejects if r.reason == reason][:FIRST_NAMES]}
        for reason, number in count_reasons(rejects).items()
    }


def length_and_loudness(uri: str) -> tuple[float, float | None]:
    """Seconds of a file, and the integrated loudness (LUFS, ITU-R BS.1770) of at most its first `LOUDNESS_SECONDS`;
    None for silence and for clips too short to have one.

    Raises:
        UserError: if it cannot be decoded.
    """
    import pyloudnorm

    try:
        with open_audio(uri) as source:
            seconds, rate = source.seconds, source.sample_rate
            samples_NC = source.samples(0, min(round(LOUDNESS_SECONDS * rate), LOUDNESS_SAMPLES // source.channels))
    except UnusableAudioError as error:
        raise UserError(f"cannot be decoded: {uri} ({error})") from None
    if samples_NC.shape[1] > 5:  # BS.1770 weighs five channels at most
        samples_NC = audio.to_mono(audio.Audio(samples_NC.T, rate)).samples.T
    if len(samples_NC) <= GATING_BLOCK_S * rate:
        return seconds, None
    loudness = float(pyloudnorm.Meter(rate).integrated_loudness(samples_NC))
    return seconds, loudness if math.isfinite(loudness) else None


def _refused_within(track: Track, corpus: CorpusConfig) -> list[Reject]:
    """The segments of a track that preprocessing would refuse."""
    planned = plan_segments(track, corpus)
    if isinstance(planned, Reject):
        return [planned]
    decoding = decoding_of(corpus, 0, "keep")
    return [found for _, found in read_segments(planned, decoding) if isinstance(found, Reject)]


def _sample(
    inventory: Inventory, size: int, seed: int, progress: bool
) -> tuple[dict[str, Any], list[Reject], list[str]]:
    """Lengths and loudness of files drawn by seed; what of them would be refused, and what could not be decoded."""
    # Files without a length could not be opened, and are named already.
    files = sorted({entry.track.audio for entry in inventory.entries if entry.track.duration_s > 0} & inventory.present)
    tracks = {entry.track.audio: entry.track for entry in inventory.entries}
    drawn = np.random.default_rng(seed).permutation(len(files))[:size]
    seconds, loudness, rejects, problems = [], [], [], []
    for index in bar(drawn, "loudness", "file", progress):
        if inventory.kind == "corpus":
            rejects += _refused_within(tracks[files[index]], inventory.corpus)
        try:
            length, lufs = length_and_loudness(files[index])
        except UserError as error:
            problems.append(str(error))
            continue
        seconds.append(length)
        loudness.append(lufs)
    audible = [lufs for lufs in loudness if lufs is not None]
    figures = {
        "files": len(seconds),
        "of": len(files),
        "seconds": histogram(seconds, 0.5),
        "lufs": histogram(audible, 0.5),
        "silent": len(loudness) - len(audible),
    }
    return figures, rejects, problems


def _codebooks(inventory: Inventory, progress: bool) -> dict[str, Any]:
    """Use of each codebook over all rows: entries that occur, and perplexity, the number of entries that would carry
    as much information if they were used alike (the exponential of the entropy)."""
    size = int(inventory.dataset["codec"]["config"]["config"]["codebook_size"])
    shards = dict.fromkeys(entry.shard for entry in inventory.entries)
    counts_KV: np.ndarray | None = None
    for name in bar(shards, "codebooks", "shard", progress):
        for row in read_columns(storage.join(inventory.uri, name), ["codes", "frames"]).to_pylist():
            codes_KT = codes_of(row)
            counts_KV = np.zeros((len(codes_KT), size), np.int64) if counts_KV is None else counts_KV
            for counts_V, codes_T in zip(counts_KV, codes_KT, strict=True):
                counts_V += np.bincount(codes_T, minlength=size)
    if counts_KV is None:
        return {"size": size, "books": [], "dead": [], "counts_of_0": None}
    shares_KV = counts_KV / counts_KV.sum(axis=1, keepdims=True)
    entropy_K = -np.sum(shares_KV * np.log(np.maximum(shares_KV, 1e-300)), axis=1)
    # No more entries can occur than there are codes.
    possible = min(size, int(counts_KV[0].sum()))
    return {
        "size": size,
        "dead": [book for book, counts_V in enumerate(counts_KV) if (counts_V > 0).sum() < DEAD_SHARE * possible],
        "books": [
            {"used": float(np.mean(counts_V > 0)), "perplexity": round(float(np.exp(entropy)), 2)}
            for counts_V, entropy in zip(counts_KV, entropy_K, strict=True)
        ],
        "counts_of_0": histogram(counts_KV[0].tolist()),
    }


def census(inventory: Inventory, sample: int = 100, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """The figures, as JSON values.

    Hours (as `seconds`) count tracks of a corpus and rows of a dataset; `tempo`, `caption_words` and
    `captions_per_track` count each track once. A track of several genres counts in each.

    Args:
        inventory: from `read_inventory`.
        sample: number of source files that are decoded to measure length and loudness.
        seed: of that draw.
        progress: show progress bars.
    """
    entries = inventory.entries
    tracks = list({entry.source_id: entry for entry in reversed(entries)}.values())[::-1]
    allowed = allow_list(inventory.dataset) if inventory.dataset else CorpusConfig().allow_licences
    measured, heard, undecodable = _sample(inventory, sample, seed, progress)
    rejects = [*inventory.rejects, *heard]
    captions = [caption for entry in tracks for caption in entry.track.captions]
    codebooks = _codebooks(inventory, progress) if inventory.kind == "dataset" else None
    problems = [*inventory.problems, *_faults(heard), *undecodable]
    if codebooks and codebooks["dead"]:
        problems.append(dead_codebooks(codebooks["dead"], len(codebooks["books"]), codebooks["size"]))
    return {
        "uri": inventory.uri,
        "kind": inventory.kind,
        "tracks": len(tracks),
        "rows": len(entries) if inventory.kind == "dataset" else None,
        "seconds": round(sum(entry.track.duration_s for entry in entries), 3),
        "by_split": _seconds_by(entries, lambda entry: [entry.track.split]),
        "by_licence": _seconds_by(entries, _licence),
        "by_genre": _seconds_by(entries, _genres),
        "controls_known": _known_shares(inventory, tracks),
        "allow_licences": list(allowed),
        "outside_allow_list": sum(not licences.is_allowed(entry.track.licence, allowed) for entry in tracks),
        "tempo": histogram(_tempi(tracks)),
        "caption_words": histogram([len(caption.split()) for caption in captions]),
        "captions_per_track": histogram([len(entry.track.captions) for entry in tracks]),
        "sample": measured,
        "codebooks": codebooks,
        "rejects": len(rejects),
        "rejects_by_reason": _rejects(rejects),
        "claims": inventory.claims,
        "unlisted": {"number": len(inventory.unlisted), "first": inventory.unlisted[:FIRST_NAMES]},
        "held_out": inventory.held_out,
        "problems": problems,
    }
