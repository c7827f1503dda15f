"""Can the borders of stage 2's windows be heard? What changes there against what changes everywhere else.

C code frames, J = C - 1 junctions between them, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssmttm.audio import mel_filters

NUM_MELS = 40
FLOOR = 1e-4  # -80 dB


@dataclass(frozen=True)
class Changes:
    """What changes from each code frame to the next, in nats, float64 [J].

    Attributes:
        level: magnitude of the change of the loudness, all bands together.
        flux: mean magnitude of the change of a band.
        burst: mean rise of the bands, around the junction itself, over the two frames it joins: a click.
    """

    level: np.ndarray
    flux: np.ndarray
    burst: np.ndarray


def changes(wav_N: np.ndarray, sample_rate: int, frame: int) -> Changes:
    """Changes from frame to frame.

    Args:
        wav_N: samples in [-1, 1], at least two frames.
        sample_rate: in Hz.
        frame: samples per code frame, even.
    """
    samples = torch.from_numpy(np.ascontiguousarray(wav_N, dtype=np.float32))
    window = torch.hann_window(frame)
    spectra = torch.fft.rfft(samples.unfold(0, frame, frame // 2) * window).abs() * (2 / float(window.sum()))
    bands = (spectra @ (mel_filters(sample_rate, frame, NUM_MELS).T * (sample_rate / frame))).double().numpy()
    level = np.log(np.maximum(bands.mean(axis=1), FLOOR))
    bands = np.log(np.maximum(bands, FLOOR))
    inside, across = bands[::2], bands[1::2]  # a code frame's own samples; half of its and half of the next one's
    joins = len(inside) - 1
    return Changes(
        np.abs(np.diff(level[::2])),
        np.abs(np.diff(inside, axis=0)).mean(axis=1),
        (across[:joins] - np.maximum(inside[1:], inside[:-1])).mean(axis=1),
    )


def borders(junctions: int, hop: int, first_hop: int) -> np.ndarray:
    """Which junctions are borders of windows, bool [J]: the first window owns `first_hop` frames, each one after it
    twice as many, up to `hop` (see `engine.windows`)."""
    at_border = np.zeros(junctions, dtype=bool)
    end, owned = first_hop, first_hop
    while end <= junctions:
        at_border[end - 1] = True
        owned = min(2 * owned, hop)
        end += owned
    return at_border


def separation(values_J: np.ndarray, at_border_J: np.ndarray) -> tuple[float, float]:
    """How far the values at borders stand out from those at other junctions.

    Returns:
        The probability that a border's value exceeds another junction's (the area under the ROC curve; 0.5 if
        borders are like any other place), and the p-value of the Mann-Whitney test that it is 0.5.
    """
    from scipy.stats import mannwhitneyu

    border, other = values_J[at_border_J], values_J[~at_border_J]
    test = mannwhitneyu(border, other)
    return float(test.statistic / (len(border) * len(other))), float(test.pvalue)
