"""The same audio under several names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from ssmttm.sources.manifest import Reject, Track
from ssmttm.tokens.admit import find_duplicates


def found(folder: Path, *names: str) -> list[Reject]:
    tracks = []
    for name in names:
        seconds = soundfile.info(folder / name).duration if (folder / name).suffix != ".bad" else 2.0
        tracks.append(Track(name, str(folder / name), ("c",), "train", "CC0-1.0", "", "", "", seconds))
    with ThreadPoolExecutor(2) as pool:
        return find_duplicates(tracks, pool)


def test_the_first_of_each_wins_whatever_name_tags_or_lossless_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Of a depth that both formats hold exactly.
    music = rng.integers(-9_000, 9_000, (48_000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", music, 24_000)
    soundfile.write(tmp_path / "c.flac", music, 24_000, subtype="PCM_16")
    with soundfile.SoundFile(tmp_path / "d.wav", "w", 24_000, 2, "PCM_16") as file:
        file.title, file.artist = "Another name", "Another artist"
        file.write(music)
    soundfile.write(tmp_path / "b.wav", rng.uniform(-0.3, 0.3, (48_000, 2)), 24_000)
    rejects = found(tmp_path, "a.wav", "b.wav", "c.flac", "d.wav")
    assert [(reject.id, reject.reason, reject.detail) for reject in rejects] == [
        ("c.flac", "duplicate", "the same audio as a.wav"),
        ("d.wav", "duplicate", "the same audio as a.wav"),
    ]
    assert [reject.id for reject in found(tmp_path, "d.wav", "b.wav", "a.wav")] == ["a.wav"]


def test_what_differs_anywhere_is_no_duplicate(tmp_path: Path) -> None:
    music = np.random.default_rng(0).uniform(-0.3, 0.3, 72_000)
    soundfile.write(tmp_path / "a.wav", music, 24_000)
    music[3] += 0.1  # far from the middle
    soundfile.write(tmp_path / "b.wav", music, 24_000)
    assert found(tmp_path, "a.wav", "b.wav") == []


def test_what_cannot_be_decoded_is_left_for_later(tmp_path: Path) -> None:
    for name in ("a.bad", "b.bad"):
        (tmp_path / name).write_text("not audio")
    assert found(tmp_path, "a.bad", "b.bad") == []
