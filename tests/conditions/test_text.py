"""The real MiniLM encoder, and the padded batches."""

import os

import numpy as np
import pytest
import torch
from tiny_checkpoints import write_t5

from ssmttm import storage
from ssmttm.conditions.base import Conditions
from ssmttm.conditions.encoders import is_same_text, load_text_encoder, load_text_encoder_from
from ssmttm.conditions.numbers import fingerprint_with_numbers
from ssmttm.conditions.text import collate_text
from ssmttm.config import TextConfig
from ssmttm.errors import UserError


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


def load_t5(path):
    return load_text_encoder(TextConfig(encoder="transformers", path=path))


@torch.inference_mode()
def test_t5_checkpoint_in_published_layout(tmp_path):
    """FLAN-T5's loading path on a random checkpoint: the encoder half alone is used."""
    from transformers import T5ForConditionalGeneration

    folder = write_t5(tmp_path)
    encoder = load_t5(folder)
    assert encoder.dim == 16
    assert encoder.tokenize(["slow piano"]) == [[3, 4, 1]]  # ends in </s>
    states = encoder.encode(["slow piano", "jazz, slow"])
    whole = T5ForConditionalGeneration.from_pretrained(folder).eval()
    for caption, found in zip(["slow piano", "jazz, slow"], states, strict=True):
        ids = torch.tensor(encoder.tokenize([caption]))
        expected = whole.encoder(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(found.astype(np.float32), expected.numpy(), rtol=2e-3, atol=1e-3)
    with pytest.raises(UserError, match=r"text\.dim=768"):
        load_text_encoder(TextConfig(encoder="transformers", path=folder, dim=768))


def test_weights_in_shards_are_read_and_told_apart(tmp_path):
    single = load_t5(write_t5(tmp_path / "single"))
    folder = tmp_path / "sharded"
    sharded = load_t5(write_t5(folder, "6KB"))
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    np.testing.assert_array_equal(sharded.encode(["slow piano"])[0], single.encode(["slow piano"])[0])
    assert load_t5(str(folder)).fingerprint == sharded.fingerprint
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert load_t5(str(folder)).fingerprint != sharded.fingerprint
    shards[-1].unlink()
    with pytest.raises(UserError, match=rf"lacks {shards[-1].name}"):
        load_t5(str(folder))


def test_a_remote_checkpoint_is_copied_once_for_each_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local = write_t5(tmp_path / "local", "6KB")
    uri = "memory://models/t5"
    try:
        for file in (tmp_path / "local").iterdir():
            storage.write_bytes(storage.join(uri, file.name), file.read_bytes())
        storage.write_bytes(storage.join(uri, "pytorch_model.bin"), b"another format")
        remote = load_t5(uri)
        assert remote.reference["path"] == uri
        assert remote.fingerprint == load_t5(local).fingerprint == load_t5(uri).fingerprint
        (copy,) = (tmp_path / "cache" / "ssmttm" / "text-encoders").iterdir()
        assert {file.name for file in copy.iterdir()} == {file.name for file in (tmp_path / "local").iterdir()}
        config = storage.read_json(storage.join(uri, "config.json"))
        storage.write_json(storage.join(uri, "config.json"), config | {"d_model": 16, "changed": True})
        load_t5(uri)
        assert len(list(copy.parent.iterdir())) == 2
    finally:
        storage.remove_tree(uri)
    with pytest.raises(UserError, match="text encoder memory://models/t5 is missing"):
        load_t5(uri)


def test_a_file_uri_is_a_local_folder(tmp_path):
    folder = write_t5(tmp_path)
    assert load_t5(f"file://{folder}").fingerprint == load_t5(folder).fingerprint


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=rf"{tmp_path} has no model\.safetensors"):
        load_t5(str(tmp_path))


def test_collate_pads_left():
    batch = collate_text([np.ones((2, 3), np.float16), np.full((4, 3), 2, np.float16)], null=[True, False])
    assert batch["text"].mask_BS.tolist() == [[False, False, True, True], [True] * 4]
    assert batch["text"].states_BSD[0, :2].abs().sum() == 0
    assert batch["text"].pooled_BD[:, 0].tolist() == [1, 2]
    assert batch["text"].null_B.tolist() == [True, False]
    both = Conditions.cat(batch, batch.as_null())["text"]
    assert both.null_B.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda text: text.replace('"▁slow"', '"▁fast"')),
        ("config.json", lambda text: text.replace('"gated-gelu"', '"gated-silu"')),
        ("tokenizer_config.json", lambda text: text.replace("{", '{"add_eos": false,', 1)),
    ],
)
def test_the_fingerprint_knows_tokenizer_and_configuration(tmp_path, name, change):
    """Other tokens of the same text, or another network on the same weights, are another encoder."""
    folder = write_t5(tmp_path / "one")
    before = load_t5(folder)
    file = tmp_path / "one" / name
    assert change(file.read_text()) != file.read_text()
    file.write_text(change(file.read_text()))
    after = load_t5(folder)
    assert after.fingerprint != before.fingerprint
    assert not is_same_text(after.fingerprint, before.fingerprint)
    with pytest.raises(UserError, match=r"is another than the model was trained with"):
        load_text_encoder_from(after.reference, before.fingerprint)
    weights_alone = before.fingerprint.partition(".")[0]  # what data sets and bundles of before know
    assert is_same_text(after.fingerprint, weights_alone)
    assert load_text_encoder_from(after.reference, weights_alone).fingerprint == after.fingerprint


def test_notes_of_those_who_wrote_it_are_no_part_of_it(tmp_path):
    folder = write_t5(tmp_path)
    before = load_t5(folder)
    config = storage.read_json(storage.join(folder, "config.json"))
    storage.write_json(
        storage.join(folder, "config.json"), config | {"_name_or_path": "x", "transformers_version": "9"}
    )
    assert load_t5(folder).fingerprint == before.fingerprint


def test_numbers_are_part_of_the_first_half(tmp_path):
    folder = write_t5(tmp_path)
    plain = load_text_encoder(TextConfig(encoder="transformers", path=folder))
    numbered = load_text_encoder(TextConfig(encoder="transformers", path=folder, numbers=True))
    assert numbered.fingerprint == fingerprint_with_numbers(plain.fingerprint)
    assert not is_same_text(numbered.fingerprint, plain.fingerprint.partition(".")[0])


def test_an_address_is_not_fetched_but_may_be_replaced(tmp_path, monkeypatch):
    folder = write_t5(tmp_path)
    reference = load_t5(folder).reference
    for address in ("http://127.0.0.1:9/t5", "s3://bucket/t5", "hf://google/flan-t5-base", "zip::http://x/y"):
        with pytest.raises(UserError, match=r"not fetched; set SSMTTM_TEXT_ENCODER"):
            load_text_encoder_from(reference | {"path": address})
    monkeypatch.setenv("SSMTTM_TEXT_ENCODER", folder)
    assert load_text_encoder_from(reference | {"path": "s3://bucket/t5"}).dim == 16


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": "96"},
        {"max_tokens": 10**9},
        {"max_tokens": None},
        {"path": ["x"]},
        {"path": "a\nb"},
        {"encoder": 3},
        {"encoder": "none-such"},
    ],
)
def test_a_reference_that_makes_no_sense(tmp_path, change):
    with pytest.raises(UserError) as error:
        load_text_encoder_from({"encoder": "transformers", "path": str(tmp_path), "max_tokens": 96} | change)
    assert "\n" not in str(error.value)


def test_code_and_pipes_in_a_folder(tmp_path):
    """Nothing in it is run, and nothing in it is waited for."""
    folder = write_t5(tmp_path / "code")
    config = storage.read_json(storage.join(folder, "config.json"))
    foreign = {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": "evil"}
    storage.write_json(storage.join(folder, "config.json"), config | foreign)
    (tmp_path / "code" / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_t5(folder)
    folder = write_t5(tmp_path / "pipe")
    (tmp_path / "pipe" / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "pipe" / "model.safetensors")
    with pytest.raises(UserError, match="no regular file"):
        load_t5(folder)
