from __future__ import annotations

import pytest
from tiny_bundle import shared_bundle

from ssmttm.generation.generator import Generator


@pytest.fixture(scope="session")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_bundle(tmp_path_factory)


@pytest.fixture(scope="session")
def generator(bundle_uri: str) -> Generator:
    return Generator.load(bundle_uri)
