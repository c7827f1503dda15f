"""The model that comes with the package: complete, small, nothing to unpickle, and heard."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import yaml

from ssmttm import storage
from ssmttm.bundle.load import shipped_bundle
from ssmttm.engine.generator import Generator

LARGEST, LARGEST_FILE = 32_000_000, 16 * 2**20  # bytes
PROMPT = "a driving techno track with a saw lead at 130 bpm"


@pytest.fixture(scope="module")
def shipped() -> Path:
    return Path(shipped_bundle())


@pytest.fixture(scope="module")
def model() -> Generator:
    return Generator.load(device="cpu")


def test_it_is_small_and_holds_nothing_that_runs(shipped: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in shipped.iterdir()}
    assert sum(sizes.values()) <= LARGEST
    assert max(sizes.values()) < LARGEST_FILE
    assert all(name.endswith((".json", ".safetensors", ".md", ".csv")) for name in sizes)
    assert set(storage.read_commit(str(shipped), "bundle.json", verify=True)["files"]) == sizes.keys() - {"bundle.json"}


def test_its_card_says_what_it_learned_from_and_what_it_reached(shipped: Path) -> None:
    card = (shipped / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n", 2)[1])
    assert all(set(data["hours_by_licence"]) == {"CC0-1.0"} for data in header["training_data"])
    for expected in ("FLOPs", "hours", "Results on held-out prompts", "genre", "tempo", "key"):
        assert expected in card


def test_every_recording_it_learned_from_is_named(shipped: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((shipped / "ATTRIBUTION.csv").read_text())))
    hours = yaml.safe_load((shipped / "README.md").read_text().split("---\n", 2)[1])["training_data"][0]
    assert len(rows) * 10 / 3600 >= hours["hours_by_licence"]["CC0-1.0"]  # and what it had learned from before
    assert len({row["source_id"] for row in rows}) == len(rows)
    assert {row["licence"] for row in rows} == {"CC0-1.0"}


def test_it_makes_music(model: Generator) -> None:
    clip = model.generate(PROMPT, seconds=4, seed=0)
    assert clip.samples.shape == (1, 4 * model.sample_rate)
    assert np.isfinite(clip.samples).all()
    assert np.abs(clip.samples).max() < 1
    level = np.sqrt(np.mean(clip.samples.reshape(8, -1) ** 2, axis=1))
    assert (level > 0.01).all()  # no half second is silent
    power = np.abs(np.fft.rfft(clip.samples[0])) ** 2 + 1e-12
    assert np.exp(np.log(power).mean()) / power.mean() < 0.2  # spectral flatness; noise has about .56


def test_what_is_asked_changes_what_is_heard(model: Generator) -> None:
    first, second = (model.generate(prompt, seconds=2, seed=0).samples for prompt in (PROMPT, "calm solo piano"))
    assert np.abs(first - second).max() > 0.05
