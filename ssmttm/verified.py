"""Files that are checked when they are read: folders whose commit file lists size and SHA-256 of every file.

Such a folder may come from anyone. So nothing is read that is not listed, no name or link leads out of the folder, only
regular files are opened, and how much is read is known before it is. Each content is checked once per process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ssmttm import storage
from ssmttm.errors import DamagedError, UserError

BLOCK_BYTES = 1 << 20
COMMIT_BYTES = 64 << 20  # of a commit file: a dataset of 100,000 shards has one of 15 MB
JSON_BYTES = 4 << 20  # of any other
_SHA256 = re.compile("[0-9a-f]{64}")
_known: set[tuple[str, str, str]] = set()  # address, digest and stamp of what was found to be as listed


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is none, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@dataclass(frozen=True)
class File:
    """One file, with what is known of it.

    Attributes:
        uri: where it is.
        folder: the folder that it must lie in, links followed; None: anywhere.
        size, sha256: as listed; None: not known.
        described: how a message begins that says what is wrong with it.
        remedy: how it ends.
    """

    uri: str
    folder: str | None = None
    size: int | None = None
    sha256: str | None = None
    described: str = ""
    remedy: str = ""

    def damaged(self, reason: str) -> DamagedError:
        """The error that names the file, what is wrong with it, and the remedy."""
        words = "".join(letter if letter.isprintable() else "?" for letter in " ".join(reason.split()))[:300]
        return DamagedError(f"{self.described or self.uri} {words}" + (f"; {self.remedy}" if self.remedy else ""))

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, int, str]]:
        """The open file, its size, and a stamp that changes with its content."""
        fs, path = storage.filesystem(self.uri)
        if storage.is_remote(self.uri):
            try:
                info = storage.with_retries(lambda: fs.info(path), self.uri)
            except FileNotFoundError:
                raise self.damaged("is missing") from None
            if info["type"] != "file":
                raise self.damaged("is no regular file")
            with fs.open(path, "rb") as file:
                yield cast(BinaryIO, file), int(info["size"]), str(fs.ukey(path))
            return
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device or a pipe may do something, or never end
                raise self.damaged("is no regular file")
            if self.folder is not None and not _lies_in(path, storage.filesystem(self.folder)[1]):
                raise self.damaged("is a link that leads out of its folder")
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise self.damaged("is missing") from None
        except OSError as error:
            raise self.damaged(f"cannot be read ({error.strerror})") from None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise self.damaged("is no regular file")
            yield file, found.st_size, f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"

    def _check_size(self, size: int, limit: int | None) -> None:
        if self.size is not None and size != self.size:
            raise self.damaged(f"has {size} bytes, not {self.size}")
        if limit is not None and size > limit:
            raise self.damaged(f"has {size:,} bytes, more than the {limit:,} that any such file needs")

    def beginning(self, count: int) -> tuple[bytes, int]:
        """The first bytes, at most `count`, whose digest nobody looked at; and the size of the whole.

        Raises:
            DamagedError: if there is no such regular file, or it has not the size that is listed.
        """
        with self._opened() as (file, size, _):
            self._check_size(size, None)
            return file.read(min(count, size)), size

    def read(self, limit: int | None = None) -> bytes:
        """The content.

        Raises:
            DamagedError: if it is not as listed, or has more than `limit` bytes.
        """

        def whole() -> bytes:
            with self._opened() as (file, size, stamp):
                self._check_size(size, limit)
                data = file.read(size)
                if len(data) != size:
                    raise self.damaged(f"has {len(data)} bytes, not {size}")
                if not self._is_known(stamp):
                    self._compare(hashlib.sha256(data).hexdigest(), stamp)
                return data

        return storage.with_retries(whole, self.uri)

    def check(self, limit: int | None = None) -> None:
        """Read all of it, a little at a time, unless this process did already.

        Raises:
            DamagedError: if it is not as listed, or has more than `limit` bytes.
        """

        def whole() -> None:
            with self._opened() as (file, size, stamp):
                self._check_size(size, limit)
                if self._is_known(stamp):
                    return
                state = hashlib.sha256()
                while block := file.read(BLOCK_BYTES):
                    state.update(block)
                self._compare(state.hexdigest(), stamp)

        storage.with_retries(whole, self.uri)

    def is_checked(self) -> bool:
        """Whether this process found its present content to be as listed."""
        with self._opened() as (_, size, stamp):
            self._check_size(size, None)
            return self._is_known(stamp)

    def _is_known(self, stamp: str) -> bool:
        return self.sha256 is None or (self.uri, self.sha256, stamp) in _known

    def _compare(self, sha256: str, stamp: str) -> None:
        if sha256 != self.sha256:
            raise self.damaged("differs from its digest")
        _known.add((self.uri, sha256, stamp))

    def json(self, limit: int = JSON_BYTES) -> Any:
        """The value of a JSON file.

        Raises:
            DamagedError: if it is not as listed, no JSON, or has more than `limit` bytes.
        """
        try:
            return parse_json(self.read(limit))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise self.damaged(f"is not valid JSON ({error})") from None


def _lies_in(path: str, folder: str) -> bool:
    """Whether a local file lies in a folder once links are followed. What the Hugging Face Hub's cache shows as a
    folder are links to its neighbour `blobs`, which count as within."""
    root, real = os.path.realpath(folder), os.path.realpath(path)
    parent = os.path.dirname(root)
    roots = [root]
    if os.path.basename(parent) == "snapshots":
        roots.append(os.path.join(os.path.dirname(parent), "blobs"))
    return any(real.startswith(one.rstrip("/") + "/") for one in roots)


def _is_safe(name: object) -> bool:
    """Whether a name says a place below a folder, in plain words."""
    if not isinstance(name, str) or "\\" in name or ":" in name or not name.isprintable():
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


@dataclass(frozen=True)
class Listing:
    """What a folder's commit file says: `content` is all of it, `files` what it lists, by name."""

    uri: str
    content: dict[str, Any]
    files: dict[str, File]
    commit: File

    @classmethod
    def read(cls, uri: str, commit_name: str, remedy: str, *, links: bool = False) -> Listing:
        """Read a commit file.

        Args:
            uri: of the folder.
            remedy: what to do if something is wrong with it; the end of each message.
            links: whether files may be links to elsewhere, as in folders of one's own.

        Raises:
            DamagedError: if there is none, or it makes no sense.
        """
        folder = None if links else uri

        def named(name: str, size: int | None = None, sha256: str | None = None) -> File:
            return File(storage.join(uri, name), folder, size, sha256, f"{uri} is damaged: {name}", remedy)

        commit = named(commit_name)
        if not storage.exists(commit.uri):
            raise DamagedError(f"{uri} is missing or incomplete: it has no {commit_name}; {remedy}")
        content = commit.json(COMMIT_BYTES)
        listed = content.get("files") if isinstance(content, dict) else None
        if not isinstance(listed, dict):
            raise commit.damaged("lists no files")
        files = {}
        for name, known in listed.items():
            size, sha256 = (known.get("bytes"), known.get("sha256")) if isinstance(known, dict) else (None, None)
            if not _is_safe(name):
                raise commit.damaged(f"lists {str(name)[:80]!r}, which is no file of this folder")
            if type(size) is not int or size < 0 or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                raise commit.damaged(f"says neither size nor digest of {name}")
            files[name] = named(name, size, sha256)
        return cls(uri, content, files, commit)

    def file(self, name: str) -> File:
        """A file by its name.

        Raises:
            DamagedError: if it is not listed.
        """
        if name not in self.files:
            raise self.commit.damaged(f"does not list {name}, which belongs to it")
        return self.files[name]

    def check(self) -> None:
        """Check every file that is listed.

        Raises:
            DamagedError: naming the first that is not as listed.
        """
        for file in self.files.values():
            file.check()
