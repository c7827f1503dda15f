"""The real MiniLM encoder, and the padded batches."""

import numpy as np
import pytest
import torch

from ssmttm.config import TextConfig
from ssmttm.errors import UserError
from ssmttm.model.text import TextBatch, collate_text, load_text_encoder, load_text_encoder_from


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder(TextConfig())


def test_states_do_not_depend_on_batch_mates(encoder):
    captions = ["slow piano", "a driving techno track with a saw lead at 130 bpm", "jazz", "slow reggae"]
    together = encoder.encode(captions)
    for caption, states in zip(captions, together, strict=True):
        alone = encoder.encode([caption])[0]
        assert alone.dtype == np.float16
        assert alone.shape == (len(encoder.tokenize([caption])[0]), encoder.dim)
        np.testing.assert_allclose(states.astype(np.float32), alone.astype(np.float32), atol=2e-3)


def test_meaning_is_in_the_pooled_vector(encoder):
    a, b, c = (
        s.astype(np.float32).mean(0)
        for s in encoder.encode(["fast techno in the club", "quick club techno", "a lullaby for solo harp"])
    )

    def cosine(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert cosine(a, b) > cosine(a, c) + 0.1


def test_over_long_text_is_refused(encoder):
    with pytest.raises(UserError, match="over the limit of 96"):
        encoder.encode(["piano " * 200])


def test_one_string_is_refused(encoder):
    with pytest.raises(TypeError):
        encoder.encode("techno")


def test_reference_round_trip(encoder):
    again = load_text_encoder_from(encoder.reference)
    assert again.fingerprint == encoder.fingerprint


def test_missing_checkpoint_is_named():
    with pytest.raises(UserError, match="nowhere"):
        load_text_encoder(TextConfig(encoder="transformers", path="/nowhere"))


def test_tiny_t5_checkpoint_in_published_layout(tmp_path):
    """FLAN-T5's loading path on a random checkpoint: the encoder half alone is used."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "slow": 3, "piano": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    T5ForConditionalGeneration(
        T5Config(vocab_size=5, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    states = load_text_encoder(TextConfig(encoder="transformers", path=str(tmp_path))).encode(["slow piano"])[0]
    assert states.shape == (2, 16)
    assert np.isfinite(states).all()


def test_collate_pads_left():
    batch = collate_text([np.ones((2, 3), np.float16), np.full((4, 3), 2, np.float16)], null=[True, False])
    assert batch.mask_BS.tolist() == [[False, False, True, True], [True] * 4]
    assert batch.states_BSD[0, :2].abs().sum() == 0
    assert batch.pooled_BD[:, 0].tolist() == [1, 2]
    assert batch.null_B.tolist() == [True, False]
    both = TextBatch.cat(batch, batch.as_null())
    assert both.null_B.tolist() == [True, False, True, True]
