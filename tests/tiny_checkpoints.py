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


def _word_tokenizer(folder: str | Path, special: tuple[str, ...]) -> None:
    """A tokenizer of letters and a few words, in the one file that all fast tokenizers are published in."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    begin, pad, end, unknown = special
    words = [*special, *"abcdefghijklmnopqrstuvwxyz,", "slow", "piano", "loud", "drums", "flute"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, words.index(begin)), (end, words.index(end))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, pad_token=pad, eos_token=end, unk_token=unknown
    ).save_pretrained(folder)


def write_clap(folder: str | Path, fusion: bool = False) -> str:
    """A CLAP of 16 dimensions, as laion/larger_clap_music is published (with `fusion`: clap-htsat-fused)."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(0)
    audio = {
        "patch_size": 16,
        "patch_stride": [16, 16],
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_hidden_layers": 2,
        "window_size": 4,
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
    }
    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 90,
        "hidden_dropout_prob": 0.1,
    }
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc").save_pretrained(folder)
    _word_tokenizer(folder, ("<s>", "<pad>", "</s>", "<unk>"))
    return str(folder)


def write_ast(folder: str | Path) -> str:
    """An Audio Spectrogram Transformer of seven classes, as MIT/ast-finetuned-audioset-10-10-0.4593 is published."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_length=256, num_labels=7
    )
    model = ASTForAudioClassification(config)
    torch.nn.init.normal_(model.classifier.dense.weight)  # at its own small values all clips sound alike
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=256).save_pretrained(folder)
    return str(folder)


def write_musicgen(folder: str | Path) -> str:
    """A MusicGen of two codebooks at 50 Hz and 3.2 kHz, as facebook/musicgen-small is published."""
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    torch.manual_seed(0)
    text = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    codec = EncodecConfig(
        sampling_rate=3200,
        target_bandwidths=[0.6],
        upsampling_ratios=[8, 8],
        codebook_size=64,
        codebook_dim=16,
        hidden_size=16,
        num_filters=2,
        num_lstm_layers=1,
        use_causal_conv=False,
        normalize=False,
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=32,
        num_attention_heads=2,
        num_codebooks=2,
        max_position_embeddings=200,
        pad_token_id=64,
        bos_token_id=64,
    )
    model = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder))
    for index, layer in enumerate(model.audio_encoder.quantizer.layers):
        torch.nn.init.normal_(layer.codebook.embed, std=0.5 / (index + 1))
    model.generation_config.decoder_start_token_id = model.generation_config.pad_token_id = 64
    model.generation_config.bos_token_id = 64
    model.save_pretrained(folder)
    _word_tokenizer(folder, ("<s>", "<pad>", "</s>", "<unk>"))
    return str(folder)
