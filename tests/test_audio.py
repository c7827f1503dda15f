"""Audio files round-trip with their metadata; resampling, levelling and the mel scale do what they say."""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError

SIGNALS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 400)),
    elements=st.floats(-1, 1, width=32),
)


def tone(hz: float, seconds: float = 1.0, sample_rate: int = 24_000, level: float = 0.5) -> Audio:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return Audio((level * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None], sample_rate)


@settings(max_examples=40, deadline=None)
@given(SIGNALS, st.sampled_from(["wav", "flac"]), st.sampled_from([8_000, 24_000, 44_100]))
def test_lossless_formats_are_exact_to_sixteen_bits(samples: np.ndarray, extension: str, sample_rate: int) -> None:
    uri = f"memory://audio/clip.{extension}"
    audio.write(uri, Audio(samples, sample_rate))
    back = audio.read(uri)
    assert back.sample_rate == sample_rate
    assert back.samples.dtype == np.float32
    assert back.samples.shape == samples.shape
    assert np.abs(back.samples - samples).max() <= 1 / 32768 + 1e-7


def test_ogg_keeps_length_and_pitch(tmp_path: Path) -> None:
    uri = str(tmp_path / "clip.ogg")
    audio.write(uri, tone(440.0))
    back = audio.read(uri)
    assert back.seconds == pytest.approx(1.0, abs=0.01)
    spectrum = np.abs(np.fft.rfft(back.samples[0]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


@pytest.mark.parametrize("extension", sorted(audio.FORMATS))
def test_metadata_travels_with_every_format(tmp_path: Path, extension: str) -> None:
    uri = str(tmp_path / f"clip.{extension}")
    metadata = {"ai_generated": True, "model": "abc", "prompt": 'Grüße "x"\nπ', "seed": 7}
    audio.write(uri, tone(440.0, 0.1), metadata)
    assert audio.read_metadata(uri) == metadata
    audio.write(uri, tone(440.0, 0.1))
    assert audio.read_metadata(uri) == {}


def test_equal_input_gives_equal_bytes() -> None:
    for extension in ("wav", "flac"):
        first, second = (audio.to_bytes(tone(300.0), extension, {"prompt": "p", "seed": 1}) for _ in range(2))
        assert first == second


@pytest.mark.parametrize("extension", audio.FORMATS)
def test_a_file_does_not_tell_how_it_was_written(extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Audio(np.random.default_rng(0).uniform(-1.2, 1.2, (2, 30_000)).astype(np.float32), 24_000)
    whole = audio.to_bytes(clip, extension)
    monkeypatch.setattr(audio, "WRITTEN", 1_001)
    pieces = audio.to_bytes(clip, extension)
    if extension == "ogg":  # its first block begins as the encoder guesses from what it was given first
        heard = [soundfile.read(io.BytesIO(data))[0][256:] for data in (pieces, whole)]
        assert np.array_equal(*heard)
        return
    assert pieces == whole


def test_an_ogg_of_any_length_is_written() -> None:
    """More samples than the stack holds: libvorbis ended the process where they came in one piece."""
    samples = np.zeros((1, 2_200_000), np.float32)
    with ThreadPoolExecutor(1) as pool:
        data = pool.submit(audio.to_bytes, Audio(samples, 8_000), "ogg").result()
    assert soundfile.info(io.BytesIO(data)).frames == samples.size


def test_metadata_needs_no_prompt(tmp_path: Path) -> None:
    uri = str(tmp_path / "clip.wav")
    audio.write(uri, tone(440.0, 0.1), {"seed": 7})
    assert audio.read_metadata(uri) == {"seed": 7}


def test_samples_beyond_full_scale_do_not_wrap() -> None:
    audio.write("memory://audio/loud.wav", Audio(np.array([[1.5, -1.5]], np.float32), 8_000))
    assert audio.read("memory://audio/loud.wav").samples.tolist() == [[pytest.approx(1.0, abs=1e-4), -1.0]]


def test_unreadable_audio_and_unknown_formats_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"not audio")
    with pytest.raises(UserError, match=r"x\.wav cannot be decoded as audio"):
        audio.read(str(tmp_path / "x.wav"))
    with pytest.raises(UserError, match=r"y\.wav does not exist"):
        audio.read(str(tmp_path / "y.wav"))
    with pytest.raises(UserError, match=r"cannot write .*x\.mp4; end its name in one of: \.wav, \.flac, \.ogg"):
        audio.write(str(tmp_path / "x.mp4"), tone(440.0, 0.1))


RAMP = np.linspace(-1, 1, 101, dtype=np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        RAMP,
        RAMP[None],
        RAMP.astype(np.float64),
        RAMP.astype(np.float16),
        RAMP.astype(">f4"),
        np.repeat(RAMP, 2)[::2],
        RAMP.tolist(),
        torch.from_numpy(RAMP),
        torch.from_numpy(RAMP)[None].double().requires_grad_(),
        torch.from_numpy(RAMP).bfloat16(),
        np.rint(RAMP * 32767).astype(np.int16),
        np.rint(RAMP * 32767).astype(">i2"),
        np.rint(RAMP * (2**31 - 256)).astype(np.int32),
        torch.from_numpy(np.rint(RAMP * 32767).astype(np.int16)),
        np.rint(RAMP * 127).astype(np.int8),
        np.rint(RAMP * 127 + 128).astype(np.uint8),
    ],
)
@pytest.mark.parametrize("rate", [24_000, np.int64(24_000), 24_000.0, np.float32(24_000)])
def test_samples_of_other_libraries_mean_the_same(samples: object, rate: object) -> None:
    taken = audio.checked((samples, rate))
    assert taken.samples.dtype == np.float32
    assert taken.samples.shape == (1, 101)
    assert (type(taken.sample_rate), taken.sample_rate) == (int, 24_000)
    assert np.abs(taken.samples[0] - RAMP).max() < 0.013  # eight bits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "is NoneType; give Audio"),
        (RAMP, "is ndarray; give Audio"),
        ((24_000, RAMP), r"has samples of shape \[\]"),
        ((np.zeros((480, 2)), 24_000), "480 channels of 2 samples; .* is .T of"),
        ((torch.zeros(480, 2), 24_000), "480 channels of 2 samples"),
        ((np.zeros((1, 1, 9)), 24_000), r"shape \[1, 1, 9\]; give \[channels, samples\]"),
        ((np.zeros((0, 9)), 24_000), r"shape \[0, 9\]"),
        ((np.array([0.0, np.nan]), 24_000), "not finite"),
        ((np.array([0.0, np.inf]), 24_000), "not finite"),
        ((np.array([1e300]), 24_000), "not finite"),
        ((np.array([0.0, 20_000.0]), 24_000), "reaches 20000, .* by 32768"),
        ((np.zeros(9, np.int64), 24_000), "samples of type int64"),
        ((np.zeros(9, bool), 24_000), "samples of type bool"),
        ((np.zeros(9, complex), 24_000), "samples of type complex128"),
        ((["a", "b"], 24_000), "samples of type <U1"),
        ((np.array([None, 1.0]), 24_000), "samples of type object"),
        (([[0.0], [0.0, 1.0]], 24_000), "no array"),
        *(((RAMP, rate), "sample rate of") for rate in (0, -1, 1.5, math.nan, math.inf, 10**9, True, "44100", None)),
    ],
)
def test_other_samples_are_refused_by_name(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        audio.checked(given, "the recording")
    assert str(refused.value).startswith("the recording ")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=message):
        audio.to_bytes(given)  # type: ignore[arg-type]


def test_paths_may_be_paths_and_metadata_numbers_of_numpy(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tone(440.0, 0.1), {"seed": np.int64(7), "gain": np.float32(0.5)})
    assert audio.read(tmp_path / "a.wav").sample_rate == 24_000
    assert audio.read_metadata(tmp_path / "a.wav") == {"seed": 7, "gain": 0.5}


def test_resampling_keeps_pitch_length_and_level() -> None:
    changed = audio.resample(tone(1000.0, 1.0, 44_100), 24_000)
    assert changed.sample_rate == 24_000
    assert changed.samples.shape == (1, 24_000)
    assert changed.samples.dtype == np.float32
    inner = slice(500, -500)
    assert np.abs(changed.samples[0, inner] - tone(1000.0).samples[0, inner]).max() < 1e-3
    same = tone(1000.0)
    assert audio.resample(same, 24_000) is same


def test_mono_is_the_average() -> None:
    stereo = Audio(np.array([[1.0, 0.0], [0.0, -1.0]], np.float32), 8_000)
    mono = audio.to_mono(stereo)
    assert mono.samples.tolist() == [[0.5, -0.5]]
    assert mono.samples.dtype == np.float32


def test_loudness_reaches_its_target_and_respects_the_peak() -> None:
    import pyloudnorm

    levelled = audio.normalise_loudness(tone(1000.0, 2.0, level=0.01), lufs=-20.0)
    assert pyloudnorm.Meter(24_000).integrated_loudness(levelled.samples.T) == pytest.approx(-20.0, abs=0.05)
    assert levelled.samples.dtype == np.float32

    click = Audio(np.zeros((1, 48_000), np.float32), 24_000)
    click.samples[0, ::6_000] = 0.3
    assert np.abs(audio.normalise_loudness(click, lufs=-10.0).samples).max() == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_silence_stays_silent(seconds: float) -> None:
    silent = Audio(np.zeros((1, round(24_000 * seconds)), np.float32), 24_000)
    assert not audio.normalise_loudness(silent).samples.any()


@given(st.floats(0, 48_000))
def test_the_mel_scale_inverts(hz: float) -> None:
    assert float(audio.mel_to_hz(audio.hz_to_mel(hz))) == pytest.approx(hz, rel=1e-9, abs=1e-6)


@given(st.floats(0, 40_000), st.floats(0.01, 1_000))
def test_the_mel_scale_rises(hz: float, step: float) -> None:
    assert audio.hz_to_mel(hz + step) > audio.hz_to_mel(hz)


def test_the_mel_scale_has_slaneys_anchors() -> None:
    # Auditory Toolbox: 200/3 Hz per mel below 1 kHz (mel 15), then a factor 6.4 in frequency every 27 mel.
    assert audio.hz_to_mel(np.array([0.0, 200 / 3, 1000.0, 6400.0])).tolist() == pytest.approx([0, 1, 15, 42])


@pytest.mark.parametrize(("fft_size", "num_mels"), [(2048, 64), (2048, 128), (1024, 40)])
def test_mel_filters_agree_with_librosa(fft_size: int, num_mels: int) -> None:
    librosa = pytest.importorskip("librosa")
    ours = audio.mel_filters(24_000, fft_size, num_mels)
    assert ours.shape == (num_mels, fft_size // 2 + 1)
    reference = librosa.filters.mel(sr=24_000, n_fft=fft_size, n_mels=num_mels, norm="slaney")
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-6)


def test_a_tone_lights_its_own_band() -> None:
    filters = audio.mel_filters(24_000, 2048, 64)
    spectrum = np.abs(np.fft.rfft(tone(2000.0).samples[0, :2048] * np.hanning(2048)))
    edges = audio.mel_to_hz(np.linspace(0, float(audio.hz_to_mel(12_000)), 66))
    band = int((filters.numpy() @ spectrum).argmax())
    assert edges[band] < 2000 < edges[band + 2]
    assert math.isfinite(float(filters.sum()))
