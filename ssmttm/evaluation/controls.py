"""Does music do what its controls ask, each by its own measure? Beats and bars, chords, key, parts, texture, melody.

Each measure takes a clip and what was asked of it, as a request says it, and gives what is to be counted: a share of
what is as asked (NaN where nothing was), or for ranks pairs of what was asked and what is heard, which are correlated
over the clips of a set. T fine frames, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ssmttm.audio import Audio
from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.beat import Beat, Grid
from ssmttm.conditions.harmony import Chord, Harmony, Key, Scale
from ssmttm.conditions.hearing import harmony, parts, texture
from ssmttm.conditions.hearing.beats import beats_of, onset_envelope
from ssmttm.conditions.hearing.sound import FINE_RATE, PITCH_RATE, Sound, change
from ssmttm.conditions.registry import control_of
from ssmttm.conditions.timeline import ScoreControl, Timeline

TEMPO_TOLERANCE = 0.01
HALF_DRUMS = (parts.DRUMS_ABSENT + parts.DRUMS_PRESENT) / 2
HALF_BASS = (parts.BASS_ABSENT + parts.BASS_PRESENT) / 2
RANK_S = 2.0  # ranks are compared in steps of
MELODY_REACH = 0.5  # semitones
LEAST_NOTES_S = 0.1

Measure = Callable[[Sound, Any], float | np.ndarray]


def shifted(control: str, value: Any, start_s: float) -> Any:
    """A control of a piece, as a request would have it for the part of it from `start_s` on: the timeline's value that
    holds there begins the part, beats at their next one."""
    if value is None or not start_s:
        return value
    if control == "melody":
        cut = [(max(start - start_s, 0.0), start + length - start_s, pitch) for start, length, pitch in value]
        return [[start, end - start, pitch] for start, end, pitch in cut if end - start > 1e-6]
    if control == "beat":
        return _shifted_beats(Beat().read(value, control), start_s)
    if not isinstance(value, list | tuple):
        return value
    return [
        [max(start - start_s, 0.0), one]
        for (start, one), end in zip(value, [*(start for start, _ in value[1:]), np.inf], strict=True)
        if end > start_s
    ]


def _shifted_beats(timeline: Timeline[Grid], start_s: float) -> list[list[Any]]:
    told: list[list[Any]] = []
    for start, end, grid in _stretches(timeline, np.inf, also_none=True):
        if end <= start_s:
            continue
        if grid is None:
            told.append([max(start - start_s, 0.0), None])
            continue
        passed = max(int(np.ceil((start_s - start) * grid.bpm / 60 - 1e-9)), 0)
        time = start + passed * 60 / grid.bpm
        if time < end:
            value = {"bpm": grid.bpm, "meter": grid.metre, "beat": (grid.beat + passed) % grid.beats + 1}
            told.append([max(time - start_s, 0.0), value])
    return told


def asked_of(controls: Iterable[str], score: Mapping[str, Any], excerpt: Excerpt) -> dict[str, Any]:
    """The controls of a recording's excerpt as a request would ask for them: by its track's score, else as they are
    heard. What is not known is not asked for."""
    found = {}
    for name in controls:
        control = control_of(name)
        if name in score:
            value = shifted(name, score[name], excerpt.start_s)
        else:
            value = control.told(excerpt) if isinstance(control, ScoreControl) else None
        if value is not None and value != []:
            found[name] = value
    return found


def _stretches(timeline: Timeline[Any], seconds: float, also_none: bool = False) -> list[tuple[float, float, Any]]:
    """Begin, end and value of what is asked, and of where nothing is."""
    ends = [*timeline.starts[1:], seconds]
    return [
        (start, min(end, seconds), value)
        for start, end, value in zip(timeline.starts, ends, timeline.values, strict=True)
        if (also_none or value is not None) and start < min(end, seconds)
    ]


def _grids(sound: Sound, asked: Any) -> list[tuple[float, float, Grid]]:
    return _stretches(Beat().read(asked, "beat"), sound.seconds)


def _turns(grids: Sequence[tuple[float, float, Grid]], times_T: np.ndarray) -> np.ndarray:
    """Beats [T] since the grid that holds began, a whole number where a beat falls; NaN where nothing is asked."""
    turns_T = np.full(len(times_T), np.nan)
    for start, end, grid in grids:
        inside = (times_T >= start) & (times_T < end)
        turns_T[inside] = (times_T[inside] - start) * grid.bpm / 60
    return turns_T


def tempo(sound: Sound, asked: Any) -> float:
    """Whether the tempo is as asked to a hundredth, or its half or double; of several asked, that of most seconds."""
    grids = _grids(sound, asked)
    if not grids:
        return np.nan
    times = np.arange(int(sound.seconds * 10)) / 10
    bpms = np.concatenate([[grid.bpm] * int(((times >= start) & (times < end)).sum()) for start, end, grid in grids])
    if not len(bpms):
        return np.nan
    asked_bpm, heard = float(np.median(bpms)), beats_of(sound).bpm
    return float(any(abs(heard / (asked_bpm * factor) - 1) <= TEMPO_TOLERANCE for factor in (0.5, 1.0, 2.0)))


def beat_alignment(sound: Sound, asked: Any) -> float:
    """How far onsets gather on the asked halves of beats (thirds in 6/8): their mean vector, along the asked phase; 1
    on them alone, 0 anywhere, less between them."""
    grids = _grids(sound, asked)
    envelope_T = onset_envelope(sound.log_mel, FINE_RATE)
    times_T = np.arange(len(envelope_T)) / FINE_RATE
    parts_T = np.full(len(times_T), np.nan)
    for grid in grids:
        turns_T = _turns([grid], times_T)
        parts_T = np.where(np.isnan(turns_T), parts_T, turns_T * (3 if grid[2].metre == "6/8" else 2))
    known = np.isfinite(parts_T)
    if not known.any():
        return np.nan
    total = float(envelope_T[known].sum())
    return float(envelope_T[known] @ np.cos(2 * np.pi * parts_T[known]) / total) if total else 0.0


def downbeat(sound: Sound, asked: Any) -> float:
    """Whether, of a bar's beats, most begins on the first: low onsets and changes of harmony. Chance: one in so many
    beats as a bar has."""
    envelope_T = onset_envelope(sound.log_mel[:, :6], FINE_RATE)
    change_T = change(sound.chroma(), len(envelope_T))
    times_T = np.arange(len(envelope_T)) / FINE_RATE
    strengths: dict[int, np.ndarray] = {}
    for stretch in _grids(sound, asked):
        grid = stretch[2]
        if grid.metre is None:
            continue
        turns_T = _turns([stretch], times_T) + grid.beat
        sums = strengths.setdefault(grid.beats, np.zeros((3, grid.beats)))
        near_T = np.exp(-0.5 * (((turns_T + 0.5) % 1 - 0.5) / 0.06) ** 2)
        known = np.isfinite(near_T)
        places = np.round(turns_T[known]).astype(int) % grid.beats
        for row, values_T in enumerate((envelope_T, change_T, np.ones(len(times_T)))):
            sums[row] += np.bincount(places, near_T[known] * values_T[known], grid.beats)
    if not strengths:
        return np.nan
    right = []
    for sums in strengths.values():
        means = sums[:2] / np.maximum(sums[2], 1e-9)
        right.append((means / np.maximum(means.mean(axis=1, keepdims=True), 1e-9)).sum(axis=0).argmax() == 0)
    return float(np.mean(right))


def chord(sound: Sound, asked: Any) -> float:
    """Share of the asked chords, in parts of about a second, whose triad, by templates, is the asked one."""
    hits = []
    chroma_U12 = sound.chroma()
    for start, end, value in _stretches(Chord().read(asked, "chord"), sound.seconds):
        if not isinstance(value, Harmony):
            continue
        wanted = _triad(value)
        borders = np.linspace(start, end, max(round(end - start), 1) + 1)
        for first, last in pairwise(borders):
            if last - first < 0.3:
                continue
            places = slice(int(np.ceil(first * PITCH_RATE)), max(int(np.ceil(last * PITCH_RATE)), 1))
            heard = chroma_U12[places].sum(axis=0)
            fits = harmony.TEMPLATES @ heard
            hits.append(bool(fits.any()) and int(fits.argmax()) in wanted)
    return float(np.mean(hits)) if hits else np.nan


def _triad(chord: Harmony) -> set[int]:
    """Places among `harmony.CHORDS` that a chord counts as; both, if it has neither third."""
    has_major, has_minor = ((chord.root + third) % 12 in chord.notes for third in (4, 3))
    major, minor = {chord.root}, {chord.root + 12}
    return (
        (major if has_major or not has_minor else set())
        | (minor if has_minor and not has_major else set())
        | (minor if not has_major and not has_minor else set())
    )


def key(sound: Sound, asked: Any) -> float:
    """Share of the asked keys whose profile fits best of the twelve of its mode; of relative keys, either."""
    hits = []
    chroma_U12 = sound.chroma()
    for start, end, value in _stretches(Scale().read(asked, "scale"), sound.seconds):
        heard = harmony.key_correlations(chroma_U12[int(start * PITCH_RATE) : int(end * PITCH_RATE) + 1].sum(axis=0))
        hits.append(_is_best(value, heard))
    return float(np.mean(hits)) if hits else np.nan


def _is_best(key: Key, heard_24: np.ndarray) -> bool:
    major, minor = heard_24[:12], heard_24[12:]
    if key.tonic is not None:
        return bool((major if key.is_major else minor).argmax() == key.tonic)
    tonics = [tonic for tonic in range(12) if key.notes == {(tonic + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}]
    return bool(major.argmax() in tonics or minor.argmax() in [(tonic + 9) % 12 for tonic in tonics])


def _presence(values_S: np.ndarray, bound: float, asked: Any) -> float:
    timeline = Timeline.read(asked, lambda value, _: bool(value), "part")
    places = timeline.places(np.arange(len(values_S)) + 0.5)
    wanted = [timeline.values[place] if place >= 0 else None for place in places]
    hits = [
        bool(value >= bound) == want for value, want in zip(values_S.tolist(), wanted, strict=True) if want is not None
    ]
    return float(np.mean(hits)) if hits else np.nan


def drums(sound: Sound, asked: Any) -> float:
    """Share of seconds in which drums are heard, or not, as asked."""
    return _presence(parts.percussion(sound), HALF_DRUMS, asked)


def bass(sound: Sound, asked: Any) -> float:
    """Share of seconds in which a bass is heard, or not, as asked."""
    return _presence(parts.low_tones(sound), HALF_BASS, asked)


def _rank_pairs(heard: Sequence[Sequence[float]], asked: Any, seconds: float) -> np.ndarray:
    """What was asked and what is heard in steps of `RANK_S` [2, P]."""
    steps = np.arange(RANK_S / 2, max(seconds, RANK_S), RANK_S)
    wanted = Timeline.read(asked, lambda value, _: float(value), "rank")
    found = Timeline.read([list(entry) for entry in heard], lambda value, _: float(value), "rank")
    pairs = []
    for time in steps:
        span = np.linspace(time - RANK_S / 2, time + RANK_S / 2, 9)[1:-1]
        values = []
        for timeline in (wanted, found):
            places = timeline.places(span)
            values.append([v for place in places if place >= 0 and (v := timeline.values[place]) is not None])
        if all(values):
            pairs.append([float(np.mean(one)) for one in values])
    return np.array(pairs).reshape(-1, 2).T


def density(sound: Sound, asked: Any) -> np.ndarray:
    """Ranks asked and heard [2, P]."""
    return _rank_pairs(texture.density(sound), asked, sound.seconds)


def brightness(sound: Sound, asked: Any) -> np.ndarray:
    """Ranks asked and heard [2, P]."""
    return _rank_pairs(texture.brightness(sound), asked, sound.seconds)


def melody(sound: Sound, asked: Sequence[Sequence[float]]) -> float:
    """Share of the asked notes' time in which the loudest pitch class near the notes' range is theirs."""
    notes = [note for note in asked if note[0] < sound.seconds and note[1] >= LEAST_NOTES_S]
    if not notes:
        return np.nan
    pitches = [pitch for _, _, pitch in notes]
    chroma_U12 = sound.chroma(min(pitches) - MELODY_REACH, max(pitches) + 12 + MELODY_REACH)
    times_U = np.arange(len(chroma_U12)) / PITCH_RATE
    hits: list[bool] = []
    for start, duration, pitch in notes:
        inside = chroma_U12[(times_U >= start + 0.02) & (times_U < start + duration)]
        hits += [bool(frame.any()) and int(frame.argmax()) == round(pitch) % 12 for frame in inside]
    return float(np.mean(hits)) if hits else np.nan


# Figures by the control that they belong to: name, title, and how a clip is measured.
FIGURES: Mapping[str, Sequence[tuple[str, str, Measure]]] = {
    "beat": (
        ("asked_tempo", "tempo as asked, within 1 % (or half, or double)", tempo),
        ("asked_beats", "onsets on the asked beats and their halves (1 all, 0 anywhere)", beat_alignment),
        ("asked_downbeats", "first beat of the bar as asked", downbeat),
    ),
    "chord": (("asked_chords", "chords as asked", chord),),
    "scale": (("asked_key", "key as asked, given its mode", key),),
    "drums": (("asked_drums", "drums as asked, share of seconds", drums),),
    "bass": (("asked_bass", "bass as asked, share of seconds", bass),),
    "density": (("asked_density", "density, rank correlation with what was asked", density),),
    "brightness": (("asked_brightness", "brightness, rank correlation with what was asked", brightness),),
    "melody": (("asked_melody", "pitch classes of the asked melody, share of its time", melody),),
}


TITLES = {name: title for figures in FIGURES.values() for name, title, _ in figures}

Measured = dict[str, float | np.ndarray]  # of one clip, by figure


def measured(clip: Audio, asked: Mapping[str, Any]) -> Measured:
    """Every figure of a clip that belongs to one of the controls asked of it."""
    sound = Sound(clip.samples.mean(axis=0), clip.sample_rate)
    return {
        name: measure(sound, value) for control, value in asked.items() for name, _, measure in FIGURES.get(control, ())
    }


def over_clips(clips: Sequence[float | np.ndarray]) -> float:
    """A figure of a set: the mean of its clips' shares, or the rank correlation (Spearman's) of all their pairs. NaN
    without any."""
    if isinstance(clips[0], np.ndarray):
        from scipy.stats import rankdata

        asked_P, heard_P = np.concatenate([np.asarray(pairs) for pairs in clips], axis=1)
        ranks = [rankdata(values_P) for values_P in (asked_P, heard_P)]
        if len(asked_P) < 3 or any(np.ptp(one) == 0 for one in ranks):
            return np.nan
        return float(np.corrcoef(*ranks)[0, 1])
    known = [value for value in clips if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
