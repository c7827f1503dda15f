"""Segments: the cuts, the decoded audio, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmttm import audio
from ssmttm.config import CorpusConfig
from ssmttm.sources.manifest import Reject, Track
from ssmttm.tokens.admit import Measured, look_at
from ssmttm.tokens.decode import Decoding, Segment, read_segments
from ssmttm.tokens.plan import plan_segments

CORPUS = CorpusConfig(segment_seconds=3.0, minimum_seconds=1.0)
DECODING = Decoding(24_000, 1.0, silence_dbfs=-60.0, maximum_clipped=0.05, loudness=None, vocals="keep")


def track_of(path: Path | str, duration_s: float = 0.0) -> Track:
    return Track("t", str(path), ("a caption",), "train", "CC0-1.0", "", "", "", duration_s)


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * math.pi * 440 * (1 + c) * time) for c in range(channels)], axis=1)


def cut(track: Track) -> list[Segment] | Reject:
    seen = look_at(track, CORPUS.minimum_seconds)
    return plan_segments(seen.track, CORPUS) if isinstance(seen, Measured) else seen


def planned(track: Track) -> list[Segment]:
    segments = cut(track)
    assert isinstance(segments, list)
    return segments


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [
        (9.0, [3, 3, 3]),
        (7.5, [3, 3, 1.5]),
        (6.9, [3, 3]),  # a tail below the minimum is dropped
        (2.0, [2]),
        (3.0000001, [3]),
        (8.9999999, [3, 3, 3]),  # not a rounding error short of a whole segment
    ],
)
def test_cuts(seconds: float, lengths: list[float]) -> None:
    segments = plan_segments(track_of("never-opened.wav", seconds), CORPUS)
    assert isinstance(segments, list)
    assert [s.duration_s for s in segments] == pytest.approx(lengths, abs=1e-6)
    assert [s.start_s for s in segments] == [3.0 * i for i in range(len(lengths))]
    assert [s.id for s in segments] == [f"t-{i:04d}" for i in range(len(lengths))]


def test_unknown_duration_is_read_from_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(4.5, 16_000), 16_000)
    assert [s.duration_s for s in planned(track_of(tmp_path / "a.wav"))] == [3.0, 1.5]


@pytest.mark.parametrize("rate", [24_000, 44_100, 11_025])
def test_segments_join_to_the_resampled_whole(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(7.5, rate, channels=2), rate, subtype="FLOAT")
    whole = audio.resample(audio.to_mono(audio.read(str(path))), 24_000).samples[0]
    parts = [wav for _, wav in read_segments(planned(track_of(path)), DECODING)]
    assert [len(part) for part in parts] == [72_000, 72_000, len(whole) - 144_000]
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-4)


def refusals(track: Track) -> list[tuple[str, str]]:
    segments = cut(track)
    if isinstance(segments, Reject):
        return [(segments.id, segments.reason)]
    return [(r.id, r.reason) for _, r in read_segments(segments, DECODING) if isinstance(r, Reject)]


@pytest.mark.parametrize("duration_s", [0.0, 6.0], ids=["duration unknown", "duration stated"])
def test_unusable_files_are_refused_whole(tmp_path: Path, duration_s: float) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("this is not audio " * 500)
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "no-samples.wav", np.zeros((0, 1)), 24_000)
    expected = {
        "empty.wav": "empty",
        "text.mp3": "not-audio",
        "folder.wav": "unreadable",
        "no-samples.wav": "empty",
        "absent.wav": "missing",
        "text.mp3/below-a-file.wav": "missing",
    }
    for name, reason in expected.items():
        assert refusals(track_of(tmp_path / name, duration_s)) == [("t", reason)], name


def test_short_file_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.4, 24_000), 24_000)
    assert refusals(track_of(tmp_path / "a.wav")) == [("t", "too-short")]


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_truncated_file_keeps_its_whole_segments(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.uniform(-0.5, 0.5, 9 * 24_000), 24_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    stated = plan_segments(track_of(path, 9.0), CORPUS)
    assert isinstance(stated, list)
    results = list(read_segments(stated, DECODING))
    assert isinstance(results[0][1], np.ndarray)
    assert [r.reason for _, r in results[1:] if isinstance(r, Reject)] == ["truncated", "truncated"]


def test_stated_duration_may_be_rounded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(5.8, 24_000), 24_000)
    wavs = [wav for _, wav in read_segments(planned(track_of(tmp_path / "a.wav", 6.0)), DECODING)]
    assert [len(wav) for wav in wavs] == [72_000, 67_200]


@pytest.mark.parametrize("rate", [24_000, 44_100])  # the second is resampled, with margins that reach into neighbours
@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not-finite"), (np.inf, "not-finite"), (0.0, "silent")])
def test_bad_segment_leaves_its_neighbours(tmp_path: Path, value: float, reason: str, rate: int) -> None:
    samples = tone(9.0, rate)
    samples[3 * rate : 6 * rate] = value
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    assert refusals(track_of(tmp_path / "a.wav")) == [("t-0001", reason)]
