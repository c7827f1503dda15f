"""A blind listening test: what is heard, in which order, and what the answers come to. `listening_app` serves it.

Each folder is a system, its clips matched with the others' by name. A session's order is drawn from its id alone.
There are pairs (which of two is better?) and ratings (1 to 5, overall quality and fit to the text, as in ITU-T P.800's
absolute categories); among them anchors that are known to be bad (a clip low-passed at 3.5 kHz, as in ITU-R BS.1534,
and one in noise) and checks that show whether someone is listening. The answers give mean opinion scores and
Bradley-Terry strengths, with bootstrap intervals over sessions. C channels, N samples, S systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation.clips import read_folder
from ssmttm.evaluation.intervals import interval, resampled
from ssmttm.evaluation.measures import loudness

RATE = 44_100  # of all stimuli, so that a file's header does not tell whose it is
LOUDNESS = -23.0  # LUFS (EBU R 128), or what the clip that can be raised least allows
PEAK = 0.95
FADE_S = 0.02
LOW_PASS_HZ = 3500.0
NOISE_DB = 6.0  # noise over music in the noise anchor
LOW_ANCHOR, NOISE_ANCHOR = "anchor: low-pass", "anchor: noise"
ANCHORS = (LOW_ANCHOR, NOISE_ANCHOR)
CHECK_RATING = 2
CHECK_TEXT = f"This one checks your attention: whatever you hear, please answer {CHECK_RATING} to both questions."
DRAWS = 1000
QUESTIONS = ("quality", "relevance")
PRIOR = 0.5  # of a win and a loss against every other: keeps strengths finite where one system always wins

Kind = Literal["pair", "rating", "pair-check", "rating-check"]


@dataclass(frozen=True)
class TrialCounts:
    """Of a session. anchors: ratings of anchors; checks: of each kind."""

    pairs: int = 10
    ratings: int = 10
    anchors: int = 2
    checks: int = 1


@dataclass(frozen=True)
class Trial:
    """One question. `systems` are played as A and B, or alone; `expected` is a check's right answer."""

    kind: Kind
    item: str
    systems: tuple[str, ...]
    expected: str | int | None = None


@dataclass(frozen=True)
class Answer:
    """What was answered to a trial: a preference (`a`, `b` or `same`), or quality and relevance from 1 to 5."""

    session: str
    trial: int
    kind: Kind
    item: str
    systems: tuple[str, ...]
    expected: str | int | None
    preference: str | None = None
    quality: int | None = None
    relevance: int | None = None


class Stimuli:
    """All clips of a test, brought to one loudness, rate, number of channels and, per item, length.

    Args:
        clips: by item and system. Items are what folders have in common; see `read_stimuli`.
        prompts: what each item was made for, where it is known.
    """

    def __init__(self, clips: Mapping[str, Mapping[str, Audio]], prompts: Mapping[str, str]):
        self.items = sorted(clips)
        self.systems = sorted(next(iter(clips.values())))
        self.prompts = dict(prompts)
        channels = max(clip.samples.shape[0] for item in clips.values() for clip in item.values())
        prepared = {item: _prepare(clips[item], channels) for item in self.items}
        for item in self.items:
            source = prepared[item][self.systems[_stable(item) % len(self.systems)]]
            prepared[item] |= {LOW_ANCHOR: low_pass(source), NOISE_ANCHOR: in_noise(source, _stable(item))}
        levels = [_ceiling(clip) for item in prepared.values() for clip in item.values()]
        self.loudness = min(LOUDNESS, *levels)
        self._clips = {
            (item, system): _at(clip, self.loudness) for item, of in prepared.items() for system, clip in of.items()
        }

    def clip(self, item: str, system: str) -> Audio:
        return self._clips[item, system]


def _stable(text: str) -> int:
    """A number that depends on the text alone, in every process."""
    return int.from_bytes(text.encode("utf-8")[-6:], "big")


def _prepare(clips: Mapping[str, Audio], channels: int) -> dict[str, Audio]:
    same_rate = {name: audio.resample(clip, RATE) for name, clip in clips.items()}
    length = min(clip.samples.shape[1] for clip in same_rate.values())
    fade = np.ones(length, dtype=np.float32)
    ramp = min(round(FADE_S * RATE), length // 2)
    if ramp:
        fade[:ramp] = np.linspace(0, 1, ramp, dtype=np.float32)
        fade[-ramp:] = fade[:ramp][::-1]
    return {
        name: Audio(np.repeat(clip.samples[:, :length], channels // clip.samples.shape[0], axis=0) * fade, RATE)
        for name, clip in same_rate.items()
    }


def _ceiling(clip: Audio) -> float:
    """Loudness that a clip has once its highest sample reaches `PEAK`.

    Raises:
        UserError: if it has none.
    """
    own = loudness(clip)
    if not np.isfinite(own):
        raise UserError("a clip is silent or shorter than 0.4 s; leave it out of the listening test")
    return own + 20 * float(np.log10(PEAK / np.abs(clip.samples).max()))


def _at(clip: Audio, level: float) -> Audio:
    return Audio(clip.samples * np.float32(10 ** ((level - loudness(clip)) / 20)), clip.sample_rate)


def low_pass(clip: Audio, hz: float = LOW_PASS_HZ) -> Audio:
    """The clip without anything above `hz`: a spectrum cut with a ramp of one tenth of `hz`."""
    spectrum = np.fft.rfft(clip.samples, axis=1)
    frequencies = np.fft.rfftfreq(clip.samples.shape[1], 1 / clip.sample_rate)
    gain = np.clip((hz - frequencies) / (0.1 * hz) + 0.5, 0, 1)
    samples = np.fft.irfft(spectrum * gain, clip.samples.shape[1], axis=1)
    return Audio(samples.astype(np.float32), clip.sample_rate)


def in_noise(clip: Audio, seed: int) -> Audio:
    """The clip in white noise that is `NOISE_DB` stronger than it."""
    power = float(np.square(clip.samples, dtype=np.float64).mean())
    noise = np.random.default_rng(seed).normal(size=clip.samples.shape)
    deviation = np.sqrt(power * 10 ** (NOISE_DB / 10))
    return Audio((clip.samples + deviation * noise).astype(np.float32), clip.sample_rate)


def read_stimuli(folders: Sequence[str], names: Sequence[str] | None = None) -> Stimuli:
    """The clips that all folders have, by their ids (see `clip_folder`).

    Args:
        folders: one for each system.
        names: of the systems; default: the folders' own.

    Raises:
        UserError: if folders share a name or have no clip in common, a clip is silent, or has more channels than two.
    """
    names = [folder.rstrip("/").rsplit("/", 1)[-1] for folder in folders] if names is None else list(names)
    if len(set(names)) != len(names):
        raise UserError(f"two folders are named {max(names, key=names.count)}; rename one")
    found = {name: {clip.id: clip for clip in read_folder(folder)} for name, folder in zip(names, folders, strict=True)}
    items = sorted(set.intersection(*(set(clips) for clips in found.values())))
    if not items:
        raise UserError("the folders have no clip name in common; clips of one prompt need one name in each folder")
    prompts, clips = {}, {}
    for item in items:
        clips[item] = {name: audio.read(found[name][item].audio) for name in names}
        for name in names:
            if clips[item][name].samples.shape[0] > 2:
                raise UserError(f"{found[name][item].audio} has more than two channels; mix it down")
        texts = [clip.prompt for clip in (found[name][item] for name in names) if clip.prompt]
        if texts:
            prompts[item] = texts[0]
    return Stimuli(clips, prompts)


def plan(session: str, systems: Sequence[str], items: Sequence[str], counts: TrialCounts) -> list[Trial]:
    """The trials of a session, a function of its id: every pair and system as often as every other (give or take one),
    items drawn without repetition as long as they last, sides drawn, all shuffled.

    Raises:
        UserError: if there are no two systems to pair.
    """
    if counts.pairs and len(systems) < 2:
        raise UserError("pairs need two systems; give two folders, or no pairs")
    random = np.random.default_rng(list(session.encode("utf-8")))

    def in_rounds(choices: Sequence, number: int) -> list:
        drawn: list = []
        while len(drawn) < number:
            drawn += [choices[i] for i in random.permutation(len(choices))]
        return drawn[:number]

    def sides(first: str, second: str) -> tuple[str, str]:
        return (first, second) if random.random() < 0.5 else (second, first)

    couples = [(a, b) for i, a in enumerate(systems) for b in systems[i + 1 :]]
    trials = [
        Trial("pair", item, sides(*couple))
        for item, couple in zip(
            in_rounds(items, counts.pairs), in_rounds(couples, counts.pairs) if couples else [], strict=True
        )
    ]
    rated = in_rounds(systems, counts.ratings) + in_rounds(ANCHORS, counts.anchors)
    trials += [
        Trial("rating", item, (system,)) for item, system in zip(in_rounds(items, len(rated)), rated, strict=True)
    ]
    for item, system in zip(in_rounds(items, counts.checks), in_rounds(systems, counts.checks), strict=True):
        order = sides(system, NOISE_ANCHOR)
        trials.append(Trial("pair-check", item, order, "a" if order[0] == system else "b"))
        trials.append(Trial("rating-check", item, (system,), CHECK_RATING))
    return [trials[i] for i in random.permutation(len(trials))]


def attentive(answers: Sequence[Answer]) -> bool:
    """Whether a session answered all of its checks right."""
    return all(
        one.preference == one.expected
        if one.kind == "pair-check"
        else one.quality == one.expected and one.relevance in (one.expected, None)
        for one in answers
        if one.kind.endswith("-check")
    )


def bradley_terry(wins_SS: np.ndarray, rounds: int = 500) -> np.ndarray:
    """Strengths [S] in log odds, of mean 0, from wins of each system (row) over each other (column); a tie is half a
    win for both. Minorisation-maximisation (Hunter 2004, The Annals of Statistics 32), with a weak prior. Further
    dimensions before these are tables of their own."""
    wins = wins_SS + PRIOR * (1 - np.eye(wins_SS.shape[-1]))
    met, total = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    logs = np.zeros_like(total)
    for _ in range(rounds):
        strength = np.exp(logs)
        updated = np.log(total / (met / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1))
        updated -= updated.mean(axis=-1, keepdims=True)
        moved, logs = np.abs(updated - logs).max(), updated
        if moved < 1e-9:
            break
    return logs


def _wins(answers: Sequence[Answer], systems: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(systems)}
    wins = np.zeros((len(systems), len(systems)))
    for one in answers:
        first, second = (place[name] for name in one.systems)
        share = {"a": 1.0, "b": 0.0, "same": 0.5}[str(one.preference)]
        wins[first, second] += share
        wins[second, first] += 1 - share
    return wins


def _entry(value: float, replicas: np.ndarray) -> dict[str, float]:
    low, high = interval(value, replicas)
    assert low is not None
    assert high is not None
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}


def _means(sessions: Sequence[Sequence[Answer]], name: str, question: str, seed: int) -> dict[str, float] | None:
    """Mean score of a system and its interval. Sessions are drawn, not answers: one listener's are alike."""
    given = [
        [value for one in session if one.systems == (name,) and (value := getattr(one, question)) is not None]
        for session in sessions
    ]
    given = [values for values in given if values]
    if not given:
        return None
    sums, counts = np.array([sum(v) for v in given], dtype=float), np.array([len(v) for v in given], dtype=float)
    drawn = [sums[chosen].sum() / counts[chosen].sum() for chosen in resampled(len(given), DRAWS, seed)]
    return {**_entry(float(sums.sum() / counts.sum()), np.array(drawn)), "n": int(counts.sum())}


def analyse(answers: Sequence[Answer], trials: int, seed: int = 0) -> dict[str, Any]:
    """Scores of all systems and anchors, from sessions that are attentive; unfinished ones count as far as they went.

    Args:
        trials: of a whole session.
    """
    by_session: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        by_session[one.session].append(one)
    kept = [session for session in by_session.values() if attentive(session)]
    pairs = [[one for one in session if one.kind == "pair"] for session in kept]
    ratings = [[one for one in session if one.kind == "rating"] for session in kept]
    rated = sorted({name for session in ratings for one in session for name in one.systems})
    opinions = {
        question: {name: entry for name in rated if (entry := _means(ratings, name, question, seed))}
        for question in QUESTIONS
    }
    met = sorted({name for session in pairs for one in session for name in one.systems})
    preferences: dict[str, Any] = {}
    if met:
        wins = np.stack([_wins(session, met) for session in pairs])
        strengths = bradley_terry(wins.sum(axis=0))
        drawn = bradley_terry(np.stack([wins[chosen].sum(axis=0) for chosen in resampled(len(wins), DRAWS, seed)]))
        met_times = (wins + wins.transpose(0, 2, 1)).sum(axis=(0, 2))
        preferences = {
            name: {**_entry(float(strengths[i]), drawn[:, i]), "n": round(float(met_times[i]))}
            for i, name in enumerate(met)
        }
    return {
        "sessions": len(by_session),
        "finished": sum(len(session) == trials for session in by_session.values()),
        "inattentive": len(by_session) - len(kept),
        "draws": DRAWS,
        "seed": seed,
        "mean_opinion": opinions,
        "bradley_terry": preferences,
    }
