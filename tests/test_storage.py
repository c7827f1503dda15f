"""Storage: URIs of any scheme behave alike; a commit file notices every change to what it lists."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm import storage
from ssmttm.errors import UserError

NAMES = st.sampled_from(["a.bin", "shards/part-00000.parquet", "shards/part-00001.parquet", "deep/er/x.json"])
FOLDERS = st.dictionaries(NAMES, st.binary(min_size=1, max_size=200), min_size=1)


@pytest.fixture(params=["plain", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        uri = f"memory://{uuid4().hex}"
        yield uri
        storage.remove_tree(uri)
    else:
        yield str(tmp_path / "root") if request.param == "plain" else f"file://{tmp_path}/root"


def test_every_scheme_reads_back_what_was_written(folder: str) -> None:
    assert storage.list_names(folder) == []
    storage.make_dirs(folder)
    storage.write_bytes(storage.join(folder, "deep", "a.bin"), b"\x00\xff")
    storage.write_text(storage.join(folder, "b.txt"), "ß")
    storage.write_json(storage.join(folder, "c.json"), {"key": [1, None]})
    assert storage.read_bytes(storage.join(folder, "deep/a.bin")) == b"\x00\xff"
    assert storage.read_text(storage.join(folder, "b.txt")) == "ß"
    assert storage.read_json(storage.join(folder, "c.json")) == {"key": [1, None]}
    assert storage.list_names(folder) == ["b.txt", "c.json", "deep"]
    assert storage.list_files(folder) == ["b.txt", "c.json", "deep/a.bin"]
    storage.write_commit(folder, "done.json", {"rows": 3})
    assert storage.read_commit(folder, "done.json")["rows"] == 3
    storage.remove_tree(folder)
    assert not storage.exists(storage.join(folder, "b.txt"))
    storage.remove_tree(folder)


def test_missing_and_malformed_files_are_user_errors(folder: str) -> None:
    with pytest.raises(UserError, match=r"nothing\.json does not exist"):
        storage.read_json(storage.join(folder, "nothing.json"))
    storage.write_text(storage.join(folder, "bad.json"), "{")
    with pytest.raises(UserError, match=r"bad\.json is not valid JSON"):
        storage.read_json(storage.join(folder, "bad.json"))


def test_overwriting_leaves_one_file(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        storage.write_bytes(str(tmp_path / "x"), content)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"second"


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"old")

    def fail(source: str, target: str) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    assert storage.absolute("~/a") == "/home/someone/a"
    assert storage.absolute("s3://bucket/a") == "s3://bucket/a"
    assert storage.join("s3://bucket", "a", "b") == "s3://bucket/a/b"
    assert storage.local_path("file:///tmp/a") == "/tmp/a"
    assert [storage.is_remote(uri) for uri in ("a", "/a", "file:///a", "s3://a", "memory://a")] == [
        False, False, False, True, True,
    ]  # fmt: skip
    with pytest.raises(UserError, match="s3://a is remote"):
        storage.local_path("s3://a")


def write_folder(root: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        storage.write_bytes(storage.join(root, name), content)
    storage.write_commit(root, "done.json")


@settings(max_examples=30, deadline=None)
@given(FOLDERS, st.data())
def test_commit_notices_a_flipped_bit_a_cut_and_a_missing_file(files: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        write_folder(root, files)
        commit = storage.read_commit(root, "done.json")
        assert sorted(commit["files"]) == sorted(files)

        path = Path(root) / data.draw(st.sampled_from(sorted(files)))
        content = path.read_bytes()
        damage = data.draw(st.sampled_from(["flip", "cut", "grow", "remove"]))
        if damage == "flip":
            position = data.draw(st.integers(0, len(content) * 8 - 1))
            flipped = bytearray(content)
            flipped[position // 8] ^= 1 << position % 8
            path.write_bytes(flipped)
        elif damage == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif damage == "grow":
            path.write_bytes(content + b"\x00")
        else:
            path.unlink()
        with pytest.raises(UserError, match=f"damaged: {path.relative_to(root)}"):
            storage.read_commit(root, "done.json")

        path.write_bytes(content)
        assert storage.read_commit(root, "done.json") == commit


def test_a_folder_without_its_commit_file_does_not_count(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "shard"), b"half")
    with pytest.raises(UserError, match=r"missing or incomplete: it has no done\.json"):
        storage.read_commit(folder, "done.json")


def test_commit_leaves_out_itself_and_temporary_files(tmp_path: Path) -> None:
    write_folder(str(tmp_path), {"a.bin": b"1"})
    (tmp_path / "b.bin.tmp-77").write_bytes(b"half")
    storage.write_commit(str(tmp_path), "done.json", {"files": "replaced"})
    assert list(storage.read_commit(str(tmp_path), "done.json")["files"]) == ["a.bin"]
