"""String URIs (`s3://...`, `file:///...`, plain paths) over fsspec, and commit files for folders.

Paths are strings because `pathlib.Path` mangles `s3://`. A folder that can be half-written counts only
once its commit file, which lists sizes and SHA-256 digests and is written last, exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from ssmttm.errors import UserError

Value = TypeVar("Value")
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
# What says something of the path, not of the storage: asking again would not help.
_FINAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError, UserError)


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


def is_remote(uri: str) -> bool:
    """True for a URI on anything but the local disk."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """A plain local path made absolute; any other URI unchanged."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def local_path(uri: str) -> str:
    """The local path behind a plain path or `file://` URI.

    Raises:
        UserError: for a remote URI.
    """
    if is_remote(uri):
        raise UserError(f"{uri} is remote; a local path is needed here")
    return uri.removeprefix("file://")


def cache_folder(name: str) -> str:
    """The local folder for what can be fetched again: `ssmttm/NAME` under `XDG_CACHE_HOME` (by default `~/.cache`)."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ssmttm", name)


def join(uri: str, *parts: str) -> str:
    """Join path components with `/`, whatever the scheme."""
    return posixpath.join(uri, *parts)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path on it. Credentials come from the standard environment."""
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


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
    fs, path = filesystem(uri)
    fs.makedirs(path, exist_ok=True)


def remove_tree(uri: str) -> None:
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


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


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one piece: through a temporary name on local disk, in one put on an object store."""
    fs, path = filesystem(uri)
    if is_remote(uri):
        with_retries(lambda: fs.pipe_file(path, data), uri)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.tmp-{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
        if name != commit_name and ".tmp-" not in name
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
