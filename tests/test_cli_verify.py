"""The verb `verify`: it knows what it is given, and says whether that is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Command

from ssmttm import config, storage
from ssmttm.training.checkpoint import Checkpoint, CheckpointStore, Progress
from ssmttm.training.launch import train


@pytest.fixture
def ssmttm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_bundle(ssmttm: Command, bundle_uri: str, tmp_path: Path) -> None:
    code, out, _ = ssmttm("verify", bundle_uri)
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith(f"whole: bundle {bundle_uri} (ssmttm-tiny-")
    copied = Path(shutil.copytree(bundle_uri, tmp_path / "bundle"))
    flip(copied / "ATTRIBUTION.csv")
    code, out, _ = ssmttm("verify", str(copied), bundle_uri)
    assert code == 1
    damaged, whole = out.splitlines()
    assert damaged.startswith(f"damaged: bundle {copied}: ATTRIBUTION.csv differs from its digest; ")
    assert whole.startswith("whole: bundle ")
    (copied / "bundle.json").unlink()
    code, out, _ = ssmttm("verify", str(copied))
    assert (code, "no bundle at" in out) == (1, True)


def test_tokens_and_their_codec(ssmttm: Command, tokens: str, tmp_path: Path) -> None:
    """A folder of several things is judged thing by thing."""
    both = Path(shutil.copytree(Path(tokens).parent, tmp_path / "both"))
    code, out, _ = ssmttm("verify", str(both))
    assert code == 0
    codec, dataset = sorted(out.splitlines())
    assert codec.startswith(f"whole: codec {both}/codec (mini, 4 x 64 codes, ")
    assert dataset.startswith(f"whole: dataset {both}/tokens (40 rows, 3 files, ")
    (both / "tokens" / "shards" / "part-00000.parquet").unlink()
    flip(both / "codec" / "codec.safetensors")
    code, out, _ = ssmttm("verify", f"{both}/")
    assert code == 1
    assert f"damaged: dataset {both}/tokens: shards/part-00000.parquet is missing; " in out
    assert f"damaged: codec {both}/codec: codec.safetensors " in out
    (both / "tokens" / "dataset.json").unlink()
    assert "no finished token shards" in ssmttm("verify", str(both / "tokens"))[1]


def test_a_run_with_its_checkpoints_and_weights(
    ssmttm: Command, make_config: Callable[..., config.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(train(make_config("stage1", "train.samples=0"), "stage1").uri)
    capsys.readouterr()
    code, out, _ = ssmttm("verify", str(run))
    lines = out.splitlines()
    assert code == 0, out
    assert lines[0].startswith(f"whole: run {run} (finished, ")
    assert lines[1].startswith(f"whole: checkpoint {run}/checkpoints/step-00")
    assert lines[-1].startswith(f"whole: weights {run}/weights (stage1, ")
    flip(run / "weights" / "model.safetensors")
    newest = sorted((run / "checkpoints").iterdir())[-1]
    flip(newest / "optimizer.safetensors")
    code, out, _ = ssmttm("verify", str(run))
    assert code == 1
    assert f"damaged: weights {run}/weights: " in out
    assert f"damaged: checkpoint {newest}: optimizer.safetensors differs from its digest; " in out


def test_a_checkpoint_alone(ssmttm: Command, tmp_path: Path) -> None:
    made = Checkpoint(Progress(step=7), {"w": torch.ones(2)}, {"step": torch.tensor(7.0)}, None, "stage2")
    folder = CheckpointStore(str(tmp_path), 1).save(made)
    assert ssmttm("verify", folder)[:2] == (0, f"whole: checkpoint {folder} (stage2, step 7)\n")
    storage.remove_tree(storage.join(folder, "checkpoint.json"))
    assert ssmttm("verify", folder)[0] == 1


def test_a_study(ssmttm: Command, tmp_path: Path) -> None:
    columns = "backbone,size,seed,width,layers,steps,lr,variant,params,tokens,flops,val_nats,seconds,status\n"
    row = "prefix_simba,2,0,64,2,10,0.001,,100,1000,1.0,3.2,5.0,{}\n"
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "study.csv").write_text(columns + row.format("done") + row.format("failed"))
    assert ssmttm("verify", str(tmp_path))[:2] == (0, f"whole: study {tmp_path} (1 of 2 trials done)\n")
    (tmp_path / "study.csv").write_text(columns + row.format("done") + "prefix_simba,2\n")
    code, out, _ = ssmttm("verify", str(tmp_path))
    assert (code, "study.csv has a row that is cut short" in out) == (1, True)


def test_a_manifest(ssmttm: Command, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"id": "a"}\n')
    for uri in (tmp_path, tmp_path / "manifest.jsonl"):
        code, out, _ = ssmttm("verify", str(uri))
        assert code == 1
        assert out.startswith(f"damaged: corpus {uri}: ")


def test_what_is_nothing_of_ours(ssmttm: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for uri in (tmp_path, tmp_path / "notes.txt", tmp_path / "nowhere", tmp_path / "none.jsonl"):
        code, _, err = ssmttm("verify", str(uri))
        assert code == 2
        assert err.startswith(f"error: {uri} holds nothing that ssmttm wrote; give a bundle, ")
        assert err.count("\n") == 1


def test_the_help_teaches(ssmttm: Command) -> None:
    code, out, _ = ssmttm("verify", "--help")
    assert code == 0
    for word in ("Exit code 0", "checkpoints", "Example: ssmttm verify"):
        assert word in " ".join(out.split())
