from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation.clips import Clip, read_folder, write_list

TONE = Audio(np.full((1, 100), 0.1, np.float32), 8000)


def test_prompts_come_from_the_set_then_a_text_file_then_the_metadata(tmp_path: Path) -> None:
    for name in "abcd":
        audio.write(str(tmp_path / f"{name}.wav"), TONE, {"prompt": f"inside {name}"} if name != "d" else None)
    (tmp_path / "a.txt").write_text("beside a\n")
    (tmp_path / "b.txt").write_text("beside b\n")
    clips = read_folder(str(tmp_path), {"a": "of the set"})
    assert [clip.prompt for clip in clips] == ["of the set", "beside b", "inside c", None]
    assert [clip.id for clip in clips] == list("abcd")


def test_a_list_gives_all_back(tmp_path: Path) -> None:
    folder = str(tmp_path)
    clips = [Clip(f"id {i}", f"{folder}/000{i}.flac", f"prompt {i}", i, 2.0, 0.5) for i in (1, 0)]
    for clip in clips:
        audio.write(clip.audio, TONE)
    write_list(folder, clips, "ours")
    assert read_folder(folder) == clips
    (tmp_path / "0001.flac").unlink()
    with pytest.raises(UserError, match=r"names 0001.flac, which is not in the folder"):
        read_folder(folder)


def test_a_list_cannot_lead_outside(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    audio.write(str(tmp_path / "x.wav"), TONE)
    (inside / "clips.json").write_text(json.dumps({"clips": [{"id": "x", "audio": "../x.wav"}]}))
    with pytest.raises(UserError, match="not in the folder"):
        read_folder(str(inside))


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no audio"):
        read_folder(str(tmp_path))
