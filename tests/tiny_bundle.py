"""A bundle of random weights: every part is real and small, so it makes noise in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.bundle.card import CardFields, TrainingCost, TrainingData
from ssmttm.bundle.save import write_bundle
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.store import load_codec, save_codec
from ssmttm.conditions.encoders import load_text_encoder
from ssmttm.config import Config
from ssmttm.model import weights
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM


def tones(clips: int, seconds: float, sample_rate: int) -> list[np.ndarray]:
    """Chords that are struck again and again, float32 [N] each."""
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    sounds = []
    for beat in random.uniform(0.2, 0.8, clips):
        chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in random.uniform(80, 4000, 3))
        sounds.append((0.2 * chord * np.exp(-3 * (time % beat))).astype(np.float32))
    return sounds


def write_parts(folder: str, config: Config, controls: Mapping[str, int] | None = None) -> dict[str, str]:
    """Fitted codec (with an untrained vocoder if the configuration wants one) and randomly initialised stages under
    `folder`, stage 2 only where stage 1 models codebook 0 alone; returns their URIs. `controls`: channels by name."""
    torch.manual_seed(0)
    codec = MiniCodec(config.codec)
    codec.fit(tones(config.codec.fit_clips, 3.0, config.codec.sample_rate), 0, False)
    if config.codec.vocoder == "neural":
        codec.add_vocoder(config.vocoder.model_dump())
    parts = {name: storage.join(folder, name) for name in ("codec", "stage1", "stage2")}
    save_codec(codec, parts["codec"])
    text_dim = load_text_encoder(config.text).dim
    features = codec.coarse(torch.arange(codec.codebook_size)[None])[0].T
    widths = {"text": text_dim, **(controls or {})}
    lm = MusicLM(config.stage1, codec.codebook_size, widths, features)
    completer = LatentCompleter(config.stage2, codec.fine_dim, codec.coarse_dim, widths)
    with torch.no_grad():  # layers that start at zero would hide the text and the noise
        for parameter in [*lm.parameters(), *completer.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    common = {"text_dim": text_dim} | ({"controls": dict(controls)} if controls else {})
    weights.save_model(
        parts["stage1"],
        "stage1",
        lm.state_dict(),
        {"config": config.stage1.model_dump(), "codebook_size": codec.codebook_size, **common},
    )
    if config.stage1.num_codebooks > 1:
        del parts["stage2"]
        return parts
    dims = {"fine_dim": codec.fine_dim, "coarse_dim": codec.coarse_dim}
    weights.save_model(
        parts["stage2"], "stage2", completer.state_dict(), {"config": config.stage2.model_dump(), **dims, **common}
    )
    return parts


def write_tiny_bundle(
    folder: str, *overrides: str, half: bool = False, controls: Mapping[str, int] | None = None
) -> str:
    """The URI of a complete bundle under `folder`."""
    config = configuration.load("tiny", list(overrides))
    parts = write_parts(folder, config, controls)
    encoder = load_text_encoder(config.text)
    out = storage.join(folder, "bundle")
    write_bundle(
        out,
        config,
        parts["stage1"],
        parts.get("stage2"),
        parts["codec"],
        load_codec(parts["codec"]).fingerprint(),
        {"reference": encoder.reference, "fingerprint": encoder.fingerprint},
        "title,artist,licence\nOne,Two,CC0-1.0\n",
        CardFields(
            [TrainingData("0123abcd", ("stage1", "stage2"), {"CC0-1.0": 7200.0}, ("CC0-1.0", "CC-BY"), 3)],
            {"stage1": TrainingCost(0.5, 1e12, 1000)},
            encoder.reference,
            {"genre": 0.5},
        ),
        half,
    )
    return out


def shared_single_stage(factory: pytest.TempPathFactory) -> str:
    """The same of a single stage that writes three of the codec's four codebooks."""
    folder = factory.getbasetemp() / "tiny-single-stage"
    done = folder / "bundle" / "bundle.json"
    return str(done.parent) if done.exists() else write_tiny_bundle(str(folder), "stage1.num_codebooks=3")


def shared_bundle(factory: pytest.TempPathFactory) -> str:
    """The session's one tiny bundle, for tests that only read it."""
    folder = factory.getbasetemp() / "tiny-bundle"
    done = folder / "bundle" / "bundle.json"
    return str(done.parent) if done.exists() else write_tiny_bundle(str(folder))
