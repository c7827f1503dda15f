"""Fixtures shared by all tests: a tiny corpus, codec and token set, made once per session by the real code, and one
Ray cluster. All are lazy: a test file pays only for what it names."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings
from synthetic_tokens import make_codec, write_tokens
from tiny_bundle import shared_bundle

from ssmttm import audio, config
from ssmttm.hardware import torch_threads

if TYPE_CHECKING:
    from ssmttm.codec.base import Codec
    from ssmttm.conditions.encoders import TextEncoder
    from ssmttm.engine.generator import Generator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # jobs/ is not part of the installed package; Ray hands this path on to its workers

# Set before anything imports Ray: workers inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # report() waits one interval; the default is 2 s
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Not the machine's own soundfonts, of which some are large: that which pretty_midi carries.
if (package := importlib.util.find_spec("pretty_midi")) and package.origin:
    os.environ.setdefault("SSMTTM_SOUNDFONT", str(Path(package.origin).with_name("TimGM6mb.sf2")))

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY_CLIPS = 8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests copy to this machine's disk goes as they do."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_config(tiny_folder: Path) -> config.Config:
    """The `tiny` preset with every path inside the session's folder; nothing exists there yet."""
    paths = {
        "corpus.source": tiny_folder / "corpus",
        "corpus.out": tiny_folder / "tokens",
        "codec.path": tiny_folder / "codec",
        "train.data": tiny_folder / "tokens",
        "train.out": tiny_folder / "runs",
    }
    overrides = [f"{key}={path}" for key, path in paths.items()]
    return config.load("tiny", [*overrides, "train.launch=local", "tracking.enabled=false"])


@pytest.fixture(scope="session")
def tiny_corpus(tiny_config: config.Config) -> str:
    """Folder of a composed corpus: `TINY_CLIPS` clips of 3 s, two of them held out."""
    from ssmttm.sources.composed import compose_corpus

    corpus = tiny_config.corpus
    hours = TINY_CLIPS * corpus.clip_seconds / 3600
    compose_corpus(
        corpus.source,
        hours,
        seed=0,
        clip_seconds=corpus.clip_seconds,
        captions_per_track=corpus.captions_per_track,
        workers=1,
        progress=False,
    )
    return corpus.source


@pytest.fixture(scope="session")
def tiny_codec(tiny_config: config.Config, tiny_corpus: str) -> Codec:
    """`mini` codec of the tiny preset, fitted on the tiny corpus and saved to `codec.path`."""
    from ssmttm.codec.mini import MiniCodec
    from ssmttm.codec.store import save_codec
    from ssmttm.sources.readers import read_source

    tracks = read_source(tiny_corpus, tiny_config.corpus)
    codec = MiniCodec(tiny_config.codec)
    codec.fit([audio.read(track.audio).samples[0] for track in tracks], seed=0, progress=False)
    save_codec(codec, tiny_config.codec.path)
    return codec.eval()


@pytest.fixture(scope="session")
def tiny_tokens(tiny_config: config.Config, tiny_codec: Codec) -> str:
    """Folder of the tiny corpus' token shards."""
    from ssmttm.tokens.write import preprocess_local

    preprocess_local(tiny_config)
    return tiny_config.corpus.out


@pytest.fixture(scope="session")
def tiny_text_encoder(tiny_config: config.Config) -> TextEncoder:
    """The text encoder of the tiny preset (MiniLM), loaded once."""
    from ssmttm.conditions.encoders import load_text_encoder

    return load_text_encoder(tiny_config.text)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[dict[str, Any]]:
    """One local Ray cluster with two CPUs for the whole session."""
    import ray

    # Ray's socket paths must stay under 108 bytes, which pytest's own folders do not.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    context = ray.init(address="local", num_cpus=2, log_to_driver=False, _temp_dir=folder)
    yield dict(context.address_info)
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and results must not depend on their number."""
    with torch_threads():
        yield


@pytest.fixture(scope="session")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny bundle with random weights, to be read only."""
    return shared_bundle(tmp_path_factory)


@pytest.fixture(scope="session")
def generator(bundle_uri: str) -> Generator:
    from ssmttm.engine.generator import Generator

    return Generator.load(bundle_uri)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Synthetic token shards and the codec they belong to."""
    folder = tmp_path_factory.mktemp("synthetic")
    codec = make_codec(folder / "codec", config.load("tiny").codec)
    return write_tokens(folder / "tokens", codec)


@pytest.fixture
def make_config(tokens: str, tmp_path: Path) -> Callable[..., config.Config]:
    """A tiny configuration on the synthetic shards: in process, untracked, with the given overrides."""

    def make(stage: str = "stage1", *overrides: str) -> config.Config:
        fixed = [f"train.data={tokens}", f"train.out={tmp_path}", "train.launch=local", "tracking.enabled=false"]
        return config.load("tiny", [*fixed, *overrides], job=stage)

    return make
