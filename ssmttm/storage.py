"""String URIs (`s3://...`, `file:///...`, plain paths) over fsspec, and commit files for folders.

A plain path is taken as it stands: `~`, `#`, `%`, `?`, `[` and `::` are characters of its name. Only what begins with
a scheme and `://` is a URI. Paths are strings because `pathlib.Path` mangles `s3://`. A folder that can be half-written
counts only once its commit file, which lists sizes and SHA-256 digests and is written last, exists.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import posixpath
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ssmttm.errors import UserError

Value = TypeVar("Value")
TEMPORARY = ".tmp-"  # begins the name of a file that is still being written
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE = "file://"
LEASE_NAME = "lease.json"  # says who writes a folder (`ssmttm.lease`); no part of what the folder holds
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
# What says something of the path, not of the storage: asking again would not help.
_FINAL = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError, NotImplementedError,
    UserError,
)  # fmt: skip


def with_retries(action: Callable[[], Value], uri: str) -> Value:
    """What `action` on `uri` returns, asked again after a while if the storage fails.

    Raises:
        UserError: naming the object, if it fails each time; what says that the path is wrong is raised as it is.
    """
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return action()
        except _FINAL:
            raise
        except Exception as error:  # each storage library raises its own
            if not is_remote(uri):
                raise
            if "Credentials" in type(error).__name__:
                raise UserError(f"{uri}: {error}; credentials are taken from the standard environment") from None
            if delay is None:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise UserError(
                    f"{uri}: the storage failed {len(RETRY_DELAYS_S) + 1} times ({reason}); start again when it is back"
                ) from error
            time.sleep(delay)
    raise AssertionError


def is_uri(uri: str) -> bool:
    """True for what begins with a scheme and `://`; anything else is a plain local path, whatever it holds."""
    return _SCHEME.match(uri) is not None


def is_remote(uri: str) -> bool:
    """True for a URI on anything but the local disk."""
    return is_uri(uri) and not uri.startswith(_FILE)


def absolute(uri: str) -> str:
    """A plain local path made absolute; any other URI unchanged."""
    return uri if is_uri(uri) else os.path.abspath(uri)


def local_path(uri: str) -> str:
    """The local path behind a plain path or `file://` URI.

    Raises:
        UserError: for a remote URI.
    """
    if is_remote(uri):
        raise UserError(f"{uri} is remote; a local path is needed here")
    return uri.removeprefix(_FILE)


def as_text(uri: str | os.PathLike[str]) -> str:
    """A path or URI that a Python caller gave, as the text that every function here takes.

    Raises:
        UserError: for a `Path` made from a URI, which lost a slash on its way.
    """
    text = os.fspath(uri)
    scheme = text.split(":/")[0]
    if not isinstance(uri, str) and ":/" in text and scheme in fsspec.available_protocols():
        raise UserError(f"{text} was {scheme}:// before Path took a slash away; give URIs as text")
    return text


def cache_folder(name: str) -> str:
    """The local folder for what can be fetched again: `ssmttm/NAME` under `XDG_CACHE_HOME` (by default `~/.cache`)."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ssmttm", name)


def join(uri: str, *parts: str) -> str:
    """Join path components with `/`, whatever the scheme."""
    return posixpath.join(uri, *parts)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path on it. Credentials come from the standard environment.

    Raises:
        UserError: if nothing here knows the scheme, or what it needs is not installed.
    """
    if "\0" in uri:
        raise UserError(f"{uri!r} is no file's name: it holds a zero character")
    if not is_remote(uri):
        # Not through fsspec's URLs, which would parse the name; made absolute, because it takes a leading ~ for a home.
        return LocalFileSystem(), os.path.join(os.getcwd(), local_path(uri)).rstrip("/") or "/"
    try:
        # Not `url_to_fs`, for which `::` begins another URL; it is a part of the name here, too.
        kind = fsspec.get_filesystem_class(uri.split("://")[0])
        return kind(**kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be reached: {' '.join(str(error).split())}") from None


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return with_retries(lambda: fs.exists(path), uri)


def list_names(uri: str) -> list[str]:
    """Sorted base names of a folder's entries; empty if there is no such folder."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    if not exists(uri):
        return []
    entries = with_retries(lambda: fs.ls(path, detail=False), uri)
    return sorted(posixpath.basename(str(entry).rstrip("/")) for entry in entries)


def make_dirs(uri: str) -> None:
    """Create a folder and those above it.

    Raises:
        UnwritableError: in one line.
    """
    with _naming(uri):
        fs, path = filesystem(uri)
        fs.makedirs(path, exist_ok=True)


def remove_tree(uri: str) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(glob.escape(path) if is_remote(uri) else path, recursive=True)  # only stores take it for a pattern


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: if it does not exist.
    """
    fs, path = filesystem(uri)
    try:
        return with_retries(lambda: fs.cat_file(path), uri)
    except FileNotFoundError:
        raise UserError(f"{uri} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{uri} is a folder; name a file") from None
    except PermissionError:
        raise UserError(f"{uri} cannot be read: permission is missing") from None
    except OSError as error:
        if is_remote(uri) or error.errno not in _REASONS:
            raise
        raise UserError(f"{uri} cannot be read: {error.strerror}") from None


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one piece: on an object store in one put, on local disk under a temporary name beside its place,
    which it takes once all of it is on the disk. A link is followed; a device or pipe is written to as it is.

    Raises:
        UnwritableError: in one line; the file is then as it was before, and nothing is left beside it.
    """
    with _naming(uri):
        if is_remote(uri):
            fs, path = filesystem(uri)
            with_retries(lambda: fs.pipe_file(path, data), uri)
            return
        path, special = _local_target(uri)
        if special:
            with open(path, "wb") as device:
                device.write(data)
            return
        folder, created = os.path.dirname(path), _missing_folders(path)
        os.makedirs(folder, exist_ok=True)
        # Its own name might be too long with anything added.
        temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.remove(temporary)
            raise
        for changed in (folder, *map(os.path.dirname, created)):
            _sync_folder(changed)


def check_writable(uri: str, size: int = 1) -> None:
    """Find out whether a file could be written, before the work of making it. Nothing is left behind.

    Args:
        size: of the file, as far as it is known; there must be room for it.

    Raises:
        UnwritableError: in one line, if it is a folder, its name is too long, permission or room is missing, ...
    """
    with _naming(uri):
        if is_remote(uri):
            fs, path = filesystem(uri)
            probe = posixpath.join(posixpath.dirname(path), f"{TEMPORARY}{secrets.token_hex(4)}")
            with_retries(lambda: fs.pipe_file(probe, b""), uri)
            with suppress(PermissionError):  # who may write need not be allowed to delete
                with_retries(lambda: fs.rm_file(probe), uri)
            return
        path, special = _local_target(uri)
        if special:
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        missing = _missing_folders(path)
        there = os.path.dirname(missing[-1] if missing else path)
        with tempfile.TemporaryFile(prefix=TEMPORARY, dir=there) as file:
            while size > 0:
                size -= file.write(bytes(min(size, 1 << 20)))


class UnwritableError(UserError, OSError):
    """A file cannot be written: for the user one line, for a writer that could try again the OSError that it was."""


_REASONS = {
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EEXIST: "a part of its path is a file, not a folder",
    errno.EACCES: "permission is missing; name another place",
    errno.EPERM: "permission is missing; name another place",
    errno.EROFS: "the disk is read-only; name another place",
    errno.ENAMETOOLONG: "the name is too long; shorten it",
    errno.ENOSPC: "the disk is full; make room there, or name another place",
    errno.EDQUOT: "the disk quota is used up; make room there, or name another place",
    errno.EFBIG: "the file would be larger than this place allows",
}


@contextmanager
def _naming(uri: str) -> Iterator[None]:
    try:
        yield
    except UnwritableError:
        raise
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None) or (errno.EACCES if isinstance(error, PermissionError) else 0)
        told = " ".join((getattr(error, "strerror", None) or str(error)).split())
        unwritable = UnwritableError(f"{uri} cannot be written: {_REASONS.get(number) or told or type(error).__name__}")
        unwritable.errno = number
        raise unwritable from error


def _local_target(uri: str) -> tuple[str, bool]:
    """The path that a write to a local URI ends up at, and whether that is something other than a file, as a pipe.

    Raises:
        IsADirectoryError: if it is a folder, or named as one.
    """
    path = filesystem(uri)[1]
    if uri.endswith("/") or os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.path.exists(path) and not os.path.isfile(path):
        return path, True
    return os.path.realpath(path), False


def _missing_folders(path: str) -> list[str]:
    """The folders above a file that do not exist, the innermost first.

    Raises:
        OSError: if one of them, or the file, can have no such name.
    """
    found, folder = [], os.path.dirname(path)
    while not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    # Looking for a file finds out how long a path and each of its names may be on that disk.
    for name in (path, *map(os.path.basename, found), os.path.basename(path)):
        with suppress(FileNotFoundError):
            os.lstat(os.path.join(folder, name))
    return found


def _sync_folder(path: str) -> None:
    """See to it that the names in a folder are on the disk. Not every file system offers it, nor every permission."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode("utf-8"))


def read_json(uri: str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: if it does not exist or is not JSON.
    """
    try:
        return json.loads(read_text(uri))
    except json.JSONDecodeError as error:
        raise UserError(f"{uri} is not valid JSON: {error}") from None


def write_json(uri: str, value: Any) -> None:
    write_text(uri, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def digest(uri: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    fs, path = filesystem(uri)

    def read() -> str:
        state = hashlib.sha256()
        with fs.open(path, "rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
        return state.hexdigest()

    return with_retries(read, uri)


def list_files(uri: str) -> list[str]:
    """Sorted paths of all files under a folder, relative to it."""
    fs, path = filesystem(uri)
    root = path.rstrip("/") + "/"
    found = with_retries(lambda: fs.find(path), uri)
    return sorted(str(name).removeprefix(root) for name in found)


def write_commit(uri: str, commit_name: str, content: dict[str, Any] | None = None) -> None:
    """Write a folder's commit file: every file under it with size and SHA-256, plus `content`."""
    fs, path = filesystem(uri)
    files = {
        name: {"bytes": fs.size(posixpath.join(path, name)), "sha256": digest(join(uri, name))}
        for name in list_files(uri)
        if name not in (commit_name, LEASE_NAME) and not posixpath.basename(name).startswith(TEMPORARY)
    }
    write_json(join(uri, commit_name), {**(content or {}), "files": files})


def read_commit(uri: str, commit_name: str, *, verify: bool = True) -> dict[str, Any]:
    """Read a folder's commit file, checking that each listed file has its size and digest.

    Raises:
        UserError: if the commit file is missing (the folder is incomplete) or a file differs from it.
    """
    commit_uri = join(uri, commit_name)
    if not exists(commit_uri):
        raise UserError(f"{uri} is missing or incomplete: it has no {commit_name}")
    commit = read_json(commit_uri)
    if verify:
        fs, path = filesystem(uri)
        for name, expected in commit["files"].items():
            file_path = posixpath.join(path, name)
            if not fs.exists(file_path):
                raise UserError(f"{uri} is damaged: {name} is missing")
            if fs.size(file_path) != expected["bytes"] or digest(join(uri, name)) != expected["sha256"]:
                raise UserError(f"{uri} is damaged: {name} differs from its digest in {commit_name}")
    return commit
