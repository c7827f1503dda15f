"""Whether drums and bass play, second by second; or that nobody can tell.

T fine frames, U pitch frames, S seconds.
"""

from __future__ import annotations

import numpy as np

from ssmttm.conditions.hearing.sound import FINE_RATE, PITCH_RATE, Sound

SPREAD_S = 0.06  # what has risen and fallen again within so long on either side is a stroke
HIGH_BAND = 22  # mel bands from about 2.2 kHz up: few instruments but drums are brief there
WINDOW_S = 3.0  # over which a second's value is taken
SILENT = np.log(10 ** (-50 / 20))

# Set on some forty composed pieces that were played with and without the part, so that what is unclear stays unknown.
DRUMS_ABSENT, DRUMS_PRESENT = 0.05, 0.13  # nats
BASS_ABSENT, BASS_PRESENT = 0.2, 0.8  # shares
BASS_RANGE = (26.0, 50.0)  # MIDI: 37 to 147 Hz


def _by_second(values_T: np.ndarray, rate: float, seconds: float) -> np.ndarray:
    """Means around each second."""
    sums = np.concatenate([[0.0], np.cumsum(values_T)])
    middles = np.arange(max(int(np.ceil(seconds)), 1)) + 0.5
    first = np.clip(np.round((middles - WINDOW_S / 2) * rate).astype(int), 0, len(values_T) - 1)
    last = np.clip(np.round((middles + WINDOW_S / 2) * rate).astype(int), first + 1, len(values_T))
    return (sums[last] - sums[first]) / (last - first)


def percussion(sound: Sound) -> np.ndarray:
    """How much of what is heard high up are strokes [S], in nats: by how much bands stand over what is shortly before
    and shortly after."""
    high_TM = sound.log_mel[:, HIGH_BAND:]
    width = max(round(SPREAD_S * FINE_RATE), 1)
    padded = np.pad(high_TM, ((width, width), (0, 0)), mode="edge")
    over_T = np.maximum(high_TM - np.maximum(padded[: len(high_TM)], padded[2 * width :]), 0).mean(axis=1)
    return _by_second(over_T, FINE_RATE, sound.seconds)


def low_tones(sound: Sound) -> np.ndarray:
    """The share [S] of time in which a tone below 147 Hz is at least a tenth as strong as the strongest of all."""
    frames, pitches, magnitudes = sound.partials
    low = (pitches >= BASS_RANGE[0]) & (pitches < BASS_RANGE[1])
    lowest_U, strongest_U = np.zeros((2, sound.pitch_frames))
    np.maximum.at(lowest_U, frames[low], magnitudes[low])
    np.maximum.at(strongest_U, frames, magnitudes)
    return _by_second((lowest_U > 0.1 * strongest_U).astype(float), PITCH_RATE, sound.seconds)


def _present(values_S: np.ndarray, absent: float, present: float, level_S: np.ndarray) -> list[list] | None:
    """A timeline of true, false and null; null in silence, too, which says nothing of a piece."""
    told: list[list] = []
    for second, (value, level) in enumerate(zip(values_S.tolist(), level_S.tolist(), strict=True)):
        heard = None if level < SILENT else True if value >= present else False if value < absent else None
        if not told or told[-1][1] != heard:
            told.append([float(second), heard])
    return told if any(heard is not None for _, heard in told) else None


def _level(sound: Sound) -> np.ndarray:
    return _by_second(np.log(np.exp(sound.log_mel).mean(axis=1)), FINE_RATE, sound.seconds)


def drums(sound: Sound) -> list[list] | None:
    """A timeline of whether drums play, null where it is not clear; None if it is clear nowhere."""
    return _present(percussion(sound), DRUMS_ABSENT, DRUMS_PRESENT, _level(sound))


def bass(sound: Sound) -> list[list] | None:
    """A timeline of whether there is a bass, null where it is not clear; None if it is clear nowhere."""
    return _present(low_tones(sound), BASS_ABSENT, BASS_PRESENT, _level(sound))
