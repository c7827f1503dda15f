"""Whether a job's output can be written is known before its work, however its inputs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssmttm import config
from ssmttm.codec.convert_encodec import convert
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.evaluation.evaluate import compare, evaluate
from ssmttm.storage import UnwritableError
from ssmttm.tokens.write import preprocess
from ssmttm.training.codec import train_codec


def _preprocess(settings: Config) -> None:
    codec = SimpleNamespace(describe=lambda: {"name": settings.codec.name})
    writer: Any = SimpleNamespace(config=settings, codec=codec, remove_vocals=None, encoder=None)
    preprocess(writer, lambda *_: pytest.fail("something was made"))


JOBS: dict[str, tuple[str, Callable[[Config], Any]]] = {
    "preprocess": ("corpus.out", _preprocess),
    "train_codec": ("codec.path", train_codec),
    "evaluate": ("evaluate.out", evaluate),
    "compare": ("evaluate.out", compare),
    "convert_encodec": ("codec.path", lambda settings: convert("no/checkpoint", settings.codec.path)),
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("place", ["file/out", "x" * 300, "file"])
def test_an_output_is_looked_at_first(job: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    key, run = JOBS[job]
    missing = {"corpus.source": "no/corpus", "train.data": "no/tokens", "evaluate.bundle": "no/bundle"}
    overrides = [f"{name}={value}" for name, value in {**missing, "train.out": tmp_path, key: tmp_path / place}.items()]
    settings = config.load("tiny", [*overrides, "tracking.enabled=false", "evaluate.audio=no/audio"])
    with pytest.raises(UnwritableError) as refused:
        run(settings)
    assert str(refused.value).startswith(f"{tmp_path}/{place}/")
    assert "\n" not in str(refused.value)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_stage_two_needs_steps_before_it_is_trained() -> None:
    from ssmttm.training.stage2 import Stage2Task

    settings = config.load("tiny", ["generation.steps=null", "train.data=no/tokens"])
    with pytest.raises(UserError, match=r"^generation\.steps=null, but stage 2 is sampled in steps"):
        Stage2Task(settings)
