"""The whole chain at toy size through Ray, as a user runs it: from nothing to a clip, then the README's own example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from typer.testing import CliRunner

from jobs import preprocess, train_codec
from ssmttm import audio, cli, config, storage
from ssmttm.engine.generator import Generator
from ssmttm.training.launch import train
from ssmttm.training.writer import read_rows

ROOT = Path(__file__).parent.parent
PROMPT = "calm piano in a minor key, slow"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def readme_example() -> str:
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return example.replace("seconds=10", "seconds=1").replace("seconds=30", "seconds=2")


@pytest.mark.slow
@pytest.mark.timeout(600)  # about a minute on two idle cores
def test_from_nothing_to_a_clip(
    ray_cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = tmp_path / "runs" / "demo"  # where the README's example looks for its bundle

    paths = {"corpus.source": "corpus", "corpus.out": "tokens", "codec.path": "codec", "train.data": "tokens"}
    overrides = [f"{key}={demo / name}" for key, name in paths.items()] + [f"train.out={demo}"]

    def settings(job: Any) -> config.Config:
        return config.load("tiny", overrides, job)

    run("corpus", "compose", "--out", str(demo / "corpus"), "--hours", "0.007", "--clip-seconds", "3")
    assert "all files are there" in run("corpus", "check", str(demo / "corpus"))
    train_codec.main(["--preset", "tiny", *overrides])
    assert storage.read_json(str(demo / "codec" / "report.json"))["logmel_l1"] > 0
    preprocess.main(["--preset", "tiny", *overrides])
    dataset = storage.read_commit(str(demo / "tokens"), "dataset.json")
    assert (dataset["rows"], dataset["rejects"]) == (8, 0)

    for stage in ("stage1", "stage2"):
        finished = train(settings(stage), stage)
        steps = settings(stage).train.steps
        assert [row["step"] for row in read_rows(finished.metrics)] == list(range(1, steps + 1))
        summary = storage.read_json(finished.summary)
        assert summary["launch"] == "ray"
        assert all(np.isfinite(value) for value in summary["validation"].values())
        changed = storage.digest(finished.summary)
        train(settings(stage), stage)  # finished: nothing is done again
        assert storage.digest(finished.summary) == changed

    runs = mlflow.MlflowClient(f"sqlite:///{demo}/mlflow.db").search_runs(["1"])
    assert {entry.info.run_name for entry in runs} >= {"stage1", "stage2"}
    assert {entry.info.status for entry in runs} == {"FINISHED"}

    run("export", str(demo / "stage1"), str(demo / "stage2"), "--out", str(demo / "bundle"))
    for name in ("first.wav", "second.wav"):
        run("generate", PROMPT, "--seconds", "1.5", "--seed", "1", "--out", name, "--bundle", str(demo / "bundle"))
    assert Path("first.wav").read_bytes() == Path("second.wav").read_bytes()
    clip = audio.read("first.wav")
    assert clip.samples.shape == (1, 36_000)
    assert 0 < np.abs(clip.samples).max() <= 1
    metadata = audio.read_metadata("first.wav")
    assert metadata["ai_generated"] is True
    assert (metadata["prompt"], metadata["seed"]) == (PROMPT, 1)
    assert metadata["model"] == Generator.load(str(demo / "bundle")).model_id

    capsys.readouterr()
    exec(compile(readme_example(), "README.md", "exec"), {})
    pieces = [float(line) for line in capsys.readouterr().out.split()]
    assert sum(pieces) == pytest.approx(2.0, abs=1e-6)
    assert audio.read("calm.wav").seconds == 1.0
