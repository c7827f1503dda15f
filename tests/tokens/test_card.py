from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ssmttm import config, storage
from ssmttm.tokens.card import allow_list, dataset_card
from ssmttm.tokens.schema import COMMIT_NAME


@pytest.fixture
def dataset(tiny_tokens: str) -> dict[str, Any]:
    return storage.read_commit(tiny_tokens, COMMIT_NAME, verify=False)


def header(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_dataset_json_says_what_was_let_in(dataset: dict[str, Any], tiny_config: config.Config) -> None:
    assert tuple(dataset["allow_licences"]) == tiny_config.corpus.allow_licences
    assert dataset["seconds_by_licence"] == {"CC0-1.0": pytest.approx(24.0)}
    assert dataset["version"]
    older = {key: value for key, value in dataset.items() if key != "allow_licences"}
    assert allow_list(older) == allow_list(dataset) == tiny_config.corpus.allow_licences


def test_the_card_on_disk_has_the_hub_s_header(tiny_tokens: str, dataset: dict[str, Any]) -> None:
    card = Path(tiny_tokens, "README.md").read_text()
    values = header(card)
    assert values["license"] == "cc0-1.0"
    assert "license_name" not in values
    assert values["task_categories"] == ["text-to-audio"]
    assert values["language"] == ["en"]
    assert values["size_categories"] == ["n<1K"]
    assert values["allow_licences"] == dataset["allow_licences"]
    assert values["hours_by_licence"] == {"CC0-1.0": round(24 / 3600, 3)}
    assert values["pretty_name"]
    assert "music" in values["tags"]


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        ({"CC-BY": 7200.0}, "cc-by"),
        ({"own-work": 7200.0}, "own-work"),
        ({"CC-BY": 3600.0, "CC0-1.0": 3600.0}, "several"),
    ],
)
def test_families_without_a_version_are_other(dataset: dict[str, Any], seconds: dict[str, float], name: str) -> None:
    values = header(dataset_card({**dataset, "seconds_by_licence": seconds}))
    assert values["license"] == "other"
    assert values["license_name"] == name
    for family in seconds:
        assert family in values["license_details"]
    assert "ATTRIBUTION.csv" in values["license_details"]


@pytest.mark.parametrize(
    ("rows", "size"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (5_000_000, "1M<n<10M"), (10**8, "n>10M")],
)
def test_sizes(dataset: dict[str, Any], rows: int, size: str) -> None:
    assert header(dataset_card({**dataset, "rows": rows}))["size_categories"] == [size]


def test_the_card_states_allow_list_and_filters(dataset: dict[str, Any]) -> None:
    card = dataset_card(dataset)
    assert "Families let in: public-domain, CC0-1.0, CC-BY, CC-BY-SA, own-work." in card
    assert "| shortest segment | 1 s |" in card
    assert "| silence | refused where the peak is below -60 dBFS |" in card
    assert "| clipping | refused above 5% of samples at full scale |" in card
    assert "| loudness | as it was |" in card
    changes = {"loudness": -14.0, "vocals": "remove", "duplicates": "keep", "segments": "middle"}
    corpus = {**dataset["config"]["corpus"], **changes, "default_licence": "own-work"}
    card = dataset_card({**dataset, "config": {**dataset["config"], "corpus": corpus}})
    for line in ("brought to -14 LUFS", "removed by source separation", "twice | kept", "one from the middle"):
        assert line in card
    assert "| licence of tracks that state none | own-work |" in card


def test_the_card_names_no_folder(tiny_tokens: str, tiny_config: config.Config) -> None:
    card = Path(tiny_tokens, "README.md").read_text()
    assert str(Path(tiny_config.corpus.source).parent) not in card
