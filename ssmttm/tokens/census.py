"""Figures of a corpus or a token dataset: what there is of what, and how evenly; for people, pages and `--json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
import soundfile

from ssmttm import audio, storage
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources import licences
from ssmttm.sources.rejects import Reject, count_reasons
from ssmttm.tokens.dataset_card import allow_list
from ssmttm.tokens.listing import Entry, Listing, bar
from ssmttm.tokens.parts import read_columns

MAXIMUM_BINS = 30
FIRST_NAMES = 5
NONE_STATED = "none stated"
# Loudness of long files is measured on this much, so that a recording of hours does not fill the memory.
LOUDNESS_SECONDS = 600.0
GATING_BLOCK_S = 0.4  # of ITU-R BS.1770: nothing shorter has an integrated loudness


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


def _licence(entry: Entry) -> list[str]:
    stated = entry.track.licence.strip()
    return [licences.normalise(stated) or stated or NONE_STATED]


def _tempi(tracks: Iterable[Entry]) -> list[float]:
    found = []
    for entry in tracks:
        try:
            bpm = float(entry.track.tags.get("bpm", "nan"))
        except (TypeError, ValueError):
            continue
        if math.isfinite(bpm) and bpm > 0:
            found.append(bpm)
    return found


def _rejects(rejects: Sequence[Reject]) -> dict[str, dict[str, Any]]:
    return {
        reason: {"number": number, "first": [r.id for r in rejects if r.reason == reason][:FIRST_NAMES]}
        for reason, number in count_reasons(rejects).items()
    }


def measure(uri: str) -> tuple[float, float | None]:
    """Seconds of a file, and the integrated loudness (LUFS, ITU-R BS.1770) of at most its first `LOUDNESS_SECONDS`;
    None for silence and for clips too short to have one.

    Raises:
        UserError: if it cannot be decoded.
    """
    import pyloudnorm

    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file, soundfile.SoundFile(file) as sound:
            seconds, rate = sound.frames / sound.samplerate, sound.samplerate
            samples_NC = sound.read(round(LOUDNESS_SECONDS * rate), dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"cannot be decoded: {uri} ({error})") from None
    if samples_NC.shape[1] > 5:  # BS.1770 weighs five channels at most
        samples_NC = audio.to_mono(audio.Audio(samples_NC.T, rate)).samples.T
    if len(samples_NC) <= GATING_BLOCK_S * rate:
        return seconds, None
    loudness = float(pyloudnorm.Meter(rate).integrated_loudness(samples_NC))
    return seconds, loudness if math.isfinite(loudness) else None


def _sample(listing: Listing, size: int, seed: int, progress: bool) -> tuple[dict[str, Any], list[str]]:
    """Lengths and loudness of files drawn by seed, and what could not be decoded."""
    # Files without a length could not be opened, and are named already.
    files = sorted({entry.track.audio for entry in listing.entries if entry.track.duration_s > 0} & listing.present)
    drawn = np.random.default_rng(seed).permutation(len(files))[:size]
    seconds, loudness, problems = [], [], []
    for index in bar(drawn, "loudness", "file", progress):
        try:
            length, lufs = measure(files[index])
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
    return figures, problems


def _codebooks(listing: Listing, progress: bool) -> dict[str, Any]:
    """Use of each codebook over all rows: entries that occur, and perplexity, the number of entries that would carry
    as much information if they were used alike (the exponential of the entropy)."""
    size = int(listing.dataset["codec"]["config"]["config"]["codebook_size"])
    shards = dict.fromkeys(entry.shard for entry in listing.entries)
    counts_KV: np.ndarray | None = None
    for name in bar(shards, "codebooks", "shard", progress):
        for row in read_columns(storage.join(listing.uri, name), ["codes", "frames"]).to_pylist():
            codes_KT = np.frombuffer(row["codes"], np.int16).reshape(-1, row["frames"])
            counts_KV = np.zeros((len(codes_KT), size), np.int64) if counts_KV is None else counts_KV
            for counts_V, codes_T in zip(counts_KV, codes_KT, strict=True):
                counts_V += np.bincount(codes_T, minlength=size)
    if counts_KV is None:
        return {"size": size, "books": [], "counts_of_0": None}
    shares_KV = counts_KV / counts_KV.sum(axis=1, keepdims=True)
    entropy_K = -np.sum(shares_KV * np.log(np.maximum(shares_KV, 1e-300)), axis=1)
    return {
        "size": size,
        "books": [
            {"used": float(np.mean(counts_V > 0)), "perplexity": round(float(np.exp(entropy)), 2)}
            for counts_V, entropy in zip(counts_KV, entropy_K, strict=True)
        ],
        "counts_of_0": histogram(counts_KV[0].tolist()),
    }


def census(listing: Listing, sample: int = 100, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """The figures, as JSON values.

    Hours (as `seconds`) count tracks of a corpus and rows of a dataset; `tempo`, `caption_words` and
    `captions_per_track` count each track once. A track of several genres counts in each.

    Args:
        listing: from `read_listing`.
        sample: number of source files that are decoded to measure length and loudness.
        seed: of that draw.
        progress: show progress bars.
    """
    entries = listing.entries
    tracks = list({entry.source_id: entry for entry in reversed(entries)}.values())[::-1]
    allowed = allow_list(listing.dataset) if listing.dataset else CorpusConfig().allow_licences
    measured, undecodable = _sample(listing, sample, seed, progress)
    captions = [caption for entry in tracks for caption in entry.track.captions]
    return {
        "uri": listing.uri,
        "kind": listing.kind,
        "tracks": len(tracks),
        "rows": len(entries) if listing.kind == "dataset" else None,
        "seconds": round(sum(entry.track.duration_s for entry in entries), 3),
        "by_split": _seconds_by(entries, lambda entry: [entry.track.split]),
        "by_licence": _seconds_by(entries, _licence),
        "by_genre": _seconds_by(entries, _genres),
        "allow_licences": list(allowed),
        "outside_allow_list": sum(not licences.is_allowed(entry.track.licence, allowed) for entry in tracks),
        "tempo": histogram(_tempi(tracks)),
        "caption_words": histogram([len(caption.split()) for caption in captions]),
        "captions_per_track": histogram([len(entry.track.captions) for entry in tracks]),
        "sample": measured,
        "codebooks": _codebooks(listing, progress) if listing.kind == "dataset" else None,
        "rejects": len(listing.rejects),
        "rejects_by_reason": _rejects(listing.rejects),
        "problems": [*listing.problems, *undecodable],
    }
