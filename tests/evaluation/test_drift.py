from __future__ import annotations

import numpy as np
import pytest
from test_adherence import pieces, probes  # noqa: F401  # a fixture

from ssmttm.evaluation import adherence
from ssmttm.evaluation.drift import drift_table
from ssmttm.evaluation.worker import MadeLong


@pytest.fixture
def drifting() -> tuple[list[MadeLong], list[dict[str, object]]]:
    """Two pieces of twelve segments of 10 s: as asked for a minute, then like another piece of another genre."""
    clips, tags = pieces(range(100, 104))
    made = [MadeLong("", 1.0, [clips[i]] * 6 + [clips[i + 1]] * 6) for i in (0, 2)]
    return made, [tags[0], tags[2]]


def test_rows_are_of_the_last_minute_before_each_mark(
    probes: adherence.Probes,  # noqa: F811
    drifting: tuple[list[MadeLong], list[dict[str, object]]],
) -> None:
    made, asked = drifting
    beginning, one, half_way, two = drift_table(probes, asked, made, (1, 1.5, 2), 10.0)
    assert [row["minute"] for row in (beginning, one, half_way, two)] == [0, 1, 1.5, 2]
    assert [row["segments"] for row in (beginning, one, half_way, two)] == [2, 12, 12, 12]
    for name in ("genre", "genre_kept", "tempo"):
        assert beginning[name] == one[name] == 1
    assert (half_way["genre"], half_way["genre_kept"]) == (0.5, 0.5)
    assert (two["genre"], two["genre_kept"]) == (0, 0)
    assert two["rms"] == pytest.approx(np.mean([piece.segments[-1].rms for piece in made]))
