"""The demo's report: one HTML file to listen to and to judge by, with nothing outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmttm import audio
from ssmttm.evaluation import controls, music
from ssmttm.reports import page, pictures
from ssmttm.reports.pictures import Line, chart, smoothed

Rows = Sequence[Mapping[str, float]]

NAMES = {
    "genre": "Genre",
    "lead": "Lead instrument",
    "drums": "Drums",
    "tempo": "Tempo, or its half or double",
    "key": "Key",
}
SETS = ("shuffled", "generated", "completed", "codec", "real")
ASKED_SETS = {
    "another's": "Floor: another's controls",
    "asked": "Generated",
    "completed": "Ceiling: true codes, stage 2",
    "real": "Ceiling: real",
}
DRIFT = {"genre_kept": "Genre of its beginning", "music": "Heard as music", "rms": "Level (RMS)"}
RECONSTRUCTIONS = 3


def _asked_and_measured(clip: Mapping[str, Any]) -> list[tuple[str, str, str, bool, str]]:
    """Rows of what was asked, what was measured, whether that is good and in which words."""
    asked, measured = clip["asked"], clip["measured"]
    rows = []
    for name in ("genre", "lead", "drums"):
        words = [("yes" if side[name] else "no") if name == "drums" else str(side[name]) for side in (asked, measured)]
        good = asked[name] == measured[name]
        rows.append((NAMES[name], *words, good, "as asked" if good else "differs"))
    good = music.tempo_matches(measured["bpm"], asked["bpm"])
    exact = abs(measured["bpm"] / asked["bpm"] - 1) <= music.TEMPO_TOLERANCE
    verdict = "as asked" if exact else "half or double" if good else "differs"
    rows.append(("Tempo", f"{asked['bpm']:g} bpm", f"{measured['bpm']:g} bpm", good, verdict))
    good = music.pitch_class(asked["key"]) == music.pitch_class(measured["key"])
    keys = [f"{side['key']} {side['mode']}" for side in (asked, measured)]
    return [*rows, ("Key", *keys, good, "as asked" if good else "differs")]


def _shown(clip: Mapping[str, Any]) -> dict[str, Any]:
    made, real = audio.read(clip["path"]), audio.read(clip["real"])
    spectrograms = {
        name: pictures.spectrogram(one.samples, one.sample_rate) for name, one in (("made", made), ("real", real))
    }
    about = (
        f"{clip['seconds']:.2f} s, peak {clip['peak']:.2f}, made at {1 / max(clip['rtf'], 1e-9):.1f}x real time, "
        f"seed {clip['seed']}"
    )
    described = {"prompt": clip["prompt"], "about": about, "rows": _asked_and_measured(clip)}
    return {**described, "sounds": {"made": made, "real": real}, "spectrograms": spectrograms}


def _adherence(rows: Mapping[str, Mapping[str, float]], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, label in NAMES.items():
        row, interval = rows[name], figures.get(name)
        room = row["completed"] - row["shuffled"]  # an attribute that even true codes do not carry has none
        cells = {one: f"{row[one]:.2f}" for one in SETS}
        if interval and interval["low"] is not None:
            cells["generated"] += f" [{interval['low']:.2f}, {interval['high']:.2f}]"
        way = f"{(row['generated'] - row['shuffled']) / room:.0%}" if room > 0 else "none"
        found.append({"label": label, "cells": cells.values(), "way": way, **{one: row[one] for one in SETS}})
    return found


def _controls(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    def cell(figure: Mapping[str, Any] | None) -> str:
        if figure is None or figure["value"] is None:
            return "none"
        interval = "" if figure["low"] is None else f" [{figure['low']:.2f}, {figure['high']:.2f}]"
        return f"{figure['value']:.2f}{interval}"

    return {
        "head": ["", *ASKED_SETS.values()],
        "rows": [[controls.TITLES[name], *(cell(row.get(one)) for one in ASKED_SETS)] for name, row in rows.items()],
    }


def _long(long: Mapping[str, Any]) -> dict[str, Any]:
    rows = long["drift"]
    return {
        "head": ["", *(f"to minute {row['minute']:g}" if row["minute"] else "beginning" for row in rows)],
        "rows": [[label, *(f"{row[name]:.2f}" for row in rows)] for name, label in {**NAMES, **DRIFT}.items()],
        "pieces": len(long["pieces"]),
        "speed": min(piece["times_real_time"] for piece in long["pieces"]),
    }


def _curves(metrics: Rows, validation: Rows, ylabel: str) -> bytes:
    lines = [
        Line("training (running mean)", [row["step"] for row in metrics], smoothed([row["loss"] for row in metrics]))
    ]
    for name, words in (("own", "held-out"), ("null", "held-out, no text"), ("shuffled", "held-out, another's text")):
        points = [(row["step"], row[name]) for row in validation if name in row]
        if points:
            lines.append(Line(words, [step for step, _ in points], [value for _, value in points]))
    return chart(lines, "optimizer step", ylabel)


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    nats, frechet = summary["stage1"]["val_nats"], summary["stage2"]["frechet"]
    gain = f"{nats['shuffled'] - nats['own']:.2f} nats"
    minutes = sum(summary["wall_s"].values()) / 60
    share = frechet["generated"] / frechet["coarse_only"]
    followed = f"{summary['adherence']['genre']['generated']:.0%}"
    return [
        ("Whole demo", f"{minutes:.1f} min", f"{len(summary['wall_s'])} steps, set-up apart"),
        ("Speed", f"{summary['generation']['times_real_time']:.1f}x", "real time, one clip on one core"),
        ("Genre followed", followed, "of held-out prompts, by a probe"),
        ("The prompt is worth", gain, "per code: another's prompt against one's own"),
        ("Stage 2", f"{share:.2f}x", "the Fréchet distance of codebook 0 alone"),
        ("Codec", f"{summary['codec']['logmel_l1']:.2f}", "log-mel L1 against originals"),
    ]


def render(summary: Mapping[str, Any], evaluation: Mapping[str, Any], runs: Mapping[str, tuple[Rows, Rows]]) -> str:
    """The page as HTML.

    Args:
        summary: content of summary.json.
        evaluation: content of evaluation.json; its audio files are read and embedded.
        runs: rows of metrics.jsonl and validation.jsonl of `stage1` and `stage2`.
    """
    clips, frechet = evaluation["clips"], summary["stage2"]["frechet"]
    generated = evaluation.get("systems", {}).get("generated", {"figures": {}})  # those of older runs have none
    return page.render(
        "demo",
        summary=summary,
        count=evaluation["clips_compared"],
        cards=_cards(summary),
        shown=[_shown(clip) for clip in clips if clip["kind"] == "shown"],
        adherence=_adherence(summary["adherence"], generated["figures"]),
        controls=_controls(evaluation["controls"]) if "controls" in evaluation else None,
        long=_long(evaluation["long"]) if "long" in evaluation else None,
        free=[{**clip, "sound": audio.read(clip["path"])} for clip in clips if clip["kind"] == "free-form"],
        reconstructions=[
            {"caption": one["caption"], **{name: audio.read(one[name]) for name in ("real", "codec", "coarse")}}
            for one in evaluation["reconstructions"][:RECONSTRUCTIONS]
        ],
        curves={
            "stage1": _curves(*runs["stage1"], "nats per code"),
            "stage2": _curves(*runs["stage2"], "squared error"),
        },
        conditions=[(name.replace("_", " "), f"{value:.3f}") for name, value in summary["stage1"]["val_nats"].items()],
        distances=[
            ("Real clips (floor)", f"{frechet['real']:.2f}"),
            ("Codebook 0 completed by stage 2", f"{frechet['generated']:.2f}"),
            ("Codebook 0 alone", f"{frechet['coarse_only']:.2f}"),
        ],
        times=[(name, f"{seconds:.0f}") for name, seconds in summary["wall_s"].items()],
    )
