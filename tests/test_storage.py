"""Storage: URIs of any scheme behave alike; a commit file notices every change to what it lists."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow.fs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.storage import UnwritableError

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


# Characters that mean something in a URL, to a shell, or to a pattern.
ODD = ("a::b", "~", "~root", "#1", "a%20b", "what?", "[set]", "*", "{a}", "-dash", "file:x", "$HOME", r"a\b", "a\nb")


def write_and_read(name: str) -> None:
    """All verbs over a relative path, in an empty current folder."""
    storage.write_bytes(f"{name}/{name}", b"content")
    assert Path(name, name).read_bytes() == b"content"  # what another program would find
    assert [*Path().iterdir()] == [Path(name)]
    for uri in (f"{name}/{name}", os.path.abspath(f"{name}/{name}"), f"file://{os.getcwd()}/{name}/{name}"):
        assert storage.exists(uri)
        assert storage.read_bytes(uri) == b"content"
        assert storage.digest(uri) == hashlib.sha256(b"content").hexdigest()
        assert not storage.is_remote(uri)
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            assert file.read() == b"content"
        assert fs.size(path) == 7
        assert pyarrow.fs.FileSystem.from_uri(path)[1] == path  # how Ray Train reads its place
    assert storage.list_names(name) == storage.list_files(name) == [name]
    assert storage.list_files(".") == [f"{name}/{name}"]
    storage.write_commit(name, "done.json")
    assert list(storage.read_commit(name, "done.json")["files"]) == [name]
    storage.remove_tree(name)
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("name", ODD)
def test_a_plain_path_is_no_url(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_and_read(name)


@settings(max_examples=60)
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_every_name_that_the_disk_takes_is_a_path(name: str) -> None:
    assume(name not in (".", "..", "done.json") and not name.startswith(storage.TEMPORARY))
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        try:
            write_and_read(name)
        finally:
            os.chdir(before)


def test_names_on_object_stores_are_neither_chains_of_urls_nor_patterns() -> None:
    assert storage.filesystem("s3://bucket/a::b#c?d%20e")[1] == "bucket/a::b#c?d%20e"
    folder = f"memory://{uuid4().hex}"
    for name in ("b#c?d%20e", "[set]", "*"):
        uri = storage.join(folder, name)
        storage.write_bytes(uri, b"content")
        assert storage.read_bytes(uri) == b"content"
        storage.write_bytes(storage.join(folder, "beside"), b"content")
        storage.remove_tree(uri)
        assert storage.list_names(folder) == ["beside"]
    storage.remove_tree(folder)


def test_what_cannot_be_reached_is_said_in_a_line() -> None:
    for call in (storage.exists, storage.read_bytes, storage.list_names, storage.list_files, storage.check_writable):
        with pytest.raises(UserError, match=r"^nothing://a/b cannot be reached: .*nothing$"):
            call("nothing://a/b")
        with pytest.raises(UserError, match="holds a zero character"):
            call("a\0b")


def test_a_folder_is_not_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name a file"):
        storage.read_bytes(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be read: .*too long"):
        storage.read_bytes(str(tmp_path / ("x" * 300)))


def test_paths_of_python_callers() -> None:
    assert storage.as_text(Path("a/b:/c")) == "a/b:/c"
    assert storage.as_text("s3://a") == "s3://a"
    with pytest.raises(UserError, match="s3:/bucket/a was s3:// before Path"):
        storage.as_text(Path("s3://bucket/a"))


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
    assert os.listdir(tmp_path) == ["x"]


def unwritable(folder: Path) -> dict[str, str]:
    """Places under a folder where no file can be written, and why."""
    (folder / "folder").mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "circle").symlink_to(folder / "circle")
    return {
        "folder": "it is a folder",
        "folder/": "it is a folder",
        "file/": "it is a folder",
        "new/": "it is a folder",
        ".": "it is a folder",
        "file/x": "a part of its path is a file",
        "file/x/y": "a part of its path is a file",
        "circle/x": "a part of its path is a file|symbolic links",
        "ü" * 128: "the name is too long",
        f"new/{'x' * 256}/y": "the name is too long",
        f"{'x' * 256}/y": "the name is too long",
        "/".join(["x" * 200] * 30): "the name is too long",
    }


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    for place, reason in unwritable(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        for write in (storage.check_writable, lambda uri: storage.write_bytes(uri, b"x")):
            with pytest.raises(UnwritableError, match=reason) as refused:
                write(f"{tmp_path}/{place}")
            assert "\n" not in str(refused.value)
            assert str(refused.value).startswith(f"{tmp_path}/{place} cannot be written: ")
        assert sorted(tmp_path.rglob("*")) == before


def test_what_can_be_written_is_let_through_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "linked")
    for place in ("there", "link", "x" * 255, "new/er/file"):
        before = sorted(tmp_path.rglob("*"))
        storage.check_writable(f"{tmp_path}/{place}", 3 << 20)
        assert sorted(tmp_path.rglob("*")) == before
        assert (tmp_path / "there").read_bytes() == b"content"
    for place in ("there", "link", "x" * 255, "new/er/file"):
        storage.write_bytes(f"{tmp_path}/{place}", b"new")
        assert (tmp_path / place).read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_an_object_store_is_asked_with_a_file_that_is_gone_again(folder: str) -> None:
    storage.make_dirs(folder)
    storage.check_writable(storage.join(folder, "a"))
    assert storage.list_names(folder) == []


def test_a_device_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    storage.check_writable(str(tmp_path / "pipe"))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    storage.write_bytes(str(tmp_path / "pipe"), b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


LIMITED = """
import os, resource, sys
from ssmttm import storage
if sys.argv[1] == "permission" and os.getuid() == 0:
    os.setuid(65534)
if sys.argv[1] == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: storage.check_writable(sys.argv[2], 2000), lambda: storage.write_bytes(sys.argv[2], bytes(2000))):
    try:
        write()
    except storage.UnwritableError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("limit", "reason"), [("permission", "permission is missing"), ("size", "larger than this place allows")]
)
def test_missing_permission_and_limits_are_known_before(limit: str, reason: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o755 if limit == "size" else 0o555)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, limit, str(place / "x")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [line for line in done.stdout.splitlines() if reason in line]
    assert len(done.stdout.splitlines()) == 2, done.stdout + done.stderr
    assert os.listdir(place) == []


def test_a_full_disk_is_known_before(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        storage.write_bytes(str(disk / "a"), b"old")
        for write in (storage.check_writable, lambda uri, size: storage.write_bytes(uri, bytes(size))):
            with pytest.raises(UnwritableError, match="the disk is full") as refused:
                write(str(disk / "a"), 2 << 20)
            assert refused.value.errno == errno.ENOSPC
        assert os.listdir(disk) == ["a"]
        assert (disk / "a").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_and_its_name_are_on_the_disk_before_the_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before the name; then the folder that holds the name, and those that hold new folders."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        fsync(descriptor)

    def replaced(source: str, target: str) -> None:
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    storage.write_bytes(str(tmp_path / "new/er/file"), b"content")
    content, *rest = events
    assert os.path.basename(content).startswith(storage.TEMPORARY)
    assert rest == ["replace", "new/er", "new", "."]


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    assert storage.absolute("~/a") == f"{tmp_path}/~/a"
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
    (tmp_path / f"{storage.TEMPORARY}77").write_bytes(b"half")
    storage.write_commit(str(tmp_path), "done.json", {"files": "replaced"})
    assert list(storage.read_commit(str(tmp_path), "done.json")["files"]) == ["a.bin"]
