"""Sets of clips as every figure sees them: read once, measured by all that is at hand. N clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation import measures
from ssmttm.evaluation.clap import Clap
from ssmttm.evaluation.clip_folder import Clip
from ssmttm.evaluation.embeddings import log_mel, statistics_of
from ssmttm.evaluation.frechet import Moments
from ssmttm.evaluation.tagger import Tagger


@dataclass(frozen=True)
class Ears:
    """The models that listen, as far as their weights are at hand, and how much of a clip they are given; `coder`
    gives a clip's coarse codes [T]."""

    seconds: float
    clap: Clap | None = None
    tagger: Tagger | None = None
    coder: Callable[[Audio], np.ndarray] | None = None


@dataclass(frozen=True)
class Heard:
    """What was measured in a set of clips, each array's first dimension beside `clips`.

    Attributes:
        seconds: length of each clip as heard [N].
        measured: figures of `measures.NAMES` [N] each, NaN where one has no meaning.
        statistics: log-mel statistics [N, D].
        moments: log-mel moments of each clip.
        clap, tags: CLAP's vectors [N, D] and the tagger's distributions [N, L], if their weights are at hand.
        codes: coarse codes [T] of each clip, if there is a coder.
    """

    name: str
    clips: Sequence[Clip]
    seconds: np.ndarray
    measured: dict[str, np.ndarray]
    statistics: np.ndarray
    moments: Sequence[Moments]
    clap: np.ndarray | None
    tags: np.ndarray | None
    codes: Sequence[np.ndarray]


def beginning(clip: Audio, seconds: float) -> Audio:
    """The first `seconds` of a clip, or all of a shorter one."""
    return Audio(clip.samples[:, : round(seconds * clip.sample_rate)], clip.sample_rate)


def hear(name: str, clips: Sequence[Clip], ears: Ears) -> Heard:
    """Read and measure the beginning of each clip.

    Raises:
        UserError: for fewer than two clips, or one that cannot be read, is empty or holds values that are not finite.
    """
    if len(clips) < 2:
        raise UserError(f"{name} has {len(clips)} clips; figures of a set need at least two")
    seconds, measured, statistics, moments, clap, tags, codes = [], [], [], [], [], [], []
    for one in tqdm(clips, desc=f"hear {name}", unit="clip", leave=False, disable=None):
        clip = beginning(audio.read(one.audio), ears.seconds)
        if not clip.samples.size or not np.isfinite(clip.samples).all():
            raise UserError(f"{one.audio} is empty or holds values that are not finite; make it again")
        frames = log_mel(clip.samples, clip.sample_rate)
        seconds.append(clip.seconds)
        measured.append(measures.measure(clip, frames))
        statistics.append(statistics_of(frames))
        moments.append(Moments.of_clip(frames))
        if ears.clap is not None:
            clap.append(ears.clap.hear(clip))
        if ears.tagger is not None:
            tags.append(ears.tagger.hear(clip))
        if ears.coder is not None:
            codes.append(ears.coder(clip))
    return Heard(
        name,
        clips,
        np.array(seconds),
        {key: np.array([one[key] for one in measured]) for key in measures.NAMES},
        np.stack(statistics),
        moments,
        np.stack(clap) if clap else None,
        np.stack(tags) if tags else None,
        codes,
    )
