"""What a file says of itself is said whole and in every script; other programs find it where they look."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ssmttm import audio, storage, tags
from ssmttm.audio import Audio
from ssmttm.engine import files

CLIP = Audio(np.sin(np.arange(2400, dtype=np.float32))[None] / 2, 24_000)
TITLES = ["flûte légère", "тихое пианино", "静かなピアノ", "🎹 slow", "x" * 199 + "é"]


@pytest.mark.parametrize("extension", sorted(audio.FORMATS))
@pytest.mark.parametrize("length", [1, 2_045, 2_046, 2_047, 65_537, 200_000])
def test_a_comment_of_any_length_is_read_back(extension: str, length: int, tmp_path: Path) -> None:
    uri = str(tmp_path / f"clip.{extension}")
    metadata = {"prompt": ("ü" * length)[:length], "seed": 1}
    audio.write(uri, CLIP, metadata)
    assert audio.read_metadata(uri) == metadata
    assert audio.read(uri).samples.shape[1] >= 2400


@pytest.mark.parametrize("extension", sorted(audio.FORMATS))
@pytest.mark.parametrize("title", TITLES)
def test_titles_are_right_in_every_script(extension: str, title: str) -> None:
    with soundfile.SoundFile(io.BytesIO(audio.to_bytes(CLIP, extension, {"prompt": title}))) as file:
        assert file.title == title
        assert file.software.startswith("ssmttm")


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
@pytest.mark.parametrize("extension", sorted(audio.FORMATS))
def test_another_program_reads_the_same(extension: str, tmp_path: Path) -> None:
    audio.write(str(tmp_path / f"a.{extension}"), CLIP, {"prompt": TITLES[2], "seed": 1})
    command = ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", tmp_path / f"a.{extension}"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = {**told["format"].get("tags", {}), **told["streams"][0].get("tags", {})}
    assert {name.lower(): value for name, value in found.items()}["title"] == TITLES[2]


def test_titles_are_one_line_without_what_ends_a_text() -> None:
    data = audio.to_bytes(CLIP, "wav", {"prompt": " calm\npiano\0 \ud800slow "})
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.title == "calm piano ?slow"
    assert json.loads(tags.riff_comment(data) or "") == {"prompt": " calm\npiano\0 \ud800slow "}


@given(st.dictionaries(st.sampled_from([tags.TITLE, tags.SOFTWARE, tags.COMMENT]), st.text(max_size=50), min_size=1))
def test_samples_are_what_they_were(told: dict[bytes, str]) -> None:
    bare = audio.to_bytes(CLIP)
    data = tags.with_riff_info(bare, told)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(data))[0], soundfile.read(io.BytesIO(bare))[0])
    if tags.COMMENT in told:
        encoded = told[tags.COMMENT].encode("utf-8", "replace").decode()
        assert tags.riff_comment(data) == encoded.split("\0")[0]


@given(st.integers(0, 2000), st.integers(0, 255))
def test_damaged_files_have_a_comment_or_none(at: int, value: int) -> None:
    """A length in the file is a claim: no reading beyond its end, no hanging, no exception."""
    data = bytearray(audio.to_bytes(CLIP, "wav", {"prompt": "x" * 1500}))
    data[at] = value
    for cut in (len(data), at):
        assert tags.riff_comment(bytes(data[:cut])) is None or isinstance(tags.riff_comment(bytes(data[:cut])), str)


def test_a_stream_says_the_same_as_a_file() -> None:
    metadata = files.provenance("model", "静かなピアノ " * 300, 1)
    stream = files.wav_header(2400, 24_000, metadata) + files.pcm16(CLIP.samples[0])
    assert json.loads(tags.riff_comment(stream) or "") == metadata
    assert json.loads(tags.riff_comment(audio.to_bytes(CLIP, "wav", metadata)) or "") == metadata


def test_what_is_no_audio_is_a_user_error(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a.wav"), b"RIFF\0\0\0\0WAVE")
    with pytest.raises(audio.UserError, match=r"a\.wav cannot be decoded as audio"):
        audio.read_metadata(tmp_path / "a.wav")
