"""Sets of clips as every figure sees them: heard once, measured by all that is at hand. N clips, D dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.codec.metrics import logmel_l1
from ssmttm.errors import UserError
from ssmttm.evaluation import measures
from ssmttm.evaluation.clips import Clip
from ssmttm.evaluation.embeddings import log_mel, statistics_of
from ssmttm.evaluation.frechet import Moments
from ssmttm.evaluation.measures import ClipAnalysis
from ssmttm.evaluation.published import Clap, Tagger


class Sound(NamedTuple):
    """A clip with its samples, and the samples that it stands for if it was decoded from a recording's codes."""

    clip: Clip
    audio: Audio
    recording: Audio | None = None


@dataclass(frozen=True)
class Ears:
    """What listens: the models whose weights are at hand, a `coder` that gives a clip's coarse codes [T], and whether
    the figures of `measures.NAMES` are taken."""

    clap: Clap | None = None
    tagger: Tagger | None = None
    coder: Callable[[Audio], np.ndarray] | None = None
    closely: bool = True


@dataclass(frozen=True)
class Heard:
    """What was measured in a set of N clips, each sequence beside the others.

    Attributes:
        statistics: log-mel statistics [N, D].
        moments: of the log-mel frames of each clip, or of all as one.
        clips, analyses: none in a set that others are only held against.
        measured: figures of `measures.NAMES` [N] each, NaN where one has no meaning; `logmel_l1` of decoded clips.
        clap, classes: CLAP's vectors [N, D] and the tagger's distributions [N, L], if their weights are at hand.
        codes: coarse codes [T] of each clip, if there is a coder.
    """

    name: str
    statistics: np.ndarray
    moments: Sequence[Moments]
    clips: Sequence[Clip] = ()
    analyses: Sequence[ClipAnalysis] = ()
    measured: dict[str, np.ndarray] = field(default_factory=dict)
    clap: np.ndarray | None = None
    classes: np.ndarray | None = None
    codes: Sequence[np.ndarray] = ()

    @property
    def count(self) -> int:
        return len(self.statistics)

    @property
    def seconds(self) -> float:
        """Mean length of the clips, as far as they were heard."""
        return round(float(np.mean([one.seconds for one in self.analyses])), 3)

    @staticmethod
    def joined(parts: Sequence[Heard]) -> Heard:
        """Parts of one set, heard without weights, as the whole."""
        moments, clips, analyses = (
            [one for part in parts for one in getattr(part, name)] for name in ("moments", "clips", "analyses")
        )
        measured = {name: np.concatenate([part.measured[name] for part in parts]) for name in parts[0].measured}
        statistics = np.concatenate([part.statistics for part in parts])
        return Heard(parts[0].name, statistics, moments, clips, analyses, measured)


def hear(name: str, sounds: Iterable[Sound], ears: Ears) -> Heard:
    """Measure each clip."""
    clips, analyses, moments, measured, clap, classes, codes = [], [], [], [], [], [], []
    for clip, sound, recording in sounds:
        frames = log_mel(sound.samples, sound.sample_rate)
        clips.append(clip)
        analyses.append(measures.analyse(sound, frames))
        moments.append(Moments.of_clip(frames))
        measured.append(measures.measure(sound, frames) if ears.closely else {})
        if recording is not None:
            decoded_1N, original_1N = (torch.from_numpy(one.samples) for one in (sound, recording))
            measured[-1]["logmel_l1"] = logmel_l1(decoded_1N, original_1N, sound.sample_rate)
        if ears.clap is not None:
            clap.append(ears.clap.hear(sound))
        if ears.tagger is not None:
            classes.append(ears.tagger.hear(sound))
        if ears.coder is not None:
            codes.append(ears.coder(sound))
    return Heard(
        name,
        np.stack([one.statistics for one in analyses]),
        moments,
        clips,
        analyses,
        {key: np.array([one[key] for one in measured]) for key in measured[0]},
        np.stack(clap) if clap else None,
        np.stack(classes) if classes else None,
        codes,
    )


def hear_background(name: str, sounds: Iterable[Audio]) -> Heard:
    """Take of real clips no more than others are held against, their moments as one."""
    frames = [log_mel(one.samples, one.sample_rate) for one in sounds]
    return Heard(name, np.stack([statistics_of(one) for one in frames]), [reduce(add, map(Moments.of_clip, frames))])


def read(name: str, clips: Sequence[Clip], seconds: float) -> Iterable[Sound]:
    """The first `seconds` of each clip's file, or all of a shorter one.

    Raises:
        UserError: for fewer than two clips, or one that cannot be read, is empty or holds values that are not finite.
    """
    if len(clips) < 2:
        raise UserError(f"{name} has {len(clips)} clips; figures of a set need at least two")
    for one in tqdm(clips, desc=f"hear {name}", unit="clip", leave=False, disable=None):
        clip = audio.read(one.audio, seconds=seconds)
        if not clip.samples.size or not np.isfinite(clip.samples).all():
            raise UserError(f"{one.audio} is empty or holds values that are not finite; make it again")
        yield Sound(one, clip)
