"""One way to open sound: stretches in any order, hostile heads, bounds. Odd files, one by one, are in
`tokens/test_odd_audio.py`."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import odd_audio
import pytest

from ssmttm import opener
from ssmttm.containers import UnusableAudioError
from ssmttm.opener import open_audio, open_stream

MOST_SAMPLES_A_BYTE = 10_000  # silence in FLAC: 65,535 in 14


@pytest.mark.parametrize("kept", [opener.KEPT_BYTES, 100_000])
def test_stretches_in_any_order_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Also where a decoder only goes forward, and has forgotten what it decoded."""
    monkeypatch.setattr(opener, "KEPT_BYTES", kept)
    for data in (odd_audio.ffmpeg("adts", "aac"), odd_audio.mp3() + odd_audio.mp3(), odd_audio.sound("FLAC")):
        with open_stream(io.BytesIO(data)) as source:
            whole_NC = source.samples(0, source.frames)
            assert len(whole_NC) == source.frames
            draw = random.Random(0)
            for _ in range(12):
                begin, count = draw.randrange(source.frames), draw.randrange(1, source.frames)
                np.testing.assert_array_equal(source.samples(begin, count), whole_NC[begin : begin + count])
            assert len(source.samples(source.frames, 10)) == 0


def test_damaged_heads_are_verdicts_and_the_length_stays_within_the_file() -> None:
    made = [
        *(
            odd_audio.sound(form, "PCM_16", odd_audio.music(0.6))
            for form in ("WAV", "AIFF", "CAF", "AU", "W64", "RF64")
        ),
        odd_audio.sound("FLAC", None, odd_audio.music(0.6)),
        odd_audio.sound("OGG", "VORBIS", odd_audio.music(0.6)),
        odd_audio.ffmpeg("mp4", "aac", movflags="faststart"),
        odd_audio.ffmpeg("webm", "libopus", 48_000),
    ]
    draw = random.Random(0)
    verdicts = set()
    for number in range(200):
        data = bytearray(made[number % len(made)])
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            place, width = draw.randrange(min(len(data), draw.choice((64, 300, 4000)))), draw.choice((1, 1, 4))
            data[place : place + width] = bytes([draw.choice((0, 255, 127, 128, draw.randrange(256)))]) * width
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        try:
            with open_stream(io.BytesIO(bytes(data))) as source:
                read = sum(len(block_NC) for block_NC in source.read(0, source.frames))
                assert read <= source.frames < MOST_SAMPLES_A_BYTE * len(data)
                verdicts.add("used")
        except UnusableAudioError as refused:
            verdicts.add(refused.reason)
    assert {"used", "damaged", "not-audio", "truncated"} <= verdicts


@pytest.mark.parametrize("total", [0, 7, 2**36 - 1])
def test_nobody_counts_further_than_the_caller_wants_to_know(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    whole = odd_audio.flac_total(odd_audio.sound("FLAC"), total)
    with open_stream(io.BytesIO(whole)) as source:
        assert source.seconds == pytest.approx(odd_audio.SECONDS)
    monkeypatch.setattr(opener._Ffmpeg, "count", None)  # decodes all
    with open_stream(io.BytesIO(whole), limit_s=1.0) as source:
        assert 1.0 < source.seconds < 1.5


def test_what_might_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.wav", tmp_path / "zero.wav", tmp_path):
        with pytest.raises(UnusableAudioError) as refused, open_audio(str(path)):
            pass
        assert refused.value.reason == "unreadable"
