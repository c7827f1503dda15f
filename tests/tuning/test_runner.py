"""What all trials of a study share, settled before the first starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmttm import config as configuration
from ssmttm.config import CodecConfig, Config
from ssmttm.errors import UserError
from tuning import runner
from tuning.runner import trial_config


def changed(config: Config, **sections: dict[str, object]) -> Config:
    values = config.model_dump()
    for section, entries in sections.items():
        values[section] |= entries
    return configuration.from_dict(values)


def test_trials_take_the_codec_that_their_shards_name(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    left_open = changed(tiny_config, codec={"path": CodecConfig().path})  # a relative path, elsewhere another one
    shared = trial_config(left_open, str(tmp_path))
    assert shared.codec.path == tiny_config.codec.path
    assert shared.train.out == str(tmp_path / "trials")


def test_shards_of_another_codec_are_refused_before_any_trial(
    tiny_config: Config, tiny_tokens: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"holds codes of codec 'mini', but codec\.name=dac"):
        trial_config(changed(tiny_config, codec={"name": "dac"}), str(tmp_path))
    with pytest.raises(UserError, match=r"holds no finished token shards"):
        trial_config(changed(tiny_config, train={"data": str(tmp_path)}), str(tmp_path))


def test_a_tracking_server_that_is_away_stops_no_study(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = changed(tiny_config, tracking={"enabled": True, "uri": "http://127.0.0.1:9"})
    assert runner._parent(away, str(tmp_path)) is None
    assert capsys.readouterr().out.startswith("warning: trials are not tracked: ")
