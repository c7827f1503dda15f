"""Synthetic token shards and a fitted codec for the tests of training, made once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_tokens import make_codec, write_tokens

from ssmttm import config

MakeConfig = Callable[..., config.Config]


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("synthetic")
    codec = make_codec(folder / "codec", config.load("tiny").codec)
    return write_tokens(folder / "tokens", codec)


@pytest.fixture
def make_config(tokens: str, tmp_path: Path) -> MakeConfig:
    """A tiny configuration on the synthetic shards: in process, untracked, with the given overrides."""

    def make(stage: str = "stage1", *overrides: str) -> config.Config:
        fixed = [f"train.data={tokens}", f"train.out={tmp_path}", "train.launch=local", "tracking.enabled=false"]
        return config.load("tiny", [*fixed, *overrides], job=stage)

    return make
