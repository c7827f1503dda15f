"""Behaviour is what `record.json` says it was."""

from __future__ import annotations

import json

import pytest
from record import QUICK, RECORD, compare, compare_clips, machine, record, record_clips

RECORDED = json.loads(RECORD.read_text())
pytestmark = pytest.mark.skipif(
    machine() != RECORDED["machine"],
    reason=f"recorded on {RECORDED['machine']}; another processor adds in another order, and draws other codes",
)


def test_clips_of_the_packaged_model() -> None:
    assert not compare_clips(RECORDED["clips"], record_clips(QUICK))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_that_is_recorded_but_for_ray() -> None:
    assert not compare(RECORDED, record(ray=False))
