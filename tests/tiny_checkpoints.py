"""Random checkpoints of published kinds, small, in the layout that transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write_dac(folder: str | Path, **config: Any) -> str:
    """A Descript Audio Codec."""
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    DacModel(DacConfig(**config)).save_pretrained(folder)
    return str(folder)


def write_encodec(folder: str | Path, **config: Any) -> str:
    """An EnCodec whose codebooks, which are made of zeros, hold something."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**config))
    for index, layer in enumerate(model.quantizer.layers):
        torch.nn.init.normal_(layer.codebook.embed, std=0.5 / (index + 1))
    model.save_pretrained(folder)
    return str(folder)


def write_t5(folder: str | Path, shard_size: str = "1GB") -> str:
    """A T5 with a T5 tokenizer, encoder and decoder, as FLAN-T5 is published; its states have 16 dimensions."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = ["▁slow", "▁piano", "▁", *"abcdefghijklmnopqrstuvwxyz,"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((word, -1.0 - len(word)) for word in words)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    T5ForConditionalGeneration(config).save_pretrained(folder, max_shard_size=shard_size)
    return str(folder)
