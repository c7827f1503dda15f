"""The captioner on a tiny random Qwen2-Audio checkpoint in the published layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.sources import captioner
from ssmttm.sources.captioner import AudioCaptioner, caption_tracks, captioner_fingerprint, clean_caption
from ssmttm.sources.manifest import Track

RATE = 16_000
WINDOW_S = 2  # what the tiny model hears at once
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
# As published with Qwen2-Audio-7B-Instruct, apart from the token ids.
GENERATION = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.5, "repetition_penalty": 1.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """config.json, sharded safetensors, tokenizer.json, preprocessor_config.json, generation_config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2Tokenizer,
        WhisperFeatureExtractor,
    )

    path = tmp_path_factory.mktemp("qwen2-audio")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["a calm piano piece with strings, a fast techno track"],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False),
    )
    tokenizer = Qwen2Tokenizer(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
    )
    tokenizer.save_pretrained(path)
    WhisperFeatureExtractor(feature_size=16, chunk_length=WINDOW_S, sampling_rate=RATE).save_pretrained(path)
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16,
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "max_source_positions": WINDOW_S * 50,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(list(SPECIAL))] = 0.0  # never the likeliest: long answers
    model.to(torch.bfloat16).save_pretrained(path, max_shard_size="50KB")
    ends = {
        "eos_token_id": tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]),
        "pad_token_id": tokenizer.pad_token_id,
    }
    (path / "generation_config.json").write_text(json.dumps({**GENERATION, **ends}))
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> AudioCaptioner:
    return AudioCaptioner(folder)


@pytest.fixture
def damaged(folder: str, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def noise(seconds: float, seed: int = 0, channels: int = 1, rate: int = RATE) -> Audio:
    shape = (channels, round(seconds * rate))
    return Audio(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.1), rate)


def track(folder: Path, name: str, sound: Audio | None, captions: tuple[str, ...] = ()) -> Track:
    uri = str(folder / f"{name}.wav")
    if sound is not None:
        audio.write(uri, sound)
    return Track(name, uri, captions, "train", "CC0-1.0", "", "", "", 0.0)


@pytest.fixture
def tracks(tmp_path: Path) -> list[Track]:
    (tmp_path / "text.wav").write_text("no audio")
    return [
        track(tmp_path, "b", noise(1.0, 1)),
        track(tmp_path, "said", noise(1.0), ("a caption",)),
        track(tmp_path, "missing", None),
        track(tmp_path, "text", None),
        track(tmp_path, "short", noise(0.1)),
        track(tmp_path, "a", noise(1.0, 2, channels=2, rate=44_100), ("  ",)),
    ]


def test_greedy_whatever_the_checkpoint_samples_with(model: AudioCaptioner, folder: str) -> None:
    caption = model.caption(noise(1.5))
    torch.manual_seed(7)
    assert caption
    assert caption == model.caption(noise(1.5)) == AudioCaptioner(folder).caption(noise(1.5))


def test_words_depend_on_the_audio_and_on_the_prompt(model: AudioCaptioner, folder: str) -> None:
    caption = model.caption(noise(1.5))
    assert caption != model.caption(Audio(np.zeros((1, RATE), np.float32), RATE))
    assert caption != AudioCaptioner(folder, prompt="What is this?").caption(noise(1.5))


def test_greedy_decoding_against_whole_passes(model: AudioCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference: no cache, one pass over everything for each token, the published repetition penalty by hand."""
    processor, network = model._processor, model._model
    inputs = processor(text=model._text, audio=[noise(1.5).samples[0]], sampling_rate=RATE, return_tensors="pt")
    start = inputs["input_ids"].shape[1]
    for _ in range(8):
        with torch.no_grad():
            scores_V = network(**inputs).logits[0, -1].float()
        seen = inputs["input_ids"][0].unique()
        scores_V[seen] = torch.where(scores_V[seen] < 0, scores_V[seen] * 1.1, scores_V[seen] / 1.1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], scores_V.argmax().view(1, 1)], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    expected = clean_caption(processor.tokenizer.decode(inputs["input_ids"][0, start:], skip_special_tokens=True))
    monkeypatch.setattr(captioner, "MAX_NEW_TOKENS", 8)
    assert model.caption(noise(1.5)) == expected


def test_the_middle_of_long_audio_is_heard(model: AudioCaptioner) -> None:
    long = noise(5.0)
    middle = Audio(long.samples[:, RATE * 3 // 2 : RATE * 7 // 2], RATE)
    assert model.caption(long) == model.caption(middle)


def test_audio_is_mixed_down_and_resampled(model: AudioCaptioner) -> None:
    stereo = noise(1.5, channels=2, rate=32_000)
    assert model.caption(stereo) == model.caption(audio.resample(audio.to_mono(stereo), RATE))


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ('"A calm\npiano piece."', "A calm piano piece."),
        ("“Slow.”  It's a **waltz**, isn't it?", "Slow. It's a waltz, isn't it?"),
        ("'A drone'", "A drone"),
        ("A whole sentence. And half of", "A whole sentence."),
        ("No sentence at all\ufffd", "No sentence at all"),
        ("one " * 30 + "end. " + "two " * 30 + "end.", "one " * 30 + "end."),
        ("one " * 80 + "end.", ("one " * captioner.MAX_WORDS).strip()),
        (" \n'' ", ""),
    ],
)
def test_cleaning(answer: str, caption: str) -> None:
    assert clean_caption(answer) == caption


def test_only_readable_tracks_without_a_caption_get_one(folder: str, tracks: list[Track], tmp_path: Path) -> None:
    made = caption_tracks(tracks, folder, str(tmp_path))
    assert [entry.id for entry in made] == [entry.id for entry in tracks]
    by_id = {entry.id: entry for entry in made}
    assert all(
        by_id[name] is entry for name in ("said", "missing", "text", "short") for entry in tracks if entry.id == name
    )
    assert all(len(by_id[name].captions) == 1 and by_id[name].captions[0].strip() for name in ("a", "b"))
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    fingerprint = captioner_fingerprint(folder)
    assert lines == [{"id": name, "model": fingerprint, "caption": by_id[name].captions[0]} for name in ("a", "b")]


def test_the_cache_is_read(folder: str, tracks: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "mine.jsonl")
    tracks = [tracks[0], tracks[1], tracks[-1]]
    made = caption_tracks(tracks, folder, uri)
    written = Path(uri).read_bytes()
    monkeypatch.setattr(captioner, "AudioCaptioner", None)  # not needed any more
    assert caption_tracks(tracks, folder, uri) == made
    assert Path(uri).read_bytes() == written
    lines = [json.loads(line) for line in written.splitlines()]
    Path(uri).write_text("".join(json.dumps({**line, "caption": "from the cache"}) + "\n" for line in lines))
    assert caption_tracks(tracks, folder, uri)[0].captions == ("from the cache",)


def test_another_model_writes_anew(folder: str, damaged: Path, tracks: list[Track], tmp_path: Path) -> None:
    caption_tracks(tracks[:1], folder, str(tmp_path))
    (damaged / "chat_template.jinja").write_text("{{ 'Audio: <|audio_bos|><|AUDIO|><|audio_eos|>' }}")
    other = caption_tracks(tracks[:1], str(damaged), str(tmp_path))
    assert other != caption_tracks(tracks[:1], folder, str(tmp_path))
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_a_killed_run_continues(
    folder: str, tracks: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """Interrupted in the second track; the bytes in the end are those of a run that was not."""
    whole = caption_tracks(tracks, folder, str(tmp_path / "whole"))
    monkeypatch.setattr(captioner, "SAVE_INTERVAL_S", interval)
    caption, calls = AudioCaptioner.caption, []

    def interrupted(self: AudioCaptioner, sound: Audio) -> str:
        calls.append(sound)
        if len(calls) == 2:
            assert (tmp_path / "killed" / "captions.jsonl").exists() == (interval == 0.0)  # what outlives a hard kill
            raise KeyboardInterrupt
        return caption(self, sound)

    monkeypatch.setattr(AudioCaptioner, "caption", interrupted)
    with pytest.raises(KeyboardInterrupt):
        caption_tracks(tracks, folder, str(tmp_path / "killed"))
    assert len((tmp_path / "killed" / "captions.jsonl").read_text().splitlines()) == 1
    assert caption_tracks(tracks, folder, str(tmp_path / "killed")) == whole
    assert len(calls) == 3
    for name in ("killed", "whole"):
        assert (tmp_path / name / "captions.jsonl").read_bytes() == (tmp_path / "whole" / "captions.jsonl").read_bytes()


def test_nothing_to_do_needs_no_model(tracks: list[Track], tmp_path: Path) -> None:
    assert caption_tracks([tracks[1]], str(tmp_path / "none"), str(tmp_path)) == [tracks[1]]
    assert not (tmp_path / "captions.jsonl").exists()


def test_a_damaged_cache_is_named(folder: str, tracks: list[Track], tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"id": "a", "model": "m", "caption": "c"}\n{"id"\n')
    with pytest.raises(UserError, match=r"captions\.jsonl line 2 is no cached caption"):
        caption_tracks(tracks, folder, str(tmp_path))


def test_folders_without_such_a_model(tracks: list[Track], tmp_path: Path) -> None:
    for content in (None, "{}", '{"model_type": "qwen2"}', '{"model_type": "qwen2_audio"}'):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="holds no Qwen2-Audio checkpoint"):
            AudioCaptioner(str(tmp_path))
    with pytest.raises(UserError, match="holds no Qwen2-Audio checkpoint"):
        caption_tracks(tracks, str(tmp_path / "nowhere"), str(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["model-00002-of-00002.safetensors", "model.safetensors.index.json", "preprocessor_config.json", "tokenizer.json"],
)
def test_incomplete_checkpoints(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(UserError, match="fetch all of its files"):
        AudioCaptioner(str(damaged))


def test_a_truncated_download(damaged: Path) -> None:
    shard = damaged / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="fetch all of its files"):
        AudioCaptioner(str(damaged))


def test_missing_tensors(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    config["audio_config"]["encoder_layers"] = 2
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lacks 15 of the model's tensors"):
        AudioCaptioner(str(damaged))
