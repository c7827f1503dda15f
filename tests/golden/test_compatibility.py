"""What an earlier version wrote is read: a bundle plays, token shards are trained on, a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from record import RECORD, SMALL, SMALL_STEPS, Chain, compare_losses, fixture_clip, lay_out_fixtures, samples_of

from ssmttm import config
from ssmttm.training.launch import train

FIXTURES = json.loads(RECORD.read_text())["fixtures"]
STAGES = ("stage1", "stage2")
ANY_PROCESSOR = 1e-4  # how far losses are apart between processors, relative


@pytest.fixture
def old(tmp_path: Path) -> Chain:
    """The files as if they had been made in this test's folder."""
    lay_out_fixtures(tmp_path)
    return Chain(tmp_path, *SMALL)


def trained(chain: Chain, stage: str, name: str) -> dict[str, object]:
    _, preset, *overrides = chain.settings(f"train.name={name}", *SMALL_STEPS)
    train(config.load(preset, overrides, stage), stage)
    return chain.rows(name)


def test_an_old_bundle_plays(old: Chain) -> None:
    clip, recorded = fixture_clip(old.folder / "bundle"), FIXTURES["clip"]
    assert clip["codes"] == recorded["codes"]
    samples, expected = samples_of(clip), samples_of(recorded)
    # Griffin-Lim carries the last bits of quiet bins far, and they differ between processors.
    assert np.sqrt(np.square(samples - expected).mean()) < 0.1 * np.sqrt(np.square(expected).mean())


@pytest.mark.parametrize("stage", STAGES)
def test_old_token_shards_are_trained_on(old: Chain, stage: str) -> None:
    assert not compare_losses(FIXTURES["losses"], {stage: trained(old, stage, "another")}, ANY_PROCESSOR)


@pytest.mark.parametrize("stage", STAGES)
def test_an_old_run_goes_on(old: Chain, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not compare_losses(FIXTURES["losses"], {stage: trained(old, stage, stage)}, ANY_PROCESSOR)
    assert "continuing from step 2" in capsys.readouterr().out
