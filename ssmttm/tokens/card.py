"""What a dataset says about itself: statistics, attribution, the dataset card and the table a job prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import yaml

from ssmttm import licences
from ssmttm.tokens.schema import ATTRIBUTION_COLUMNS, ATTRIBUTION_NAME, PartReport

# Families that are one licence on the Hugging Face hub; the others carry no version, which the hub's names need.
HUB_LICENCES = {"CC0-1.0": "cc0-1.0"}
HUB_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


class DatasetStatistics:
    """Sums over the rows of all shards, and seconds used of each track."""

    COLUMNS: ClassVar[list[str]] = [*ATTRIBUTION_COLUMNS, "split", "duration_s", "frames"]

    def __init__(self) -> None:
        self.rows = 0
        self.rows_by_split: dict[str, int] = defaultdict(int)
        self.frames_by_split: dict[str, int] = defaultdict(int)
        self.seconds_by_split: dict[str, float] = defaultdict(float)
        self.seconds_by_licence: dict[str, float] = defaultdict(float)
        self.seconds_by_track: dict[tuple[str, ...], float] = defaultdict(float)
        self.known_frames: dict[str, int] = defaultdict(int)  # by control

    def add(self, table: pa.Table) -> None:
        """Add the rows of one shard, given with `COLUMNS`."""
        for row in table.to_pylist():
            self.rows += 1
            self.rows_by_split[row["split"]] += 1
            self.frames_by_split[row["split"]] += row["frames"]
            self.seconds_by_split[row["split"]] += row["duration_s"]
            self.seconds_by_licence[licences.normalise(row["licence"]) or row["licence"]] += row["duration_s"]
            self.seconds_by_track[tuple(row[name] for name in ATTRIBUTION_COLUMNS)] += row["duration_s"]

    def known_shares(self, controls: Iterable[str]) -> dict[str, float]:
        """The share of the time in which each control is known."""
        frames = sum(self.frames_by_split.values())
        return {name: round(self.known_frames[name] / frames, 4) for name in controls}

    def summary(self) -> dict[str, Any]:
        def rounded(seconds: dict[str, float]) -> dict[str, float]:
            return {name: round(value, 3) for name, value in sorted(seconds.items())}

        return {
            "rows": self.rows,
            "tracks": len(self.seconds_by_track),
            "rows_by_split": dict(sorted(self.rows_by_split.items())),
            "frames_by_split": dict(sorted(self.frames_by_split.items())),
            "seconds_by_split": rounded(self.seconds_by_split),
            "seconds_by_licence": rounded(self.seconds_by_licence),
        }


def allow_list(dataset: dict[str, Any]) -> tuple[str, ...]:
    """The licence families let into a dataset, from the content of its `dataset.json`; older ones state them in their
    configuration alone."""
    return tuple(dataset.get("allow_licences") or dataset["config"]["corpus"]["allow_licences"])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _hub_licence(seconds_by_licence: dict[str, float]) -> dict[str, str]:
    """The licence as the hub's metadata has it: its own name, or `other` with a name and details."""
    families = sorted(seconds_by_licence)
    if len(families) == 1 and families[0] in HUB_LICENCES:
        return {"license": HUB_LICENCES[families[0]]}
    hours = ", ".join(f"{name} ({seconds_by_licence[name] / 3600:.3f} hours)" for name in families)
    return {
        "license": "other",
        "license_name": families[0].lower() if len(families) == 1 else "several",
        "license_details": f"{hours}; each track's in {ATTRIBUTION_NAME}",
    }


def _metadata(dataset: dict[str, Any]) -> str:
    """The YAML header that the Hugging Face hub reads, with what it does not know under keys of our own."""
    hours = {name: round(seconds / 3600, 3) for name, seconds in dataset["seconds_by_licence"].items()}
    values = {
        **_hub_licence(dataset["seconds_by_licence"]),
        "pretty_name": f"Music as {dataset['codec']['config']['name']} codec tokens, {sum(hours.values()):.1f} hours",
        "language": ["en"],
        "task_categories": ["text-to-audio"],
        "tags": ["music", "text-to-music", "audio-tokens", "ssmttm"],
        "size_categories": [next((name for size, name in HUB_SIZES if dataset["rows"] < size), "n>10M")],
        "allow_licences": dataset["allow_licences"],
        "hours_by_licence": hours,
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---"


def _filters(dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """What a track had to pass, and what was done to it."""
    corpus = dataset["config"]["corpus"]
    loudness = corpus["loudness"]
    segments = f"one from the middle of a track, at most {corpus['segment_seconds']:g} s"
    if corpus["segments"] == "all":
        hop = corpus["hop_seconds"] or corpus["segment_seconds"]
        segments = f"at most {corpus['segment_seconds']:g} s, one every {hop:g} s"
    return [
        ("licence", "one of " + ", ".join(dataset["allow_licences"])),
        ("licence of tracks that state none", corpus["default_licence"] or "none: refused"),
        ("captions", f"at least one of at most {dataset['text']['reference']['max_tokens']} tokens"),
        ("segments", segments),
        ("shortest segment", f"{corpus['minimum_seconds']:g} s"),
        ("silence", f"refused where the peak is below {corpus['silence_dbfs']:g} dBFS"),
        ("clipping", f"refused above {corpus['maximum_clipped']:.0%} of samples at full scale"),
        ("the same audio twice", "refused" if corpus["duplicates"] == "reject" else "kept"),
        ("loudness", "as it was" if loudness is None else f"brought to {loudness:g} LUFS"),
        ("vocals", "as they were" if corpus["vocals"] == "keep" else "removed by source separation"),
    ]


def _controls(dataset: dict[str, Any]) -> str:
    """The section about controls by frame; datasets without any have none."""
    if not dataset.get("controls"):
        return ""
    known = dataset.get("controls_known", {})  # older ones do not say
    rows = [
        (name, channels, f"{known[name]:.1%}" if name in known else "?")
        for name, channels in dataset["controls"].items()
    ]
    return f"""
## Controls by frame

{_table(("control", "channels", "known"), rows)}

Columns `control.NAME` of the shards: float16 [channels, T] in C order, NaN in frames where it is not known. Known is
the share of the time.
"""


def dataset_card(dataset: dict[str, Any]) -> str:
    """The README.md of a dataset, from the content of its `dataset.json`."""
    codec, text = dataset["codec"], dataset["text"]
    splits = [
        (split, rows, dataset["frames_by_split"][split], f"{dataset['seconds_by_split'][split] / 3600:.3f}")
        for split, rows in dataset["rows_by_split"].items()
    ]
    families = [(name, f"{seconds / 3600:.3f}") for name, seconds in dataset["seconds_by_licence"].items()]
    rejects = list(dataset["rejects_by_reason"].items()) or [("none", 0)]
    return f"""{_metadata(dataset)}

# Token dataset

Music as codec tokens with captions, made by `jobs/preprocess.py` of ssmttm {dataset["version"]} from
{dataset["tracks"]} tracks.

{_table(("split", "segments", "code frames", "hours"), splits)}

## Licences

{_table(("licence family", "hours"), families)}

Families let in: {", ".join(dataset["allow_licences"])}.

Every track with author, licence and origin is listed in `ATTRIBUTION.csv`; the licence also stands in each row. Tokens
are derived from the tracks: the licences' terms, attribution above all, carry over.

## Filters

{_table(("filter", "setting"), _filters(dataset))}

## Content

- `shards/part-*.parquet`: one row per segment; `codes` int16 [K, T] and `fine` float16 [D, T] in C order, T = `frames`.
  Codec `{codec["config"]["name"]}`, fingerprint `{codec["fingerprint"]}`.
- `text/table-*.parquet`: states of {dataset["captions"]} distinct captions, float16 [`length`, {text["dim"]}] in C
  order, by `key`; rows of the shards refer to them in `text_keys`. Encoder `{text["reference"]["encoder"]}`,
  fingerprint `{text["fingerprint"]}`. {dataset["captions_overlong"]} captions were left out as too long.
- `rejects.jsonl`: what was refused, and why.
- `dataset.json`: the configuration, and size and SHA-256 of every file.
{_controls(dataset)}
## Refused

{dataset["rejects"]} tracks or segments.

{_table(("reason", "number"), rejects)}
"""


def summary_line(dataset: dict[str, Any], reports: Sequence[PartReport], wall_s: float) -> str:
    """What a finished job says: the dataset and the work of this run. Throughput counts what this run encoded."""
    hours = sum(dataset["seconds_by_split"].values()) / 3600
    encoded = sum(report.seconds for report in reports if not report.skipped)
    reasons = ", ".join(f"{reason} {number}" for reason, number in dataset["rejects_by_reason"].items())
    rows = " + ".join(f"{rows} {split}" for split, rows in dataset["rows_by_split"].items())
    rejects = f"{dataset['rejects']} rejects" + (f" ({reasons})" if reasons else "")
    found = sum(report.skipped for report in reports)
    parts = f"{len(reports)} parts" + (f", {found} found finished," if found else "") + f" in {wall_s:.1f} s"
    speed = f", {encoded / wall_s:.0f} hours of audio per hour" if encoded else ""
    return f"{rows} rows, {hours:.3f} h from {dataset['tracks']} tracks, {rejects}; " + (
        f"{parts}{speed}" if reports else "finished before"
    )
