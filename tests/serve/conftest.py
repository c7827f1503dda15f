from __future__ import annotations

import pytest
from tiny_bundle import shared_bundle


@pytest.fixture(scope="session")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_bundle(tmp_path_factory)
