"""Published checkpoints for evaluation: through transformers' classes, from safetensors, complete or not at all."""

from __future__ import annotations

import hashlib
from typing import Any

from ssmttm import storage
from ssmttm.errors import UserError


def load(kind: str, class_name: str, folder: str, device: str = "cpu") -> Any:
    """The frozen fp32 model of a checkpoint folder.

    Args:
        kind: what it is called in errors, e.g. "CLAP".
        class_name: of transformers, e.g. "ClapModel".
        folder: local, with config.json and *.safetensors.

    Raises:
        UserError: if the folder holds no such checkpoint, only pickled weights, or not all of it.
    """
    import torch
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging

    _check(kind, folder)
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, class_name).from_pretrained(
            storage.local_path(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{kind} {folder} cannot be loaded, fetch all of its files: {_first_line(error)}") from None
    finally:
        if had_bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:  # transformers draws them at random
        missing = len(report["missing_keys"])
        raise UserError(f"{kind} {folder} lacks {missing} of the model's tensors; fetch all of its files")
    return model.eval().requires_grad_(False).to(device)


def load_part(kind: str, class_name: str, folder: str) -> Any:
    """The tokenizer or feature extractor of a checkpoint folder.

    Raises:
        UserError: if it is not there.
    """
    import transformers

    try:
        return getattr(transformers, class_name).from_pretrained(storage.local_path(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{kind} {folder} cannot be loaded, fetch all of its files: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check(kind: str, folder: str) -> None:
    names = storage.list_names(folder)
    if "config.json" not in names:
        raise UserError(f"{kind} {folder} has no config.json; give the folder of a transformers checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = next((name for name in names if name.endswith((".bin", ".pt", ".ckpt"))), None)
        has = f"has {pickled}, which is a pickle and is not read" if pickled else "has no weights"
        raise UserError(f"{kind} {folder} {has}; give a copy in safetensors")


def fingerprint(folder: str) -> str:
    """Sixteen hexadecimal digits that change with any weight."""
    names = [name for name in storage.list_names(folder) if name.endswith(".safetensors")]
    digests = [storage.digest(storage.join(folder, name)) for name in names]
    return hashlib.sha256(":".join(digests).encode()).hexdigest()[:16]


def title(folder: str) -> str:
    """How figures name a checkpoint: the folder's own name and its fingerprint."""
    return f"{folder.rstrip('/').rsplit('/', 1)[-1]} ({fingerprint(folder)})"
