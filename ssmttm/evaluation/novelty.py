"""Is it new? The nearest training clip of each clip, and runs of codes that occur in training.

N clips, M training clips, D dimensions, T frames, n codes in a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.spatial.distance import cdist

from ssmttm.errors import UserError

NEAREST_SHARE = 0.01  # of real held-out clips are as near to a training clip as the bound for a suspected copy
THE_SAME = 1e-3  # distance below which two clips are one, by rounding apart


class Neighbours:
    """Distances to the nearest training clip, on statistics scaled to unit deviation in training; a distance of 1 is
    one such deviation in every dimension (root mean square).

    Args:
        training_MD: embeddings of all training clips, e.g. `embeddings.logmel_statistics`.

    Raises:
        UserError: for fewer than two training clips.
    """

    def __init__(self, training_MD: np.ndarray):
        if len(training_MD) < 2:
            raise UserError("nearest neighbours need at least two training clips; name the folder of all of them")
        self.count = len(training_MD)
        self._mean = training_MD.mean(axis=0)
        deviation = training_MD.std(axis=0)
        self._scale = np.maximum(deviation, 1e-3 * max(float(deviation.max()), 1e-12))
        self._training = (training_MD - self._mean) / self._scale

    def nearest(self, clips_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the nearest training clip [N] and that clip's number [N]."""
        scaled = (np.asarray(clips_ND, dtype=np.float64) - self._mean) / self._scale
        distances = cdist(scaled, self._training) / np.sqrt(scaled.shape[1])
        return distances.min(axis=1), distances.argmin(axis=1)


def copy_bound(real_N: np.ndarray) -> float:
    """Below this distance a clip is a suspected copy: only 1 % of real clips that were held out are as near."""
    return float(np.quantile(real_N, NEAREST_SHARE))


def runs(codes_T: np.ndarray, length: int) -> set[bytes]:
    """All runs of `length` codes in a row, as bytes."""
    codes = np.ascontiguousarray(codes_T, dtype=np.int32)
    return {codes[start : start + length].tobytes() for start in range(len(codes) - length + 1)}


class CodeRuns:
    """Runs of codes (of the coarse codebook) that occur in training.

    Args:
        training: codes [T] of every training clip.
        name: of the codec.
        length: of a run, in frames.
    """

    def __init__(self, training: Iterable[np.ndarray], name: str = "", length: int = 8):
        self.name, self.length, self.clips = name, length, 0
        self._known: set[bytes] = set()
        for codes_T in training:
            self._known |= runs(codes_T, length)
            self.clips += 1

    def share_known(self, codes_T: np.ndarray) -> float:
        """Share of a clip's different runs that occur in training; NaN for a clip shorter than one run."""
        own = runs(codes_T, self.length)
        return sum(run in self._known for run in own) / len(own) if own else float("nan")
