"""The page of `ssmttm corpus check --html`: figures, pictures and a few clips in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmttm.licences import normalise
from ssmttm.reports import page, pictures
from ssmttm.tokens.previews import Preview

MOST_PROBLEMS = 100

Chart = tuple[str, bytes | None, str]  # title, picture, what it says in words


def hours(title: str, groups: Mapping[str, Mapping[str, float]]) -> Chart:
    values = {name: group["seconds"] / 3600 for name, group in groups.items()}
    if not values:
        return title, None, ""
    return title, pictures.bars(values), "; ".join(f"{name} {value:,.2f} h" for name, value in pictures.ranked(values))


def histogram(title: str, figures: Mapping[str, Any] | None, unit: str, counted: str) -> Chart:
    if not figures:
        return title, None, ""
    said = (
        f"{figures['number']:,} {counted}; median {figures['median']:g}, from {figures['least']:g} "
        f"to {figures['most']:g} {unit}"
    )
    return title, pictures.histogram(figures, unit, counted), said


def _clip(clip: Preview) -> dict[str, Any]:
    track = clip.entry.track
    family, licence = normalise(track.licence), track.licence.strip() or "no licence stated"
    if family and family != licence:
        licence += f" ({family})"
    return {
        "name": track.title.strip() or track.id,
        "by": f"{track.artist.strip() or 'artist not stated'} · {licence}",
        "sound": clip.sound,
        "about": f"{track.id}, {clip.note}",
        "captions": track.captions,
    }


def render(figures: Mapping[str, Any], clips: Sequence[Preview]) -> str:
    """The page as HTML.

    Args:
        figures: from `tokens.check.census`.
        clips: from `tokens.previews.previews`; their sound is embedded.
    """
    sample, books = figures["sample"], figures["codebooks"] or {"books": [], "size": 1}
    measured = (
        f"Measured on {sample['files']:,} of {sample['of']:,} source files, drawn by seed; {sample['silent']:,} of "
        "them without loudness (silent or shorter than 0.4 s)."
        if sample["files"]
        else "No source file was measured: none is at hand, or no sample was asked for."
    )
    charts: dict[str, list[list[Chart]]] = {
        "Hours": [
            [hours("Hours by split", figures["by_split"]), hours("Hours by licence", figures["by_licence"])],
            [hours("Hours by genre", figures["by_genre"])],
        ],
        "Captions and tempo": [
            [histogram("Length of captions", figures["caption_words"], "words", "captions")],
            [histogram("Captions of a track", figures["captions_per_track"], "captions", "tracks")],
            [histogram("Tempo, as tagged", figures["tempo"], "bpm", "tracks")],
        ],
        "Sound": [
            [histogram("Integrated loudness", sample["lufs"], "LUFS", "files")],
            [histogram("Length", sample["seconds"], "s", "files")],
        ],
    }
    return page.render(
        "census",
        figures=figures,
        kind="token dataset" if figures["kind"] == "dataset" else "corpus",
        hours_of=f"of {figures['tracks']:,} tracks" if figures["rows"] is not None else "in this corpus",
        most_problems=MOST_PROBLEMS,
        charts=charts,
        measured=measured,
        books=[
            (index, f"{one['used']:.1%}", f"{one['perplexity']:,.1f}", f"{one['perplexity'] / books['size']:.1%}")
            for index, one in enumerate(books["books"])
        ],
        counts_of_0=histogram(
            "How often the entries of codebook 0 occur", books.get("books") and books["counts_of_0"], "times", "entries"
        ),
        known=[(name, f"{share:.1%}") for name, share in figures["controls_known"].items()],
        rejects=[
            (reason, f"{entry['number']:,}", ", ".join(entry["first"]))
            for reason, entry in figures["rejects_by_reason"].items()
        ],
        clips=[_clip(clip) for clip in clips],
    )
