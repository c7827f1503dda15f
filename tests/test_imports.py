"""The library works in process: importing it brings in no Ray, DeepSpeed, MLflow or other optional dependency."""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ssmttm

NEVER_ON_IMPORT = {"ray", "deepspeed", "mlflow"}
OPTIONAL = {"transformers", "librosa", "sklearn", "matplotlib", "tinysoundfont", "pretty_midi", "mamba_ssm"}


def module_names() -> list[str]:
    return ["ssmttm", *(module.name for module in pkgutil.walk_packages(ssmttm.__path__, "ssmttm."))]


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_every_module_stays_light() -> None:
    code = f"""
import importlib, json, sys
culprits = {{}}
for name in {module_names()!r}:
    before = set(sys.modules)
    importlib.import_module(name)
    culprits |= {{top: name for top in {{new.split('.')[0] for new in set(sys.modules) - before}}}}
print(json.dumps(culprits))
"""
    loaded = json.loads(run_python(code))
    heavy = {package: loaded[package] for package in sorted(NEVER_ON_IMPORT | OPTIONAL) if package in loaded}
    assert not heavy, f"imported at module level (package: first module that did): {heavy}"


WHOLE_CHAIN = """
import sys
for name in ("ray", "deepspeed", "mlflow"):
    sys.modules[name] = None  # importing it raises ImportError

import numpy as np
import torch

torch.set_num_threads(1)
from ssmttm import audio, config
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.store import save_codec
from ssmttm.sources.composed import compose_corpus
from ssmttm.sources.readers import read_source
from ssmttm.tokens.write import preprocess_local
from ssmttm.engine.generator import Generator
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import train

root = sys.argv[1]
overrides = [f"corpus.source={root}/corpus", f"corpus.out={root}/tokens", f"codec.path={root}/codec"]
overrides += [f"train.data={root}/tokens", f"train.out={root}/runs", "train.launch=local", "train.steps=2"]
settings = config.load("tiny", overrides)
compose_corpus(f"{root}/corpus", 6 * 3 / 3600, seed=0, clip_seconds=3.0, captions_per_track=2, workers=1)
codec = MiniCodec(settings.codec)
tracks = read_source(f"{root}/corpus", settings.corpus)
codec.fit([audio.read(track.audio).samples[0] for track in tracks], seed=0, progress=False)
save_codec(codec, settings.codec.path)
preprocess_local(settings)
for stage in ("stage1", "stage2"):
    train(config.load("tiny", overrides, stage), stage)
export_bundle(f"{root}/runs/stage1", f"{root}/runs/stage2", f"{root}/bundle")
clip = Generator.load(f"{root}/bundle").generate("calm piano", seconds=1.0, seed=1)
assert clip.samples.shape == (1, 24_000) and np.isfinite(clip.samples).all()
print("made", clip.seconds)
"""


def test_the_whole_chain_runs_where_ray_deepspeed_and_mlflow_are_missing(tmp_path: Path) -> None:
    assert "made 1.0" in run_python(WHOLE_CHAIN, str(tmp_path))


def test_torchaudio_is_not_installed() -> None:
    # Its only wheels link CUDA: with CPU torch the import fails, and transformers imports it wherever it is installed.
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchaudio")
