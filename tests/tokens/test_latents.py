"""Fine latents on disk: the values that shards hold, at constant memory, copied once whatever happens meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssmttm import storage
from ssmttm.errors import DamagedError, UserError
from ssmttm.tokens import read as module
from ssmttm.tokens.read import TokenDataset
from ssmttm.tokens.schema import read_checked
from ssmttm.verified import File

READ_ALL = """
import hashlib, sys
from ssmttm.tokens.read import TokenDataset
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024
print("ready", flush=True)
sys.stdin.readline()
data, state, before = TokenDataset.open(sys.argv[1], "train"), hashlib.sha256(), status("VmRSS")
for row in range(len(data)):
    state.update(data.fine(row).tobytes())
print("grown", status("VmHWM") - before)
print("digest", state.hexdigest())
"""
KILLED = """
import os, signal, sys
from ssmttm.tokens import read as module
from ssmttm.tokens.read import TokenDataset
def read(file, columns, count=[0]):
    count[0] += columns == ["fine"]
    if count[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(file, columns)
original, module.read_checked = module.read_checked, read
TokenDataset.open(sys.argv[1], "train")
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssmttm" / "fine-latents"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix == ""]


def in_memory(tokens: str, split: str) -> list[np.ndarray]:
    """The same rows, read the obvious way."""
    shards = sorted((Path(tokens) / "shards").iterdir())
    rows = [row for shard in shards for row in pq.read_table(shard, filters=[("split", "=", split)]).to_pylist()]
    return [np.frombuffer(row["fine"], np.float16).reshape(-1, row["frames"]) for row in rows]


def digest_of(tokens: str) -> str:
    return hashlib.sha256(b"".join(value.tobytes() for value in in_memory(tokens, "train"))).hexdigest()


def start(script: str, tokens: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", script, tokens]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_large(folder: Path, shards: int, rows: int, row_bytes: int) -> str:
    """A dataset of nothing but fine latents."""
    (folder / "shards").mkdir(parents=True)
    (folder / "text").mkdir()
    generator, fine_dim = np.random.default_rng(0), 8
    frames = row_bytes // (2 * fine_dim)
    for shard in range(shards):
        table = [
            {
                **dict.fromkeys(("id", "source_id", "licence", "artist", "tags"), ""),
                **{
                    "split": "train",
                    "start_s": 0.0,
                    "duration_s": 1.0,
                    "frames": frames,
                    "codes": b"",
                    "text_keys": [],
                },
                "fine": generator.bytes(row_bytes),
            }
            for _ in range(rows)
        ]
        schema = pa.Table.from_pylist(table).schema
        names = schema.get_field_index("text_keys")
        schema = schema.set(names, pa.field("text_keys", pa.list_(pa.string())))
        pq.write_table(pa.Table.from_pylist(table, schema), folder / "shards" / f"part-{shard:05d}.parquet")
    storage.write_commit(str(folder), "dataset.json", {})
    return str(folder)


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_are_those_of_the_shards_in_any_order(tokens: str, cache: Path, split: str) -> None:
    data, expected = TokenDataset.open(tokens, split), in_memory(tokens, split)
    assert len(data) == len(expected)
    for row in [*range(len(data)), *reversed(range(len(data)))]:
        np.testing.assert_array_equal(data.fine(row), expected[row])
        assert data.fine(row).dtype == np.float16


def test_one_copy_serves_both_splits_and_every_dataset_of_the_same_content(
    tokens: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tokens, tmp_path / "elsewhere")
    commit = storage.read_json(str(other / "dataset.json"))
    storage.write_json(str(other / "dataset.json"), {**commit, "seconds": 1})  # says more of the same shards
    for uri in (tokens, tokens, str(other)):
        TokenDataset.open(uri, "train"), TokenDataset.open(uri, "val")
    assert len(copies(cache)) == 1
    assert capsys.readouterr().out.count("once per machine") == 1


def test_another_content_is_copied_anew(tokens: str, cache: Path, tmp_path: Path) -> None:
    TokenDataset.open(tokens, "train")
    other = shutil.copytree(tokens, tmp_path / "other")
    (other / "shards" / "part-00001.parquet").unlink()
    (other / "dataset.json").unlink()
    storage.write_commit(str(other), "dataset.json", {})
    assert len(TokenDataset.open(str(other), "train")) == 14
    np.testing.assert_array_equal(TokenDataset.open(str(other), "train").fine(13), in_memory(str(other), "train")[13])
    assert len(copies(cache)) == 2


def test_memory_stays_far_below_the_dataset(tmp_path: Path, cache: Path) -> None:
    """192 MiB in shards of 8: copying holds one of them, reading one row."""
    tokens = write_large(tmp_path / "tokens", shards=24, rows=32, row_bytes=2**18)
    output, errors = start(READ_ALL, tokens).communicate("\n", timeout=120)
    grown = re.search(r"grown (-?\d+)", output)
    assert grown, errors
    assert int(grown[1]) < 64 * 2**20
    assert f"digest {digest_of(tokens)}" in output


def test_two_processes_at_once_share_one_copy(tokens: str, cache: Path) -> None:
    TokenDataset.open(tokens, "train")
    (copy,) = copies(cache)
    copy.unlink()
    name = copy.name
    processes = [start(READ_ALL, tokens) for _ in range(2)]
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # both must come to wait for it
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            wait_until_locked_out(process.pid)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(f"digest {digest_of(tokens)}" in output for output in outputs)
    assert sum(output.count("once per machine") for output in outputs) == 1


def wait_until_locked_out(pid: int) -> None:
    """Until a process waits for a lock, as the kernel lists it (`->`)."""
    waiting = threading.Event()
    for _ in range(600):
        lines = Path("/proc/locks").read_text().splitlines()
        if any("-> FLOCK" in line and f" {pid} " in line for line in lines):
            return
        waiting.wait(0.1)
    raise AssertionError(f"{pid} does not wait for the lock")


def test_half_a_copy_left_by_a_killed_process_does_not_count(tokens: str, cache: Path) -> None:
    process = start(KILLED, tokens)
    process.communicate(timeout=120)
    assert process.returncode == -9
    assert copies(cache) == []
    assert len(list(cache.glob("*.partial"))) == 1
    data = TokenDataset.open(tokens, "train")
    for row, expected in enumerate(in_memory(tokens, "train")):
        np.testing.assert_array_equal(data.fine(row), expected)
    assert list(cache.glob("*.partial")) == []


def test_a_full_disk_is_named_and_left_clean(tokens: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"could not be copied to .*fine-latents .*No space left.*XDG_CACHE_HOME"):
        TokenDataset.open(tokens, "train")
    assert list(cache.glob("*.partial")) == copies(cache) == []


@pytest.mark.parametrize("cut", [1, 4000])
def test_a_copy_that_was_cut_is_refused(tokens: str, cache: Path, cut: int) -> None:
    TokenDataset.open(tokens, "train")
    (copy,) = copies(cache)
    os.truncate(copy, copy.stat().st_size - cut)

    def read() -> None:
        data = TokenDataset.open(tokens, "train")
        for row in range(len(data)):
            data.fine(row)

    with pytest.raises(UserError, match=r"is damaged; remove it and start again"):
        read()


def test_a_row_of_the_copy_that_changed_is_refused(tokens: str, cache: Path) -> None:
    """The disk is this machine's, but disks fail too: each row is compared with its checksum."""
    data = TokenDataset.open(tokens, "train")
    (copy,) = copies(cache)
    content = bytearray(copy.read_bytes())
    content[100] ^= 1  # of the first row, which is held out
    copy.write_bytes(content)
    held_out = TokenDataset.open(tokens, "val")
    with pytest.raises(DamagedError, match=rf"{copy} is damaged; remove it and start again"):
        held_out.fine(0)
    held_out.fine(1)
    data.fine(0)  # others are as they were


def test_remote_shards_are_read_once(tokens: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on no row touches the dataset's storage."""
    import fsspec

    remote = "memory://latents/tokens"
    fsspec.filesystem("memory").put(tokens, "/latents/tokens", recursive=True)
    data = TokenDataset.open(remote, "train")

    def read(file: File, columns: list[str]) -> pa.Table:
        assert "fine" not in columns
        return read_checked(file, columns)

    monkeypatch.setattr(module, "read_checked", read)
    again = TokenDataset.open(remote, "train")
    for row, expected in enumerate(in_memory(tokens, "train")):
        np.testing.assert_array_equal(data.fine(row), expected)
        np.testing.assert_array_equal(again.fine(row), expected)
