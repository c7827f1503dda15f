"""Files that are checked when they are read: only what is listed, as it is listed, and nothing that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm import storage
from ssmttm.errors import DamagedError
from ssmttm.verified import File, Listing, parse_json

COMMIT = "commit.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "one.bin").write_bytes(b"one" * 1000)
    (made / "inner" / "two.json").write_text('{"two": 2}')
    storage.write_commit(str(made), COMMIT, {"says": "this"})
    return made


def listing(folder: Path, **options: bool) -> Listing:
    return Listing.read(str(folder), COMMIT, "make it again", **options)


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(DamagedError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_what_is_listed_is_read(folder: Path) -> None:
    found = listing(folder)
    assert found.content["says"] == "this"
    assert found.file("one.bin").read() == b"one" * 1000
    assert found.file("inner/two.json").json() == {"two": 2}
    found.check()


def test_remote_folders_too(folder: Path) -> None:
    fsspec.filesystem("memory").put(str(folder), "/verified", recursive=True)
    found = Listing.read("memory://verified", COMMIT, "make it again")
    found.check()
    assert found.file("one.bin").is_checked()
    storage.write_bytes("memory://verified/one.bin", b"two" * 1000)
    assert "one.bin differs from its digest; make it again" in refused(found.check)
    storage.remove_tree("memory://verified/one.bin")
    assert "one.bin is missing" in refused(found.file("one.bin").read)
    storage.remove_tree("memory://verified")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flipped", lambda file: file.write_bytes(b"0ne" * 1000)),
        ("longer", lambda file: file.write_bytes(b"one" * 1001)),
        ("gone", lambda file: file.unlink()),
        ("folder", lambda file: (file.unlink(), file.mkdir())),
        ("pipe", lambda file: (file.unlink(), os.mkfifo(file))),
        ("zeros", lambda file: (file.unlink(), file.symlink_to("/dev/zero"))),
        ("link out", lambda file: (file.rename(file.parent.parent / "out"), file.symlink_to("../out"))),
        ("link to itself", lambda file: (file.unlink(), file.symlink_to(file.name))),
        ("link to nothing", lambda file: (file.unlink(), file.symlink_to("nothing"))),
    ],
)
def test_what_is_not_as_listed_is_refused_at_once(folder: Path, name: str, change: Callable[[Path], object]) -> None:
    found = listing(folder)
    found.check()
    change(folder / "one.bin")
    for action in (found.file("one.bin").read, found.file("one.bin").check, found.check):
        message = refused(action)
        assert message.startswith(f"{folder} is damaged: one.bin ")
        assert message.endswith("; make it again")


def test_a_socket_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = listing(folder)
    (folder / "one.bin").unlink()
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("one.bin")
        assert "no regular file" in refused(found.file("one.bin").read)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "one.bin").rename(folder / "inner" / "one.bin")
    (folder / "one.bin").symlink_to("inner/one.bin")
    listing(folder).check()


def test_a_folder_behind_a_link_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "best").symlink_to(folder)
    listing(tmp_path / "best").check()


def test_the_hub_s_cache_is_read(folder: Path, tmp_path: Path) -> None:
    """Its folders hold links to the blobs beside them."""
    snapshot = tmp_path / "hub" / "snapshots" / "0123"
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, name in enumerate((COMMIT, "one.bin")):
        (folder / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert listing(snapshot).file("one.bin").read() == b"one" * 1000


def test_one_s_own_folder_may_hold_links(folder: Path, tmp_path: Path) -> None:
    (folder / "one.bin").rename(tmp_path / "out.bin")
    (folder / "one.bin").symlink_to(tmp_path / "out.bin")
    assert "leads out" in refused(listing(folder).check)
    listing(folder, links=True).check()


def test_what_is_not_listed_is_not_read(folder: Path) -> None:
    (folder / "three.bin").write_bytes(b"three")
    assert "does not list three.bin" in refused(lambda: listing(folder).file("three.bin"))


@pytest.mark.parametrize(
    "name",
    [
        "../one.bin",
        "/etc/passwd",
        "inner/../../x",
        "http://x/y",
        "c:\\x",
        "inner//x",
        "./x",
        "",
        "a\nb",
        "a\x00b",
        "~/.x:",
    ],
)
def test_names_lead_nowhere_else(folder: Path, name: str) -> None:
    commit = json.loads((folder / COMMIT).read_text())
    commit["files"][name] = commit["files"]["one.bin"]
    (folder / COMMIT).write_text(json.dumps(commit))
    assert "no file of this folder" in refused(lambda: listing(folder))


@pytest.mark.parametrize(
    "known",
    [
        None,
        3,
        {},
        {"bytes": 3},
        {"bytes": -1, "sha256": "0" * 64},
        {"bytes": True, "sha256": "0" * 64},
        {"bytes": 3.0, "sha256": "0" * 64},
        {"bytes": 3, "sha256": "0" * 63},
        {"bytes": 3, "sha256": 7},
        {"bytes": "3", "sha256": "0" * 64},
    ],
)
def test_sizes_and_digests_are_such(folder: Path, known: object) -> None:
    (folder / COMMIT).write_text(json.dumps({"files": {"one.bin": known}}))
    assert "neither size nor digest of one.bin" in refused(lambda: listing(folder))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"files": []}', "[" * 100_000, '{"files": ' + "9" * 5000 + "}", "\xff"]
)
def test_a_commit_file_that_makes_no_sense(folder: Path, text: str) -> None:
    (folder / COMMIT).write_text(text, "latin-1")
    assert COMMIT in refused(lambda: listing(folder))


def test_a_commit_file_of_absurd_size_is_not_read(folder: Path) -> None:
    os.truncate(folder / COMMIT, 1 << 40)
    assert "more than" in refused(lambda: listing(folder))


def test_a_commit_file_that_is_a_pipe(folder: Path) -> None:
    (folder / COMMIT).unlink()
    os.mkfifo(folder / COMMIT)
    assert "no regular file" in refused(lambda: listing(folder))


def test_content_is_digested_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digested = []
    compare = File._compare
    monkeypatch.setattr(File, "_compare", lambda file, *rest: (digested.append(file.uri), compare(file, *rest))[1])
    for _ in range(3):
        listing(folder).check()
        listing(folder).file("one.bin").read()
    assert len(digested) == 2
    (folder / "one.bin").write_bytes(b"One" * 1000)
    refused(listing(folder).check)


@given(st.binary(max_size=60) | st.text('[]{}",:0123456789eE.-nulltrefasNI', max_size=60).map(str.encode))
def test_any_text_is_json_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(data)
