"""What evaluation.json says of a bundle, and what of that goes on its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.evaluation import adherence
from ssmttm.evaluation.clips import Clip
from ssmttm.evaluation.heard import Heard
from ssmttm.evaluation.intervals import Figure
from ssmttm.evaluation.measures import ClipAnalysis
from ssmttm.evaluation.prompts import Prompt
from ssmttm.evaluation.systems import COARSE, CODEC, COMPLETED, KEPT, REAL

SETS = (REAL, CODEC, COMPLETED, "generated", "shuffled")  # whose prompt following stands side by side


@dataclass(frozen=True)
class Held:
    """All that was asked and heard of a bundle. `heard` by system, each beside the prompts `held_out`, of which the
    first `shown` were made one by one; `free` beside the prompts `free_form`; `long` a set of segments for each long
    piece, to the first held-out prompts. `codebooks`: those that stage 1 writes."""

    settings: Config
    codebooks: int
    held_out: Sequence[Prompt]
    free_form: Sequence[Prompt]
    heard: Mapping[str, Heard]
    free: Heard
    long: Sequence[Heard]
    shown: int


def _long(held: Held, probes: adherence.Probes) -> dict[str, Any]:
    seconds, marks = held.settings.corpus.segment_seconds, held.settings.evaluate.long_minutes
    pieces = [
        {
            "prompt": clip.prompt,
            "path": clip.audio,
            "times_real_time": round(len(piece.analyses) * seconds / (clip.wall_s or 0.0), 2),
        }
        for piece in held.long
        for clip in piece.clips[:1]
    ]
    tags = [prompt.tags for prompt in held.held_out[: len(held.long)]]
    rows = adherence.drift(probes, tags, [piece.analyses for piece in held.long], marks, seconds)
    return {"pieces": pieces, "drift": rows}


def _clip_entry(kind: str, clip: Clip, analysis: ClipAnalysis) -> dict[str, Any]:
    return {
        "kind": kind,
        "prompt": clip.prompt,
        "seed": clip.seed,
        "path": clip.audio,
        "seconds": analysis.seconds,
        "peak": round(analysis.peak, 4),
        "rms": round(analysis.rms, 4),
        "rtf": round((clip.wall_s or 0.0) / analysis.seconds, 4),
        "sound": analysis.kind,
        "flatness": round(analysis.flatness, 4),
        "movement": round(analysis.movement, 4),
    }


def evaluation_content(
    held: Held, probes: adherence.Probes, figures: Mapping[str, Mapping[str, Figure]]
) -> dict[str, Any]:
    """Everything the report and summary.json say about a bundle, as JSON values.

    `rtf` is wall-clock time over audio time (lower is faster), `generation.times_real_time` its inverse over the clips
    that were made one by one. `adherence` and `frechet` are `figures`' values, the systems side by side: of Fréchet
    distances `real` is the floor, `generated` the true codes as the bundle completes them.
    """
    generated, recordings, free = held.heard["generated"], held.heard[REAL], held.free
    clips = []
    ears = probes.hear(generated.analyses)
    for i, (prompt, clip, analysis) in enumerate(zip(held.held_out, generated.clips, generated.analyses, strict=True)):
        entry = _clip_entry("shown" if i < held.shown else "held-out", clip, analysis)
        entry["asked"] = {name: prompt.tags[name] for name in adherence.TAGS}
        entry["measured"] = adherence.measured(ears[i], analysis, prompt.tags["mode"])
        clips.append({**entry, **({"real": recordings.clips[i].audio} if recordings.clips[i].audio else {})})
    hits = []
    for prompt, clip, analysis, ear in zip(
        held.free_form, free.clips, free.analyses, probes.hear(free.analyses), strict=True
    ):
        genres = {"asked": dict(prompt.tags), "measured": {"genre": ear["genre"]}}
        clips.append({**_clip_entry("free-form", clip, analysis), **genres})
        hits.append(ear["genre"] == prompt.tags["genre"])

    def value(system: str, name: str) -> float:
        figure = figures[system][name].value
        assert figure is not None
        return round(figure, 4)

    distances = {"real": REAL, "coarse_only": COARSE, "generated": COMPLETED}
    frechet = {"frechet": {name: value(system, "frechet_logmel") for name, system in distances.items()}}
    single = [clip for clip in generated.clips[: held.shown] if clip.seconds and clip.wall_s]
    kept = zip(held.held_out[: held.shown], *(held.heard[name].clips for name in KEPT), strict=False)
    return {
        "clips_compared": len(held.held_out),
        "adherence": {
            **{name: {system: value(system, name) for system in SETS} for name in adherence.TITLES},
            "free_form": {"genre": round(float(np.mean(hits)), 4), "n": len(hits)},
        },
        # What made the fine latents: stage 2, or the codebooks of a single stage.
        **({"stage2": frechet} if held.codebooks == 1 else {"single_stage": {"codebooks": held.codebooks, **frechet}}),
        "codec": {"logmel_l1": value(CODEC, "logmel_l1")},
        "generation": {
            "times_real_time": round(
                sum(clip.seconds or 0.0 for clip in single) / sum(clip.wall_s or 0.0 for clip in single), 2
            )
        },
        "reconstructions": [
            {"caption": prompt.text, **{name: clip.audio for name, clip in zip(KEPT, files, strict=True)}}
            for prompt, *files in kept
        ],
        **({"long": _long(held, probes)} if held.long else {}),
        "clips": clips,
        "not_music": [clip["path"] for clip in clips if clip["sound"] != "music"],
    }


def card_figures(content: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation.json that belong on a model card, each named with what to read it against.

    Raises:
        UserError: if the content is not that of an evaluation.json.
    """
    try:
        rows, free = content["adherence"], content["adherence"]["free_form"]
        figures = {
            f"{name}, {content['clips_compared']} clips (real {rows[name]['real']:.2f}, through true codes "
            f"{rows[name]['completed']:.2f}, shuffled prompts {rows[name]['shuffled']:.2f})": rows[name]["generated"]
            for name in adherence.ATTRIBUTES
        }
        if "single_stage" in content:
            made = f"codebooks 0 to {content['single_stage']['codebooks'] - 1}"
            frechet = content["single_stage"]["frechet"]
        else:
            made, frechet = "stage 2", content["stage2"]["frechet"]
        return figures | {
            f"genre, {free['n']} free-form prompts": free["genre"],
            f"{made}, Fréchet distance of log-mel statistics (real {frechet['real']:.2f}, codebook 0 alone "
            f"{frechet['coarse_only']:.2f})": frechet["generated"],
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"this is no evaluation.json of jobs/evaluate.py: {error} is missing") from None
