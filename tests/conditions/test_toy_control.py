"""A control by frame that is registered here alone goes all the way: from a track's metadata through preprocessing,
both trainings and the export to Python and HTTP, and the music is made from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from serve.api import make_api
from serve.language_model import LanguageModel
from serve.renderer import Renderer
from serve.service import Service
from ssmttm import config
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.store import save_codec
from ssmttm.conditions.base import Conditions, ControlConditioner, Excerpt
from ssmttm.conditions.registry import CONDITIONERS
from ssmttm.config import Config
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.sources.manifest import Track, write_manifest
from ssmttm.tokens.read import TokenDataset
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train
from ssmttm.training.stage1 import Stage1Task

PITCHES = (220.0, 440.0, 880.0, 1760.0)
SECONDS = 2.0
CAPTIONS = ("a tone", "one long note", "a steady sound", "slow calm music")  # they say nothing of the height


class Height(ControlConditioner):
    """Which of four tones is heard: one channel for each, known where the track's tags name it."""

    name, channels, dropout = "height", len(PITCHES), 0.3

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        height = excerpt.metadata["tags"].get("height")
        return None if height is None else self.encode(height, excerpt.frames, excerpt.frame_rate)

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        if value not in range(len(PITCHES)):
            raise UserError(f"controls.height is {value!r}; give a whole number from 0 to {len(PITCHES) - 1}")
        return np.repeat(np.eye(len(PITCHES))[:, [value]], frames, axis=1)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    CONDITIONERS[Height.name] = Height
    yield
    del CONDITIONERS[Height.name]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Tones whose captions say nothing of their height, their codec and tokens; every eighth has no tag either."""
    folder = tmp_path_factory.mktemp("height")
    paths = {"corpus.source": "corpus", "corpus.out": "tokens", "codec.path": "codec"}
    paths |= {"train.data": "tokens", "train.out": "runs"}
    overrides = [f"{key}={folder / name}" for key, name in paths.items()]
    overrides += ["corpus.controls=[height]", "corpus.duplicates=keep", "train.launch=local", "tracking.enabled=false"]
    overrides += [
        "stage1.token_dropout=0.9",
        "stage1.dropout=0",
        "stage1.controls_alone=0",  # the captions tell nothing of it anyhow
        "train.lr=5e-3",
        "train.samples=0",
        "stage2.objective=regression",
    ]
    settings = config.load("tiny", [*overrides, "train.validation_rows=8", "codec.codebook_size=16"])
    (folder / "corpus").mkdir()
    tracks, clips = [], []
    time = np.arange(int(SECONDS * settings.codec.sample_rate)) / settings.codec.sample_rate
    for number in range(40):
        height = number % len(PITCHES)
        clips.append((0.5 * np.sin(2 * np.pi * PITCHES[height] * time + number)).astype(np.float32))
        soundfile.write(folder / "corpus" / f"{number}.wav", clips[-1], settings.codec.sample_rate)
        tags = {} if number % 8 == 7 else {"height": height}
        split = "val" if number < 8 else "train"
        entry = (
            f"{number}.wav",
            (CAPTIONS[number // 4 % 4],),
            split,
            "CC0-1.0",
            "a",
            "t",
            "https://example.org",
            SECONDS,
            tags,
        )
        tracks.append(Track(f"tone{number}", *entry))
    write_manifest(f"{folder / 'corpus'}/manifest.jsonl", tracks)
    codec = MiniCodec(settings.codec)
    codec.fit(clips, seed=0, progress=False)
    save_codec(codec, settings.codec.path)
    preprocess_local(settings)
    return settings


def with_training(settings: Config, **changes: Any) -> Config:
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


@pytest.fixture(scope="module")
def bundle(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = {}
    for stage, steps in (("stage1", 300), ("stage2", 20)):
        training = {"steps": steps, "checkpoint_every": steps, "validate_every": steps, "warmup_steps": 5}
        runs[stage] = train(
            settings.model_copy(update={"train": settings.train.model_copy(update=training)}), stage
        ).uri
    out = str(tmp_path_factory.mktemp("bundle"))
    export_bundle(runs["stage1"], runs["stage2"], out)
    return out


def test_preprocessing_keeps_it_beside_the_codes(settings: Config) -> None:
    data = TokenDataset.open(settings.train.data, "train", with_fine=False)
    assert data.controls == {"height": 4}
    for row, told in enumerate(data.rows):
        values_CT = data.control(row, "height")
        assert values_CT.shape == (4, told["frames"])
        height = data.tags(row).get("height")
        assert np.isnan(values_CT).all() if height is None else (values_CT.argmax(0) == height).all()


@torch.no_grad()
def test_stage_1_learns_from_it(settings: Config, bundle: str) -> None:
    """Held-out loss with the control, and without it, from the weights of the bundle."""
    task = Stage1Task(settings)
    lm = Generator.load(bundle).bundle.lm
    batch = task.collate_validation(list(range(8)), "own")
    tagged = [i for i in range(8) if "height" in task.validation.data.tags(i)]
    assert len(tagged) == 7

    def loss(conditions: Conditions) -> float:
        """Of the first frame, of which nothing else tells."""
        logits_RV = lm(batch.delayed_BKS, conditions)[tagged, 0, 0]
        return float(F.cross_entropy(logits_RV, batch.delayed_BKS[tagged, 0, 0]))

    own, without = loss(batch.conditions), loss(batch.conditions.as_null(["height"]))
    assert own < 0.5 * without
    assert loss(Conditions({"text": batch.conditions["text"]})) == pytest.approx(without)


def test_stage_2_learns_to_hear_it(bundle: str) -> None:
    state = weights.load_tensors(f"{bundle}/stage2.safetensors")
    assert state["denoiser.inputs.height.proj.weight"].abs().max() > 0


def test_it_is_asked_for_in_python(settings: Config, bundle: str) -> None:
    """Each asked tone is the loudest of the four in its own clip more often than chance allows."""
    generator = Generator.load(bundle)

    def loudest(height: int, seed: int) -> int:
        clip = generator.generate("a tone", 2.0, seed=seed, guidance=2.0, temperature=0.7, controls={"height": height})
        spectrum = np.abs(np.fft.rfft(clip.samples[0]))
        places = [round(pitch * clip.samples.shape[1] / clip.sample_rate) for pitch in PITCHES]
        return int(np.argmax([spectrum[place - 8 : place + 9].sum() for place in places]))

    hits = [loudest(height, seed) == height for height in range(4) for seed in range(3)]
    assert sum(hits) >= 8  # by chance 3 of 12


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"height": 9}, r"controls\.height is 9; give a whole number from 0 to 3"),
        ({"depth": 1}, r"cannot be asked by depth; it takes controls\.height"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(bundle: str, controls: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Generator.load(bundle).generate("a tone", 1.0, controls=controls)


def test_weights_of_before_learn_it(settings: Config, tiny_config: Config, tmp_path: Path) -> None:
    """A run on shards with the control starts from one that never heard of it: the same function, until it learns."""
    before = settings.model_copy(
        update={
            "corpus": settings.corpus.model_copy(update={"controls": (), "out": str(tmp_path / "plain")}),
            "train": settings.train.model_copy(
                update={"data": str(tmp_path / "plain"), "out": str(tmp_path), "steps": 2}
            ),
        }
    )
    preprocess_local(before)
    old = train(before, "stage1")
    new = train(with_training(settings, init=old.uri, out=str(tmp_path), name="tuned", steps=2), "stage1")
    stored = weights.load_tensors(f"{new.weights}/model.safetensors")
    assert set(stored) - set(weights.load_tensors(f"{old.weights}/model.safetensors")) == {"inputs.height.proj.weight"}


def test_it_is_asked_for_over_http(bundle: str) -> None:
    language_model = LanguageModel(bundle, slots=2)
    renderer = Renderer(bundle, language_model)
    api = make_api(Service(language_model, renderer))

    async def call(controls: dict[str, int]) -> httpx.Response:
        body = {"prompt": "a tone", "seconds": 1, "seed": 1, "guidance": 1, "controls": controls}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/music/generations", json=body, timeout=120)

    try:
        low, high, unknown = (asyncio.run(call(one)) for one in ({"height": 0}, {"height": 3}, {"depth": 1}))
    finally:
        language_model.close()
        renderer.close()
    assert (low.status_code, high.status_code) == (200, 200)
    assert low.content != high.content
    assert unknown.status_code == 400
    assert "cannot be asked by depth; it takes controls.height" in unknown.text
