from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_bundle import write_tiny_bundle

from ssmttm import storage
from ssmttm.bundle.load import load_bundle, read_model_id
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError


@pytest.fixture
def copied(bundle_uri: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_uri, tmp_path / "bundle"))


def test_a_bundle_holds_what_it_says(bundle_uri: str) -> None:
    names = set(storage.list_files(bundle_uri))
    assert {"config.json", "stage1.safetensors", "stage2.safetensors", "codec.safetensors"} <= names
    assert {"codec.json", "README.md", "ATTRIBUTION.csv", "bundle.json"} <= names
    assert all(name.endswith((".json", ".safetensors", ".md", ".csv")) for name in names)  # nothing that runs
    assert set(storage.read_commit(bundle_uri, "bundle.json")["files"]) == names - {"bundle.json"}


def test_it_names_no_path_of_the_machine_that_made_it(bundle_uri: str) -> None:
    for name in ("config.json", "codec.json", "README.md"):
        text = storage.read_text(storage.join(bundle_uri, name))
        assert "runs/" not in text
        assert str(Path(bundle_uri).parent) not in text


def test_the_model_card(bundle_uri: str) -> None:
    card = storage.read_text(storage.join(bundle_uri, "README.md"))
    assert f"\n# {read_model_id(bundle_uri)}\n" in card
    for expected in ("2.00 hours", "CC0-1.0", "1.00e+12 FLOPs", "0.50 hours", "Apache-2.0", "genre", "Limitations"):
        assert expected in card


def test_the_card_says_what_was_let_in_and_learned_from(bundle_uri: str) -> None:
    card = storage.read_text(storage.join(bundle_uri, "README.md"))
    _, header, text = card.split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["pipeline_tag"] == "text-to-audio"
    assert values["training_data"] == [
        {
            "name": "0123abcd",
            "stages": ["stage1", "stage2"],
            "allow_licences": ["CC0-1.0", "CC-BY"],
            "hours_by_licence": {"CC0-1.0": 2.0},
            "rejects": 3,
        }
    ]
    assert "license" not in values  # of the weights: not ours to say
    assert "| 0123abcd | CC0-1.0 | 2.00 |" in text
    assert "| 0123abcd | stage1, stage2 | CC0-1.0, CC-BY | 3 |" in text


def test_the_same_weights_have_the_same_name(bundle_uri: str, tmp_path: Path) -> None:
    assert read_model_id(write_tiny_bundle(str(tmp_path))) == read_model_id(bundle_uri)
    assert read_model_id(bundle_uri).startswith("ssmttm-tiny-")


def test_a_vocoder_travels_along(bundle_uri: str, tmp_path: Path) -> None:
    """Heard in the audio and in the name; tokens stay those of the codec without it."""
    uri = write_tiny_bundle(str(tmp_path), "codec.vocoder=neural")
    files = storage.read_commit(uri, "bundle.json", verify=True)["files"]
    assert "vocoder.safetensors" in files
    assert read_model_id(uri) != read_model_id(bundle_uri)
    loaded = load_bundle(uri)
    assert loaded.codec.fingerprint() == load_bundle(bundle_uri).codec.fingerprint()
    assert loaded.codec.describe_vocoder() is not None
    clip = Generator(loaded).generate("techno", 1.0, seed=3)
    assert not np.array_equal(clip.samples, Generator.load(bundle_uri).generate("techno", 1.0, seed=3).samples)


def test_a_bundle_travels(copied: Path, generator: Generator) -> None:
    moved = copied.rename(copied.parent / "elsewhere")
    clip = Generator.load(str(moved)).generate("techno", 1.0, seed=3)
    assert np.array_equal(clip.samples, generator.generate("techno", 1.0, seed=3).samples)


def test_object_storage_works(generator: Generator) -> None:
    remote = write_tiny_bundle("memory://parts")
    clip = Generator.load(remote).generate("techno", 1.0, seed=3)
    assert np.array_equal(clip.samples, generator.generate("techno", 1.0, seed=3).samples)


def test_half_precision_halves_the_models_and_little_else(bundle_uri: str, tmp_path: Path) -> None:
    half = write_tiny_bundle(str(tmp_path), half=True)
    for name in ("stage1.safetensors", "stage2.safetensors"):
        sizes = [Path(folder, name).stat().st_size for folder in (half, bundle_uri)]
        assert 0.5 < sizes[0] / sizes[1] < 0.65
    exact, rounded = load_bundle(bundle_uri, "cpu"), load_bundle(half, "cpu")
    assert read_model_id(half) != read_model_id(bundle_uri)
    for before, after in ((exact.lm, rounded.lm), (exact.completer, rounded.completer)):
        for (name, full), value in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
            assert value.dtype == full.dtype
            if full.ndim > 1:
                assert torch.equal(value, full.half().to(full.dtype)), name
            else:
                assert torch.equal(value, full), name


def test_models_are_ready_to_use(generator: Generator) -> None:
    for module in (generator.bundle.lm, generator.bundle.completer, generator.bundle.codec):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no bundle at .*make demo.*--bundle"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize("name", ["stage1.safetensors", "codec.json", "config.json"])
def test_damage_is_found(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match=f"damaged: {name}"):
        load_bundle(str(copied))


def test_a_missing_part_is_found(copied: Path) -> None:
    (copied / "stage2.safetensors").unlink()
    with pytest.raises(UserError, match=r"stage2\.safetensors is missing"):
        load_bundle(str(copied))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "format", 99, "bundle format 99"),
        ("text", "fingerprint", "other", "is another than the model was"),
    ],
)
def test_what_cannot_be_read_is_refused(
    copied: Path, section: str | None, key: str, value: object, message: str
) -> None:
    content = storage.read_json(str(copied / "config.json"))
    (content if section is None else content[section])[key] = value
    storage.write_json(str(copied / "config.json"), content)
    storage.write_commit(str(copied), "bundle.json", {"model_id": "x"})
    with pytest.raises(UserError, match=message):
        load_bundle(str(copied))
