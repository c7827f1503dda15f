"""A study whose driver is killed half-way, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmttm.config import Config
from tuning import report
from tuning.table import DONE, read_rows

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300


def command(config: Config, out: Path) -> list[str]:
    fixed = [f"train.data={config.train.data}", f"codec.path={config.codec.path}", "tracking.enabled=false"]
    fixed += ["train.steps=40", "train.validate_every=10", "train.checkpoint_every=10"]
    axes = ["--sizes", "1,2,3", "--backbones", "prefix_simba,cross_transformer", "--width-per-layer", "64"]
    return [sys.executable, "tuning/scaling_study.py", "--preset", "tiny", *fixed, *axes, "--out", str(out)]


def finished(out: Path) -> dict[str, int]:
    """Finished trials by name, with the time their runs were last written to."""
    rows = [row for row in read_rows(str(out / "study.csv")) if row.status == DONE]
    return {row.name: (out / "trials" / row.name / "metrics.jsonl").stat().st_mtime_ns for row in rows}


@pytest.mark.slow
def test_a_killed_study_trains_only_what_is_missing(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    driver = subprocess.Popen(
        command(tiny_config, out),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(finished(out)) < 2:
            assert driver.poll() is None, "the study ended before it was killed"
            assert time.monotonic() < deadline, "no trial was finished"
            time.sleep(0.1)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # its Ray goes with it
        driver.wait()
    before = finished(out)
    assert len(before) < 6
    done = subprocess.run(
        command(tiny_config, out), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"6 trials, {6 - len(before)} to train" in done.stdout
    after = finished(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    page = Path(report.write_report(str(out), str(out))).read_text()
    assert page.count("<img") == 7
