"""Bundles and checkpoints that somebody made to break their reader: each name says how, each change makes one of a good
one. Unless it says otherwise, a change is listed with the size and digest that it has, as its maker would."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

Change = Callable[[Path], None]
SPARSE = 1 << 40


def relist(folder: Path, commit: str) -> None:
    """List what is there as it is; what is too large to be read gets a digest that nobody can have checked."""
    content = json.loads((folder / commit).read_text())
    for name in content["files"]:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if size < 1 << 28 else "0" * 64
            content["files"][name] = {"bytes": size, "sha256": digest}
    (folder / commit).write_text(json.dumps(content))


def put(value: Any, *path: str) -> Callable[[Any], Any]:
    """A change of a JSON value: `value` at a place in it."""

    def change(content: Any) -> Any:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return content

    return change


def without(*path: str) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return content

    return change


def both(section: str, key: str, value: Any) -> Callable[[Any], Any]:
    """A stage's setting, in both places that name it."""

    def change(content: Any) -> Any:
        return put(value, section, "config", key)(put(value, "config", section, key)(content))

    return change


def table(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return apply


def text(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def tensors(name: str, change: Callable[[dict[str, Tensor]], None]) -> Change:
    def apply(folder: Path) -> None:
        state = safetensors.torch.load((folder / name).read_bytes())
        change(state)
        (folder / name).write_bytes(safetensors.torch.save(state))

    return apply


def header(name: str, change: Callable[[dict[str, Any]], Any], more: bytes = b"") -> Change:
    """Another header over the same data."""

    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        content = json.loads(data[8 : 8 + length])
        content.pop("__metadata__", None)
        made = change(content)
        packed = made if isinstance(made, bytes) else json.dumps(made).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + length :] + more)

    return apply


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def link(name: str, target: str) -> Change:
    return replaced(name, lambda path: path.symlink_to(target))


def sparse(name: str, size: int = SPARSE) -> Change:
    return lambda folder: os.truncate(folder / name, size)


def swollen(name: str) -> Change:
    """A tensor of a terabyte that header, size and listing agree on: a hole in the file."""

    def apply(folder: Path) -> None:
        packed = json.dumps({"x": {"dtype": "F32", "shape": [SPARSE // 4], "data_offsets": [0, SPARSE]}}).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(packed)) + packed)
        os.truncate(folder / name, 8 + len(packed) + SPARSE)

    return apply


def unlisted(commit: str, name: str) -> Change:
    return table(commit, without("files", name))


def of_tensors(name: str, listed: bool = True) -> dict[str, Change]:
    """What may be wrong with any safetensors file."""

    def first(state: dict[str, Tensor]) -> str:
        return min(key for key, value in state.items() if value.is_floating_point() and value.numel() > 1)

    def fill(value: float) -> Callable[[dict[str, Tensor]], None]:
        return lambda state: state[first(state)].view(-1)[-1:].fill_(value) and None

    def as_type(kind: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
        return lambda state: state.update({first(state): state[first(state)].to(kind)})

    def reshape(state: dict[str, Tensor]) -> None:
        state[first(state)] = torch.zeros(3, 5)

    def drop(state: dict[str, Tensor]) -> None:
        del state[first(state)]

    def entry(**values: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: {**content, min(content): {**content[min(content)], **values}}

    changes: dict[str, Change] = {
        "NaN": tensors(name, fill(float("nan"))),
        "infinite": tensors(name, fill(float("-inf"))),
        "empty": text(name, b""),
        "seven bytes": text(name, b"\x01" * 7),
        "no header": text(name, struct.pack("<Q", 0)),
        "header of 2**63": text(name, struct.pack("<Q", 2**63) + b"{}"),
        "header longer than the file": text(name, struct.pack("<Q", 10_000) + b"{}"),
        "header of a gigabyte": lambda folder: (text(name, struct.pack("<Q", 1 << 30))(folder), sparse(name)(folder))[
            1
        ],
        "header is no JSON": header(name, lambda _: b"{nothing}"),
        "header is a list": header(name, lambda _: b"[[[]]]"),
        "header nested deeply": header(name, lambda _: b"[" * 200_000),
        "header with a number of 9,000 digits": header(name, lambda _: b'{"x": ' + b"9" * 9000 + b"}"),
        "header knows no type": header(name, entry(dtype="F8_X")),
        "header has a negative shape": header(name, entry(shape=[-1, -4])),
        "header has an absurd shape": header(name, entry(shape=[2**62, 2**62])),
        "header has a thousand dimensions": header(name, entry(shape=[1] * 1000)),
        "header has shapes of text": header(name, entry(shape=["3"])),
        "header has offsets beyond the file": header(name, entry(data_offsets=[0, 2**60])),
        "header has offsets that overlap": header(name, entry(data_offsets=[0, 8], shape=[2])),
        "bytes after the end": header(name, lambda content: content, b"more"),
        "a terabyte": swollen(name),
        "cut": lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-16]) and None,
    }
    if listed:  # where it is known what there should be
        changes |= {
            "one missing": tensors(name, drop),
            "one more": tensors(name, lambda state: state.update({"more": torch.zeros(3)})),
            "one more, named in two lines": tensors(name, lambda state: state.update({"a\nb\x1b[31m": torch.zeros(3)})),
            "another shape": tensors(name, reshape),
            "float64": tensors(name, as_type(torch.float64)),
            "bfloat16": tensors(name, as_type(torch.bfloat16)),
            "whole numbers": tensors(name, as_type(torch.int64)),
            "nothing in it": text(name, struct.pack("<Q", 2) + b"{}"),
        }
    return {f"{name}: {how}": change for how, change in changes.items()}


def of_files(names: tuple[str, ...]) -> dict[str, Change]:
    """What may stand in the place of any file."""
    changes: dict[str, Change] = {}
    for name in names:
        changes |= {
            f"{name}: is missing": lambda folder, name=name: (folder / name).unlink(),  # type: ignore[misc]
            f"{name}: a pipe": replaced(name, os.mkfifo),
            f"{name}: a link to /dev/zero": link(name, "/dev/zero"),
            f"{name}: a link out": link(name, "/etc/passwd"),
            f"{name}: a link to itself": link(name, name),
            f"{name}: a folder": replaced(name, Path.mkdir),
            f"{name}: a hole of a terabyte": sparse(name),
        }
    return changes


def of_commit(commit: str, name: str) -> dict[str, Change]:
    """What may be wrong with a commit file that lists `name`."""
    return {
        f"{commit}: {how}": change
        for how, change in {
            "no JSON": text(commit, "{"),
            "a list": text(commit, "[]"),
            "nested deeply": text(commit, '{"files":' * 100_000),
            "a number of 9,000 digits": text(commit, '{"files": ' + "9" * 9000 + "}"),
            "not UTF-8": text(commit, b'{"files": "\xff"}'),
            "files are a list": table(commit, put([name], "files")),
            "files are numbers": table(commit, put(3, "files", name)),
            "no digest": table(commit, put({"bytes": 3}, "files", name)),
            "a size below zero": table(commit, put({"bytes": -3, "sha256": "0" * 64}, "files", name)),
            "another digest": table(commit, put("0" * 64, "files", name, "sha256")),
            "another size": table(commit, put(7, "files", name, "bytes")),
            "a name that leads out": table(commit, put({"bytes": 1, "sha256": "0" * 64}, "files", "../../x")),
            "a name from the root": table(commit, put({"bytes": 1, "sha256": "0" * 64}, "files", "/etc/passwd")),
            "a name that is an address": table(commit, put({"bytes": 1, "sha256": "0" * 64}, "files", "http://x/y")),
        }.items()
    }


NAMES = ("config.json", "stage1.safetensors", "stage2.safetensors", "codec.json", "codec.safetensors", "README.md")
DAC = {"name": "dac", "config": {"n_codebooks": 10**6, "codebook_size": 4, "codebook_dim": 2}}
ENCODEC = {"name": "encodec", "config": {"num_residual_layers": 10**9, "hidden_size": 2**30}}


def _config(path: tuple[str, ...], *values: Any) -> dict[str, Change]:
    return {
        f"config.json: {'.'.join(path)}={str(value)[:30]!r}": table("config.json", put(value, *path))
        for value in values
    }


def _setting(stage: str, key: str, *values: Any) -> dict[str, Change]:
    named = {f"config.json: {stage}.{key}={str(value)[:30]!r}": both(stage, key, value) for value in values}
    return {name: table("config.json", change) for name, change in named.items()}


# Of a bundle; those whose names are here keep the listing as the change left it.
BUNDLES: dict[str, Change] = {
    **of_files(NAMES),
    **of_files(("bundle.json",)),
    **of_commit("bundle.json", "stage1.safetensors"),
    **of_tensors("stage1.safetensors"),
    **of_tensors("stage2.safetensors"),
    **of_tensors("codec.safetensors"),
    **{f"{name}: not listed": unlisted("bundle.json", name) for name in NAMES},
    "bundle.json: no name": table("bundle.json", without("model_id")),
    "bundle.json: a name of two lines": table("bundle.json", put("a\nb", "model_id")),
    "bundle.json: a name of numbers": table("bundle.json", put(3, "model_id")),
    "bundle.json: an endless name": table("bundle.json", put("x" * 10_000, "model_id")),
    "config.json: no JSON": text("config.json", "{"),
    "config.json: a list": text("config.json", "[]"),
    "config.json: nested deeply": text("config.json", '{"config":' * 100_000),
    **{f"config.json: no {key}": table("config.json", without(key)) for key in ("config", "stage1", "codec", "text")},
    **{f"config.json: {key} is a list": table("config.json", put([], key)) for key in ("config", "stage1", "stage2")},
    **_config(("format",), 99, "1", None, True),
    **_config(("costs",), [], {"stage1": 3}, {"stage1": {"hours": "x"}}, {"stage1": {"hours": 1, "more": 2}}),
    **_config(("codec", "fingerprint"), "other", 3, None),
    **_config(("text", "fingerprint"), "other", 3),
    **_config(("text", "reference"), None, [], {}, {"encoder": "none-such", "max_tokens": 96}),
    **_config(("text", "reference", "max_tokens"), 10**12, -1, "96", None),
    **{
        f"config.json: text.path={path}": table(
            "config.json", put({"encoder": "transformers", "path": path, "max_tokens": 96}, "text", "reference")
        )
        for path in (
            *("http://127.0.0.1:9/t5", "https://x.invalid/t5", "s3://bucket/t5", "hf://google/t5", "ftp://x/y"),
            *("zip::http://x/y", "/nowhere/at/all", "/dev", "google/flan-t5-base", "../..", "", "a\nb"),
        )
    },
    **_config(("config", "preset"), 3),
    **_config(("config", "stage1", "backbone"), "transformer-x"),
    **_config(("config", "stage1", "widht"), 3),
    **_config(("config", "stage1", "width"), 4096),  # says two things
    **_config(("config", "generation", "window_frames"), 0, 3, 10**12, "many"),
    **_config(("config", "generation", "context_frames"), -1, 10**6),
    **_config(("config", "generation", "steps"), 0, None, 10**9),
    **_config(("config", "generation", "temperature"), float("nan"), float("inf"), -1),
    **_config(("config", "generation", "threads"), 0, 10**9),
    **_config(("config", "generation", "solver"), "euler; rm"),
    **_config(("stage1", "codebook_size"), 10**12, -1, "64", True, None, 63, float("nan")),
    **_config(("stage1", "text_dim"), 10**12, 0, 383),
    **_config(("stage1", "controls"), [], {"text": 3}, {"none-such": 3}, {"height": 10**12}),
    **_config(("stage2", "fine_dim"), 10**12, 0, 7),
    **_config(("stage2", "coarse_dim"), 10**12, 7),
    **_config(("stage2", "text_dim"), 10**12, 7),
    **_setting("stage1", "width", 131_072, 0, -4, 17, 2**62, 1e300),
    **_setting("stage1", "layers", 0, 10**6, 10**12),
    **_setting("stage1", "state_size", 0, 2**40),
    **_setting("stage1", "head_dim", 0, 10**9, 7),
    **_setting("stage1", "expand", 0, 10**9),
    **_setting("stage1", "conv_kernel", 0, 10**9),
    **_setting("stage1", "groups", 0, 10**9),
    **_setting("stage1", "mlp_ratio", 0, 1e300, float("nan")),
    **_setting("stage1", "num_codebooks", 0, 3, 10**9),
    **_setting("stage1", "backbone", "none-such", ["prefix_simba"], None),
    **_setting("stage2", "width", 131_072, 0, 17),
    **_setting("stage2", "layers", 0, 10**6),
    **_setting("stage2", "kernel_size", 0, 4, 10**9),
    **_setting("stage2", "expand", 0, 10**9),
    **_setting("stage2", "denoiser", "none-such", {}),
    **{
        f"codec.json: {key}={value}": table("codec.json", put(value, "config", key))
        for key, value in (
            *(
                ("num_mels", 10**9),
                ("num_mels", 0),
                ("num_mels", 32),
                ("fft_size", 10**9),
                ("fft_size", -2),
                ("hop", 0),
            ),
            *(("hop", 10**9), ("stack", 0), ("stack", 10**9), ("pca_dim", 10**9), ("num_codebooks", 10**9)),
            *(("num_codebooks", 2), ("codebook_size", 10**9), ("codebook_size", 63), ("sample_rate", 0)),
            *(("griffin_lim_iterations", 10**12), ("griffin_lim_iterations", 7), ("path", 3), ("none_such", 3)),
        )
    },
    "codec.json: no JSON": text("codec.json", "{"),
    "codec.json: a list": text("codec.json", "[]"),
    "codec.json: another format": table("codec.json", put(99, "format")),
    "codec.json: an unknown kind": table("codec.json", put("none-such", "name")),
    "codec.json: a kind that is a list": table("codec.json", put(["mini"], "name")),
    "codec.json: no table": table("codec.json", put([], "config")),
    "codec.json: another fingerprint": table("codec.json", put("0" * 64, "fingerprint")),
    "codec.json: an absurd DAC": table("codec.json", lambda content: content | DAC),
    "codec.json: an absurd EnCodec": table("codec.json", lambda content: content | ENCODEC),
    "codec.json: a vocoder that is not there": table("codec.json", put({"config": {}, "sha256": "0" * 64}, "vocoder")),
    "codec.json: a vocoder of nothing": table("codec.json", put(3, "vocoder")),
}

PARTS = ("model.safetensors", "optimizer.safetensors", "progress.json")
CHECKPOINTS: dict[str, Change] = {
    **of_files(PARTS),
    **of_files(("checkpoint.json",)),
    **of_commit("checkpoint.json", "model.safetensors"),
    **of_tensors("model.safetensors", listed=False),
    **of_tensors("optimizer.safetensors", listed=False),
    **{f"{name}: not listed": unlisted("checkpoint.json", name) for name in PARTS},
    "checkpoint.json: a task of numbers": table("checkpoint.json", put(3, "task")),
    "progress.json: no JSON": text("progress.json", "{"),
    "progress.json: a list": text("progress.json", "[]"),
    "progress.json: nothing": text("progress.json", "{}"),
    "progress.json: of another version": table("progress.json", put(3, "none_such")),
    **{
        f"progress.json: {key}={value!r}": table("progress.json", put(value, key))
        for key, value in (
            *(("step", -1), ("step", "2"), ("step", True), ("step", 2.5), ("step", 10**30), ("step", None)),
            *(("position", []), ("seconds", float("nan")), ("seconds", "x"), ("best_loss", float("inf"))),
        )
    },
}
KEEP = ("not listed", "digest", "size", "a name", "files are", "bundle.json", "checkpoint.json")


def make(good: Path, folder: Path, name: str, change: Change, commit: str) -> Path:
    """A copy of the good one, changed."""
    shutil.copytree(good, folder)
    change(folder)
    if not any(word in name for word in KEEP):
        relist(folder, commit)
    return folder
