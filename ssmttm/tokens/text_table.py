"""The text table: token states of every distinct caption, computed once and stored beside the token shards.

Parts are `text/table-00000.parquet`, ... with columns `key, caption, length, states` (float16 [S, D] in C order).
States are stored uncompressed in small row groups: fp16 states do not compress, and a reader that wants a few
captions, or only the keys, pays for no more.

Shapes: S text tokens, D text width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ssmttm import storage
from ssmttm.conditions.encoders import TextEncoder
from ssmttm.errors import UserError
from ssmttm.tokens.parts import PartReport, part_matches, write_part

CAPTIONS_PER_PART = 1024
ROW_GROUP = 256
TEXT_FOLDER = "text"

SCHEMA = pa.schema([("key", pa.string()), ("caption", pa.string()), ("length", pa.int32()), ("states", pa.binary())])


@dataclass(frozen=True)
class TextPlan:
    """The captions of one part of the text table."""

    index: int
    captions: tuple[str, ...]
    encoder_fingerprint: str

    @property
    def name(self) -> str:
        return f"{TEXT_FOLDER}/table-{self.index:05d}.parquet"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.encoder_fingerprint, self.captions]).encode()).hexdigest()


def caption_key(caption: str, encoder_fingerprint: str) -> str:
    """The key of a caption's states: 32 hexadecimal digits of a SHA-256 over encoder and caption."""
    return hashlib.sha256(f"{encoder_fingerprint}\n{caption}".encode()).hexdigest()[:32]


def overlong_captions(captions: Iterable[str], encoder: TextEncoder) -> set[str]:
    """Captions with more tokens than the encoder takes."""
    overlong: set[str] = set()
    todo = [list(captions)]
    while todo:
        batch = todo.pop()
        try:
            if batch:
                encoder.tokenize(batch)
        except UserError:
            if len(batch) == 1:
                overlong.add(batch[0])
            else:
                todo += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return overlong


def plan_text(captions: Sequence[str], encoder_fingerprint: str) -> list[TextPlan]:
    """Parts of at most `CAPTIONS_PER_PART` distinct captions, in order of first appearance."""
    distinct = list(dict.fromkeys(captions))
    return [
        TextPlan(index, tuple(distinct[start : start + CAPTIONS_PER_PART]), encoder_fingerprint)
        for index, start in enumerate(range(0, len(distinct), CAPTIONS_PER_PART))
    ]


def write_text_table(plan: TextPlan, encoder: TextEncoder, out: str) -> PartReport:
    """Encode the captions of one part and write it under its fixed name; a finished part is left alone."""
    uri = storage.join(out, plan.name)
    if part_matches(uri, plan.fingerprint):
        return PartReport(plan.name, len(plan.captions), seconds=0.0, rejects=0, skipped=True)
    # Where the CPU multiplies bfloat16 itself this halves the time; the states move by less than 1 %.
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        states = encoder.encode(plan.captions)
    columns: list[list[Any]] = [
        [caption_key(caption, plan.encoder_fingerprint) for caption in plan.captions],
        list(plan.captions),
        [len(states_SD) for states_SD in states],
        [states_SD.tobytes() for states_SD in states],
    ]
    write_part(uri, columns, SCHEMA, plan.fingerprint, row_group_size=ROW_GROUP)
    return PartReport(plan.name, len(plan.captions), seconds=0.0, rejects=0, skipped=False)
