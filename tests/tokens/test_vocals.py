"""Vocal removal on a tiny random HTDemucs in the published layout. What needs demucs is skipped where it is missing:
`pip install 'ssmttm[vocals]'` brings it."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.tokens.vocals import FILE_VARIABLE, MODEL_CLASS, VocalRemover

SIZES = {
    "sources": ["drums", "vocals", "bass"],
    "channels": 4,
    "growth": 1,
    "dconv_comp": 2,
    "t_layers": 1,
    "t_heads": 2,
}
RATE = 44_100


def write_weights(path: Path, klass: str = MODEL_CLASS, **changes) -> str:
    """A random model as demucs' tools/export_hf.py writes it."""
    demucs = pytest.importorskip("demucs.htdemucs")
    torch.manual_seed(0)
    model = demucs.HTDemucs(**SIZES, segment=Fraction(1, 2), **changes)
    segment = {"_type": "fraction", "numerator": 1, "denominator": 2}
    kwargs = json.dumps({**SIZES, "segment": segment, **changes})
    save_file(model.state_dict(), path, metadata={"klass": klass, "args": "[]", "kwargs": kwargs})
    return str(path)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = write_weights(tmp_path / "955717e8.safetensors")
    monkeypatch.setenv(FILE_VARIABLE, path)
    return path


def noise(channels: int, samples: int, rate: int = RATE) -> Audio:
    values = np.random.default_rng(samples).standard_normal((channels, samples), dtype=np.float32)
    return Audio(values * np.float32(0.1) + np.float32(0.01), rate)


def test_what_is_left_is_the_sum_of_the_other_stems(weights: str) -> None:
    from demucs.apply import apply_model
    from demucs.hf import load_safetensors_model

    mix = noise(2, RATE)
    mix_CN = torch.from_numpy(mix.samples)
    offset, scale = mix_CN.mean(), mix_CN.mean(0).std()
    drums, _, bass = apply_model(load_safetensors_model(weights), ((mix_CN - offset) / scale)[None], shifts=0)[0]
    left = VocalRemover()(mix)
    torch.testing.assert_close(torch.from_numpy(left.samples), (drums + bass) * scale + offset, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("samples", "rate"), [(RATE, RATE), (32_001, 48_000), (8_003, 16_000), (96_001, 96_000)])
def test_rate_channels_and_length_are_kept(weights: str, channels: int, samples: int, rate: int) -> None:
    mix = noise(channels, samples, rate)
    left = VocalRemover()(mix)
    assert left.samples.shape == mix.samples.shape
    assert (left.sample_rate, left.samples.dtype) == (rate, np.float32)
    assert np.isfinite(left.samples).all()


def test_mono_is_the_mean_of_two_equal_channels(weights: str) -> None:
    mono = noise(1, RATE)
    stereo = Audio(np.repeat(mono.samples, 2, axis=0), RATE)
    remover = VocalRemover()
    np.testing.assert_array_equal(remover(mono).samples[0], remover(stereo).samples.mean(0))


def test_the_same_audio_gives_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a model that was trained to draw its positions at random."""
    monkeypatch.setenv(FILE_VARIABLE, write_weights(tmp_path / "shifts.safetensors", t_sin_random_shift=1000))
    first, second = VocalRemover(), VocalRemover()
    mix = noise(2, RATE)
    left = first(mix).samples
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(left, first(mix).samples)
    assert np.array_equal(left, second(mix).samples)


def test_silence_stays_silent(weights: str) -> None:
    assert np.abs(VocalRemover()(Audio(np.zeros((2, RATE), np.float32), RATE)).samples).max() < 1e-6


def test_surround_is_refused(weights: str) -> None:
    with pytest.raises(UserError, match="not from 6 channels"):
        VocalRemover()(noise(6, 100))


@pytest.mark.parametrize("klass", ["os.system", "demucs.hdemucs.HDemucs"])
def test_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, klass: str) -> None:
    monkeypatch.setenv(FILE_VARIABLE, write_weights(tmp_path / "other.safetensors", klass))
    with pytest.raises(UserError, match="is no htdemucs model"):
        VocalRemover()


def test_models_without_vocals_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "sources", ["drums", "bass"])
    monkeypatch.setenv(FILE_VARIABLE, write_weights(tmp_path / "two.safetensors"))
    with pytest.raises(UserError, match="only drums, bass"):
        VocalRemover()


def test_missing_and_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("demucs.hf")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match=r"none\.safetensors is no file"):
        VocalRemover()
    (tmp_path / "none.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="is no safetensors file"):
        VocalRemover()


def test_weights_from_the_hub(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: from the cache, or an error that says what to do."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.delenv(FILE_VARIABLE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(UserError, match=f"set {FILE_VARIABLE} to its path"):
        VocalRemover()
    repository = cache / "models--adefossez--HTDemucs"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    Path(weights).rename(snapshot / "955717e8.safetensors")
    assert VocalRemover().fingerprint


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("demucs", "demucs.hf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"demucs\S* is not installed; .*ssmttm\[vocals\]"):
        VocalRemover()
