"""Embeddings that were computed elsewhere: one row per clip, in .npy, .npz or safetensors files; never pickle."""

from __future__ import annotations

import io

import numpy as np

from ssmttm import storage
from ssmttm.errors import UserError

EXTENSIONS = (".npy", ".npz", ".safetensors")


def read_embeddings(uri: str) -> np.ndarray:
    """Float64 [N, D] from a file that holds one array of two dimensions.

    Raises:
        UserError: for another extension, a file that is damaged, holds objects or several arrays, or an array of
            another shape or with values that are not finite.
    """
    if not uri.endswith(EXTENSIONS):
        raise UserError(f"{uri}: embeddings are read from {', '.join(EXTENSIONS)} files")
    data = storage.read_bytes(uri)
    try:
        arrays = _from_safetensors(data) if uri.endswith(".safetensors") else _from_numpy(data)
    except Exception as error:  # each format raises its own on damaged files
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{uri} cannot be read as numbers: {reason}") from None
    if len(arrays) != 1:
        raise UserError(f"{uri} holds {len(arrays)} arrays; store one, [clips, dimensions]")
    (array,) = arrays.values()
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number):
        raise UserError(f"{uri} holds an array of shape {array.shape}; store numbers [clips, dimensions]")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{uri} holds values that are not finite; compute it again")
    return values


def _from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


def _from_numpy(data: bytes) -> dict[str, np.ndarray]:
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}


def find_embeddings(folder: str, name: str) -> str | None:
    """The file of a folder that holds embeddings under this name, None if there is none.

    Raises:
        UserError: if there are several.
    """
    found = [entry for entry in storage.list_names(folder) if entry in {name + end for end in EXTENSIONS}]
    if len(found) > 1:
        raise UserError(f"{folder} holds {' and '.join(found)}; keep one of them")
    return storage.join(folder, found[0]) if found else None
