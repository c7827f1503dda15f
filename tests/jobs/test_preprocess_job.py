"""The Ray Data job gives the bytes of the in-process path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import preprocess as job
from ssmttm import config, storage
from ssmttm.codec.base import Codec
from ssmttm.tokens.schema import COMMIT_NAME


def test_job_writes_the_same_bytes_as_in_process(
    ray_cluster: dict[str, Any],
    tiny_config: config.Config,
    tiny_tokens: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = tiny_config.corpus
    arguments = ["--preset", "tiny", f"corpus.source={corpus.source}", f"codec.path={tiny_config.codec.path}"]
    job.main([*arguments, f"corpus.out={tmp_path}"])
    printed = capsys.readouterr().out
    assert " rows, " in printed
    assert "hours of audio per hour" in printed
    own, reference = (storage.read_commit(uri, COMMIT_NAME) for uri in (str(tmp_path), tiny_tokens))
    assert own["files"] == reference["files"]
    assert own["fingerprint"] == reference["fingerprint"]

    job.main([*arguments, f"corpus.out={tmp_path}"])
    assert "finished before" in capsys.readouterr().out


def test_user_errors_end_in_one_line(
    ray_cluster: dict[str, Any], tiny_codec: Codec, tiny_config: config.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["--preset", "tiny", "corpus.source=/nowhere/at/all", f"codec.path={tiny_config.codec.path}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: corpus.source=/nowhere/at/all does not")
