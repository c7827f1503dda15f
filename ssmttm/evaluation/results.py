"""From the workers' measurements to evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ssmttm.errors import UserError
from ssmttm.evaluation import adherence
from ssmttm.evaluation.drift import drift_table
from ssmttm.evaluation.frechet import LogMelSpace
from ssmttm.evaluation.worker import HeldOut, Listened, Made, MadeLong, RealClip, Reconstructed, Request


@dataclass(frozen=True)
class Measurements:
    """All that was heard, in parts as the workers sent it. Clips lie beside each other: those of `listened` beside
    `training`, of `reconstructed` and `made` beside `held_out` and its `requests`, `made_free` beside `free_form`
    (requests) and `free_genres` (the genre each prompt means). The first `shown` were made one by one. `made_long` are
    pieces to the first held-out prompts, to be measured at `long_minutes` in segments of `segment_seconds`."""

    training: Sequence[RealClip]
    listened: Sequence[Listened]
    held_out: Sequence[HeldOut]
    reconstructed: Sequence[Reconstructed]
    requests: Sequence[Request]
    made: Sequence[Made]
    free_form: Sequence[Request]
    free_genres: Sequence[str]
    made_free: Sequence[Made]
    shown: int
    made_long: Sequence[MadeLong]
    long_minutes: Sequence[float]
    segment_seconds: float


def _long(probes: adherence.Probes, m: Measurements) -> dict[str, Any]:
    prompts = [held.prompt for held in m.held_out]
    pieces = [
        {
            "prompt": prompt,
            "path": made.path,
            "times_real_time": round(len(made.segments) * m.segment_seconds / made.wall_s, 2),
        }
        for prompt, made in zip(prompts, m.made_long, strict=False)
    ]
    asked = [held.clip.tags for held in m.held_out[: len(m.made_long)]]
    return {"pieces": pieces, "drift": drift_table(probes, asked, m.made_long, m.long_minutes, m.segment_seconds)}


def _clip_entry(kind: str, request: Request, made: Made) -> dict[str, Any]:
    analysis = made.analysis
    return {
        "kind": kind,
        "prompt": request.prompt,
        "seed": request.seed,
        "path": made.path,
        "seconds": analysis.seconds,
        "peak": round(analysis.peak, 4),
        "rms": round(analysis.rms, 4),
        "rtf": round(made.wall_s / analysis.seconds, 4),
        "sound": analysis.kind,
        "flatness": round(analysis.flatness, 4),
        "movement": round(analysis.movement, 4),
    }


def frechet_table(listened: Sequence[Listened], reconstructed: Sequence[Reconstructed]) -> dict[str, float]:
    """Log-mel Fréchet distance of held-out clips from real training clips, for the same clips as they are (`real`,
    the floor), from codebook 0 alone and from the true codes as the system completes them, see `Reconstructed`."""
    reference = reduce(add, (part.moments for part in listened))
    space = LogMelSpace.fit(reference)
    return {
        name: round(space.distance(reduce(add, (part.moments[name] for part in reconstructed)), reference), 4)
        for name in reconstructed[0].moments
    }


def summarise(measurements: Measurements) -> dict[str, Any]:
    """Everything the report and summary.json say about a bundle, as JSON values.

    `rtf` is wall-clock time over audio time (lower is faster), `generation.times_real_time` its inverse over the
    clips that were made one by one.
    """
    m = measurements
    codebooks = m.reconstructed[0].codebooks
    ceilings = [ceiling for part in m.reconstructed for ceiling in part.ceilings]
    probes = adherence.Probes(
        [statistics for part in m.listened for statistics in part.statistics], [clip.tags for clip in m.training]
    )
    asked = [held.clip.tags for held in m.held_out]
    generated = [made.analysis for made in m.made]
    heard = probes.hear(generated)
    heard_free = probes.hear([made.analysis for made in m.made_free])
    clips = []
    for i, (held, request, made) in enumerate(zip(m.held_out, m.requests, m.made, strict=True)):
        entry = _clip_entry("shown" if i < m.shown else "held-out", request, made)
        entry["asked"] = {name: held.clip.tags[name] for name in adherence.TAGS}
        entry["measured"] = adherence.measured(heard[i], made.analysis, held.clip.tags["mode"])
        clips.append({**entry, **({"real": ceilings[i].paths["real"]} if ceilings[i].paths else {})})
    for request, genre, made, ear in zip(m.free_form, m.free_genres, m.made_free, heard_free, strict=True):
        clips.append(
            {**_clip_entry("free-form", request, made), "asked": {"genre": genre}, "measured": {"genre": ear["genre"]}}
        )
    single = m.made[: m.shown]
    hits = [ear["genre"] == genre for ear, genre in zip(heard_free, m.free_genres, strict=True)]
    return {
        "clips_compared": len(m.held_out),
        "adherence": {
            **adherence.table(
                probes,
                asked,
                *([getattr(one, name) for one in ceilings] for name in ("real", "codec", "completed")),
                generated,
            ),
            "free_form": {"genre": round(float(np.mean(hits)), 4), "n": len(hits)},
        },
        # What made the fine latents: stage 2, or the codebooks of a single stage.
        **(
            {"stage2": {"frechet": frechet_table(m.listened, m.reconstructed)}}
            if codebooks == 1
            else {"single_stage": {"codebooks": codebooks, "frechet": frechet_table(m.listened, m.reconstructed)}}
        ),
        "codec": {"logmel_l1": round(float(np.mean([one.logmel_l1 for one in ceilings])), 4)},
        "generation": {
            "times_real_time": round(
                sum(made.analysis.seconds for made in single) / sum(made.wall_s for made in single), 2
            )
        },
        "reconstructions": [
            {"caption": held.prompt, **one.paths} for held, one in zip(m.held_out, ceilings, strict=True) if one.paths
        ],
        **({"long": _long(probes, m)} if m.made_long else {}),
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
