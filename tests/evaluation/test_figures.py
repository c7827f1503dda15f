"""Figures of whole sets: they order what they must, and say why where they cannot be had."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_checkpoints import write_ast, write_clap

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.evaluation.clips import Clip, read_folder
from ssmttm.evaluation.figures import TITLES, WITH_WEIGHTS, Yardstick, figures_of
from ssmttm.evaluation.heard import Ears, Heard, hear, read
from ssmttm.evaluation.intervals import Figure
from ssmttm.evaluation.novelty import Neighbours
from ssmttm.evaluation.published import Clap, Tagger

RATE, SECONDS, CLIPS = 24_000, 2.0, 8


def music(seed: int) -> np.ndarray:
    """Notes with harmonics and a decay, on a beat of their own."""
    random = np.random.default_rng(seed)
    length = round(RATE * random.choice([0.2, 0.25, 0.4]))
    notes = []
    for hz in 110 * 2 ** (random.integers(0, 36, 12) / 12):
        time = np.arange(length) / RATE
        notes.append(sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 9)) * np.exp(-8 * time))
    wav = np.tile(np.concatenate(notes), 3)[: round(SECONDS * RATE)]
    return (0.3 * wav + 0.002 * random.normal(size=len(wav))).astype(np.float32)


def noise(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=round(SECONDS * RATE)) * 0.1).astype(np.float32)


def through_mp3(wav: np.ndarray, level: float) -> np.ndarray:
    """As a constant-rate MP3: `level` 0 is the highest rate that libsndfile has, 1 the lowest."""
    buffer = io.BytesIO()
    soundfile.write(
        *(buffer, wav, RATE), format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=level
    )
    kbps = len(buffer.getvalue()) * 8 / SECONDS / 1000
    decoded = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")[0]
    through_mp3.rates[level] = kbps  # type: ignore[attr-defined]
    return decoded[: len(wav)]


through_mp3.rates = {}  # type: ignore[attr-defined]


def write_set(folder: Path, wavs: list[np.ndarray]) -> list[Clip]:
    for i, wav in enumerate(wavs):
        audio.write(str(folder / f"{i:02d}.wav"), Audio(wav[None], RATE))
    return read_folder(str(folder), {f"{i:02d}": f"slow piano {'abcdefghijkl'[i]}" for i in range(len(wavs))})


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Heard]:
    wavs = {
        "reference": [music(seed) for seed in range(CLIPS)],
        "real": [music(seed) for seed in range(100, 100 + CLIPS)],
        "noise": [noise(seed) for seed in range(CLIPS)],
        "mp3-high": [through_mp3(music(seed), 0.6) for seed in range(CLIPS)],
        "mp3-low": [through_mp3(music(seed), 0.99) for seed in range(CLIPS)],
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in wavs}
    return {name: hear(name, read(name, write_set(folders[name], one), SECONDS), Ears()) for name, one in wavs.items()}


@pytest.fixture(scope="module")
def yardstick(sets: dict[str, Heard]) -> Yardstick:
    reference = sets["reference"]
    return Yardstick(0, 20, reference)


def test_real_music_beats_noise(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    real, noisy = (figures_of(sets[name], yardstick) for name in ("real", "noise"))
    for name in ("frechet_logmel", "kad_logmel"):
        assert real[name].high < noisy[name].low, name
    assert real["flatness"].high < noisy["flatness"].low


def test_a_higher_mp3_rate_beats_a_lower_one(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    high, low = through_mp3.rates[0.6], through_mp3.rates[0.99]  # type: ignore[attr-defined]
    assert (high, low) == (pytest.approx(64, rel=0.15), pytest.approx(8, rel=0.25))
    better, worse = (figures_of(sets[name], yardstick) for name in ("mp3-high", "mp3-low"))
    assert better["frechet_logmel"].high < worse["frechet_logmel"].low
    assert better["kad_logmel"].value < worse["kad_logmel"].value


def test_every_figure_says_what_it_is(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    figures = figures_of(sets["real"], yardstick)
    assert list(figures) == list(TITLES)
    for name, figure in figures.items():
        if figure.value is None:
            assert figure.reason, name
        else:
            assert (figure.n, figure.draws, figure.seed) == (CLIPS, 20, 0)
            assert figure.seconds == SECONDS
            assert figure.low <= figure.value <= figure.high
    assert {figures[name].value for name in WITH_WEIGHTS} == {None}
    assert figures["frechet_logmel"].reference == "reference"
    assert figures["frechet_logmel"].n_reference == CLIPS
    assert "not comparable" in figures["frechet_logmel"].note
    assert "sigma" in figures["kad_logmel"].note
    assert figures == figures_of(sets["real"], yardstick)


def test_without_a_reference_there_are_no_distances(sets: dict[str, Heard]) -> None:
    figures = figures_of(sets["real"], Yardstick(0, 20))
    for name in ("frechet_logmel", "kad_logmel", "nearest_training", "suspected_copies", "times_real_time"):
        assert figures[name].value is None
        assert figures[name].reason
    assert figures["loudness"].value is not None


def test_copies_of_training_clips_are_suspected(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    neighbours = Neighbours(np.concatenate([sets["real"].statistics, sets["noise"].statistics]))
    with_training = replace(yardstick, neighbours=neighbours)
    copied, fresh = (figures_of(sets[name], with_training) for name in ("real", "reference"))
    assert copied["suspected_copies"].value == 1
    assert copied["nearest_training"].value == pytest.approx(0, abs=1e-6)
    assert copied["nearest_training"].n_reference == 2 * CLIPS
    assert fresh["suspected_copies"].value <= 1 / CLIPS
    leaking = replace(with_training, reference=sets["real"])
    assert "8 reference clips are training clips" in figures_of(sets["real"], leaking)["suspected_copies"].reason


def test_speed_is_of_clips_that_were_made_here(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    made = [replace(clip, seconds=2.0, wall_s=0.5) for clip in sets["real"].clips]
    figure = figures_of(replace(sets["real"], clips=made), yardstick)["times_real_time"]
    assert (figure.value, figure.low, figure.high, figure.better) == (4, 4, 4, "higher")


def test_embeddings_made_elsewhere_are_compared(sets: dict[str, Heard], yardstick: Yardstick) -> None:
    random = np.random.default_rng(0)
    given = random.normal(size=(CLIPS, 5))
    with_given = replace(yardstick, given_name="vggish", given_reference=random.normal(3, 1, size=(20, 5)))
    figures = figures_of(sets["real"], with_given, given)
    assert figures["frechet_given"].value == pytest.approx(45, rel=0.4)
    assert figures["frechet_given"].embedding == "vggish"
    assert figures["kad_given"].n_reference == 20


def test_with_weights_all_figures_are_there(tmp_path: Path) -> None:
    clap, tagger = Clap(write_clap(tmp_path / "clap")), Tagger(write_ast(tmp_path / "ast"))
    ears = Ears(clap, tagger)
    folders = [tmp_path / name for name in ("reference", "made")]
    for folder in folders:
        folder.mkdir()
    reference, made = (
        hear(
            folder.name, read(folder.name, write_set(folder, [music(seed + shift) for seed in range(3)]), SECONDS), ears
        )
        for folder, shift in zip(folders, (0, 50), strict=True)
    )
    yardstick = Yardstick(0, 10, reference, clap, tagger.name)
    figures = figures_of(made, yardstick)
    for name in ("clap_score", "frechet_clap", "kad_clap", "kl_ast"):
        assert figures[name].value is not None, name
    assert -1 <= figures["clap_score"].value <= 1
    assert figures["frechet_clap"].embedding.startswith("CLAP clap (")
    assert figures["kl_ast"].value > 0
    own = figures_of(reference, yardstick)
    assert own["frechet_clap"].value == pytest.approx(0, abs=1e-6)
    assert own["kl_ast"].value == 0

    nameless = replace(made, clips=[replace(clip, prompt=None, id=f"x{clip.id}") for clip in made.clips])
    unknown = figures_of(nameless, yardstick)
    assert unknown["clap_score"] == Figure(None, better="higher", reason="clips without a known prompt")
    assert unknown["kl_ast"].reason == "the reference holds no real clip under each prompt's id"


def test_true_pairs_beat_shuffled_ones() -> None:
    """With a CLAP that hears what it reads, the score of true pairs is above that of any other pairing."""
    from ssmttm.evaluation.published import cosines

    random = np.random.default_rng(0)
    texts = random.normal(size=(20, 16))
    heard = texts + 0.5 * random.normal(size=(20, 16))
    assert cosines(heard, texts).mean() > 3 * cosines(heard, np.roll(texts, 1, axis=0)).mean()
