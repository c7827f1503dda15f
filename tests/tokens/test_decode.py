"""Decoding: formats, rates, depths and channels; files that are cut; storage that fails."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem

from ssmttm import opener as module
from ssmttm import storage
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import open_audio
from ssmttm.tokens.decode import Decoding, decode

DECODING = Decoding(24_000, 0.5, silence_dbfs=-60.0, maximum_clipped=0.05, loudness=None, vocals="keep")


def tone(seconds: float, rate: int, channels: int = 1, level: float = 0.4) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.repeat(level * np.sin(2 * math.pi * 440 * time)[:, None], channels, axis=1)


def decoded(path: Path | str, start: float = 0.0, seconds: float = 1.0, **changes: Any) -> np.ndarray:
    with open_audio(str(path)) as source:
        return decode(source, start, seconds, Decoding(**{**DECODING.__dict__, **changes}))


def refusal(path: Path | str, start: float = 0.0, seconds: float = 1.0, **changes: Any) -> str:
    with pytest.raises(UnusableAudioError) as refused:
        decoded(path, start, seconds, **changes)
    return refused.value.reason


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_any_rate_and_number_of_channels(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.5, rate, channels), rate)
    wav_N = decoded(tmp_path / "a.wav", 0.2)
    assert wav_N.dtype == np.float32
    assert wav_N.shape == (24_000,)
    expected = tone(1.5, 24_000)[4_800:28_800, 0]
    np.testing.assert_allclose(wav_N[200:-200], expected[200:-200], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("a.wav", "PCM_U8"), ("b.wav", "PCM_16"), ("c.wav", "PCM_24"), ("d.wav", "PCM_32"), ("e.wav", "FLOAT"),
     ("f.wav", "DOUBLE"), ("g.flac", "PCM_24"), ("h.ogg", "VORBIS"), ("i.mp3", None), ("j.aiff", "PCM_16"),
     ("k.au", "PCM_16")],
)  # fmt: skip
def test_formats_and_depths(tmp_path: Path, name: str, subtype: str | None) -> None:
    soundfile.write(tmp_path / name, tone(2.0, 24_000, 2), 24_000, subtype=subtype)
    wav_N = decoded(tmp_path / name)
    error = wav_N - tone(1.0, 24_000)[:, 0]
    assert np.sqrt((error[2_000:-2_000] ** 2).mean()) < 0.02


@pytest.mark.parametrize("extension", ["wav", "aiff", "au", "ogg", "flac", "mp3"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_cut_file_is_truncated_from_its_end_on(tmp_path: Path, extension: str, remote: bool) -> None:
    """Also where its length is known from nothing but itself."""
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 24_000), 24_000)
    data = path.read_bytes()[: round(0.6 * path.stat().st_size)]
    uri = f"memory://{tmp_path.name}/a.{extension}" if remote else str(path)
    storage.write_bytes(uri, data)
    with open_audio(uri) as source:
        seconds = source.seconds
    last = math.ceil(seconds) - 1
    assert len(decoded(uri, 0.0)) == 24_000
    assert refusal(uri, last, seconds - last) == "truncated"


def test_a_whole_file_from_a_pipe_is_not_truncated(tmp_path: Path) -> None:
    """Programs that stream write the largest size into the header, as the real one is not known yet."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(2.0, 24_000), 24_000, format="WAV", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert len(decoded(tmp_path / "a.wav", 1.0)) == 24_000


def test_silence_and_clipping_are_refused_beyond_their_limits(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "soft.wav", tone(1.0, 24_000, level=0.002), 24_000, subtype="FLOAT")
    assert len(decoded(tmp_path / "soft.wav")) == 24_000
    assert refusal(tmp_path / "soft.wav", silence_dbfs=-40.0) == "silent"
    loud = np.clip(tone(1.0, 24_000, level=1.02), -1, 1)
    share = (np.abs(loud) >= 0.999).mean()
    assert 0.1 < share < 0.2
    soundfile.write(tmp_path / "loud.wav", loud, 24_000, subtype="FLOAT")
    assert refusal(tmp_path / "loud.wav") == "clipped"
    assert len(decoded(tmp_path / "loud.wav", maximum_clipped=0.2)) == 24_000


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_clipped_share_is_of_all_channels(tmp_path: Path, channels: int) -> None:
    """A tenth of the samples, clipped in one channel or spread over all, is a tenth."""
    wav_NC = tone(1.0, 24_000, channels)
    wav_NC[: 2_400 * channels, 0] = 1.0
    soundfile.write(tmp_path / "a.wav", wav_NC, 24_000, subtype="FLOAT")
    assert len(decoded(tmp_path / "a.wav", maximum_clipped=0.11)) == 24_000
    assert refusal(tmp_path / "a.wav", maximum_clipped=0.09) == "clipped"
    wav_NC[:, 0], wav_NC[:2_400] = 0.1, 1.0
    soundfile.write(tmp_path / "b.wav", wav_NC, 24_000, subtype="FLOAT")
    assert len(decoded(tmp_path / "b.wav", maximum_clipped=0.11)) == 24_000
    assert refusal(tmp_path / "b.wav", maximum_clipped=0.09) == "clipped"


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_a_stretch_begins_where_it_was_asked_to(tmp_path: Path, rate: int) -> None:
    """What is read before it for the resampler's sake is cut off again: a click keeps its place."""
    wav_N = np.zeros(3 * rate)
    wav_N[round(1.5 * rate)] = 0.9
    soundfile.write(tmp_path / "a.wav", wav_N, rate, subtype="FLOAT")
    for start in (0.0, 0.1, 1.0, 1.4):
        found_N = decoded(tmp_path / "a.wav", start, 1.6)
        assert len(found_N) == round(1.6 * 24_000)
        assert abs(int(np.abs(found_N).argmax()) - round((1.5 - start) * 24_000)) <= 1


def test_loudness_is_brought_to_the_level_asked_for(tmp_path: Path) -> None:
    import pyloudnorm

    soundfile.write(tmp_path / "a.wav", tone(2.0, 24_000, level=0.01), 24_000, subtype="FLOAT")
    wav_N = decoded(tmp_path / "a.wav", 0.0, 2.0, loudness=-20.0)
    assert pyloudnorm.Meter(24_000).integrated_loudness(wav_N) == pytest.approx(-20.0, abs=0.1)


def test_vocals_are_removed_before_channels_are_mixed(tmp_path: Path) -> None:
    stereo = np.concatenate([tone(1.0, 24_000), tone(1.0, 24_000, level=0.1)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 24_000, subtype="FLOAT")
    with open_audio(str(tmp_path / "a.wav")) as source:
        wav_N = decode(source, 0.0, 1.0, DECODING, lambda whole: whole._replace(samples=whole.samples[1:]))
    np.testing.assert_allclose(wav_N, tone(1.0, 24_000, level=0.1)[:, 0], atol=1e-4)


class FailingFileSystem(MemoryFileSystem):
    """Fails a number of times, then works."""

    protocol = "failing"
    failures = 0

    def _maybe_fail(self) -> None:
        if FailingFileSystem.failures:
            FailingFileSystem.failures -= 1
            raise ConnectionError("the line is cut")

    def cat_file(self, *arguments: Any, **options: Any) -> bytes:
        self._maybe_fail()
        return super().cat_file(*arguments, **options)

    def open(self, *arguments: Any, **options: Any) -> Any:
        file = super().open(*arguments, **options)
        read: Callable[..., bytes] = file.read

        def read_or_fail(*a: Any) -> bytes:
            self._maybe_fail()
            return read(*a)

        file.read = read_or_fail
        return file


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> str:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    monkeypatch.setattr(storage, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    FailingFileSystem.failures = 0
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(3.0, 24_000), 24_000, format="WAV")
    storage.write_bytes("failing://bucket/a.wav", buffer.getvalue())
    return "failing://bucket/a.wav"


@pytest.mark.parametrize("in_blocks", [False, True])
def test_storage_that_fails_for_a_while_is_asked_again(
    failing: str, monkeypatch: pytest.MonkeyPatch, in_blocks: bool
) -> None:
    if in_blocks:
        monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 0)
    expected = decoded(failing, 1.0)
    FailingFileSystem.failures = 3
    assert (decoded(failing, 1.0) == expected).all()
    assert FailingFileSystem.failures == 0


@pytest.mark.parametrize("in_blocks", [False, True])
def test_storage_that_stays_away_is_an_error_that_names_the_object_and_no_reject(
    failing: str, monkeypatch: pytest.MonkeyPatch, in_blocks: bool
) -> None:
    if in_blocks:
        monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 0)
    FailingFileSystem.failures = 10_000
    with pytest.raises(UserError, match=r"failing://bucket/a\.wav: the storage failed 4 times \(the line is cut\)"):
        decoded(failing, 1.0)
    FailingFileSystem.failures = 0
