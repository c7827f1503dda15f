"""Captions for tracks that have none, written by an audio language model: Qwen2-Audio (arXiv 2407.10759), the Instruct
variant, from a folder in the layout it is published in.

Captions are kept in a JSONL file beside the dataset, so that a killed run continues and a rerun reads the same text.

Shapes: C channels, N samples, S tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import storage
from ssmttm.audio import Audio, read, resample, to_mono
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Track

CACHE_NAME = "captions.jsonl"
PROMPT = (
    "Describe this music in one or two sentences: its genre, mood, tempo, rhythm and main instruments. "
    "Do not mention vocals or lyrics."
)
MAX_NEW_TOKENS = 60
MAX_WORDS = 50  # leaves room below the 96 tokens that text encoders are given (text.max_tokens)
MINIMUM_SECONDS = 0.5  # below, the audio hardly fills one of the model's tokens
SAVE_INTERVAL_S = 20.0
FINGERPRINTED = (".safetensors", ".json", ".txt", ".jinja")  # weights, configurations, vocabulary, chat template
MARKS = dict.fromkeys(map(ord, '"“”„«»`*\ufffd'))  # quotation marks, emphasis, half a character at the token limit


class AudioCaptioner:
    """A Qwen2-Audio model that describes audio, one clip at a time, in the numeric type of its checkpoint.

    Raises:
        UserError: if the folder holds no such checkpoint, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu", prompt: str = PROMPT):
        from safetensors import SafetensorError
        from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

        _checkpoint_files(folder)
        path = storage.local_path(folder)
        try:
            self._processor = AutoProcessor.from_pretrained(path)
            loaded: Any = Qwen2AudioForConditionalGeneration.from_pretrained(
                path, dtype="auto", use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"captioner {folder} cannot be loaded, fetch all of its files: {first_line}") from None
        model, report = loaded
        # Neither is an error to transformers: it draws missing tensors at random and makes up an empty tokenizer.
        if report["missing_keys"]:
            missing = len(report["missing_keys"])
            raise UserError(f"captioner {folder} lacks {missing} of the model's tensors; fetch all of its files")
        if self._processor.audio_token_id != model.config.audio_token_id:
            raise UserError(f"captioner {folder} has no tokenizer or another model's; fetch all of its files")
        self._model = model.eval().to(device)
        content = [{"type": "audio"}, {"type": "text", "text": prompt}]
        self._text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    @torch.inference_mode()
    def caption(self, audio: Audio) -> str:
        """One line about the middle of the audio, as much of it as the model hears at once (30 s); see
        `clean_caption`. Greedy: the same audio gives the same words. Empty if the model has nothing to say."""
        extractor = self._processor.feature_extractor
        heard = resample(to_mono(_middle(audio, extractor.chunk_length)), extractor.sampling_rate)
        inputs = self._processor(
            text=self._text, audio=[heard.samples[0]], sampling_rate=extractor.sampling_rate, return_tensors="pt"
        ).to(self._model.device)
        # The checkpoint's own settings sample.
        tokens_1S = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answer_S = tokens_1S[0, inputs["input_ids"].shape[1] :]
        return clean_caption(self._processor.tokenizer.decode(answer_S, skip_special_tokens=True))


def clean_caption(text: str) -> str:
    """A model's answer as a caption: one line without quotation marks or emphasis, of whole sentences with up to
    `MAX_WORDS` words together. An answer that holds no whole sentence of that length is cut after as many words."""
    printable = "".join(mark if mark.isprintable() else " " for mark in text.translate(MARKS))
    line = " ".join(printable.split()).strip(" '‘’")
    kept: list[str] = []
    words = 0
    for sentence in re.split(r"(?<=[.!?])\s+", line):
        words += len(sentence.split())
        if words > MAX_WORDS or not sentence.endswith((".", "!", "?")):
            break
        kept.append(sentence)
    return " ".join(kept) or " ".join(line.split()[:MAX_WORDS])


def captioner_fingerprint(folder: str, prompt: str = PROMPT) -> str:
    """SHA-256 over everything that decides a caption apart from the audio.

    Raises:
        UserError: if the folder holds no Qwen2-Audio checkpoint.
    """
    digests = {name: storage.digest(storage.join(folder, name)) for name in _checkpoint_files(folder)}
    content = {"files": digests, "prompt": prompt, "tokens": MAX_NEW_TOKENS, "words": MAX_WORDS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def caption_tracks(tracks: Sequence[Track], captioner_folder: str, cache_uri: str) -> list[Track]:
    """The tracks in their order, those without a caption with one written by the model. On a GPU if there is one.

    `cache_uri` is a folder, or the `.jsonl` file itself: one line for each track (id, model fingerprint, caption),
    saved every `SAVE_INTERVAL_S` seconds. A track whose audio cannot be read, is too short or not finite stays without
    a caption: preprocessing rejects it with its reason.

    Raises:
        UserError: if the folder holds no Qwen2-Audio checkpoint, or the cache is damaged.
    """
    bare = [track for track in tracks if not any(caption.strip() for caption in track.captions)]
    if not bare:
        return list(tracks)
    cache_uri = cache_uri if cache_uri.endswith(".jsonl") else storage.join(cache_uri, CACHE_NAME)
    fingerprint = captioner_fingerprint(captioner_folder)
    captions = _read_cache(cache_uri)
    pending = [track for track in bare if (track.id, fingerprint) not in captions]
    if pending:
        captioner = AudioCaptioner(captioner_folder, "cuda" if torch.cuda.is_available() else "cpu")
        saved_at = time.monotonic()
        try:
            for track in tqdm(pending, desc="caption", unit="track"):
                audio = _read_audio(track.audio)
                if audio is None:
                    continue
                captions[track.id, fingerprint] = captioner.caption(audio)
                if time.monotonic() - saved_at >= SAVE_INTERVAL_S:
                    _write_cache(cache_uri, captions)
                    saved_at = time.monotonic()
        finally:
            _write_cache(cache_uri, captions)
    found = {track.id: captions.get((track.id, fingerprint), "") for track in bare}
    return [replace(track, captions=(found[track.id],)) if found.get(track.id) else track for track in tracks]


def _checkpoint_files(folder: str) -> list[str]:
    """Names of the files that make up the model, sorted."""
    names = storage.list_names(folder)
    config = storage.read_json(storage.join(folder, "config.json")) if "config.json" in names else {}
    files = [name for name in names if name.endswith(FINGERPRINTED)]
    if config.get("model_type") != "qwen2_audio" or not any(name.endswith(".safetensors") for name in files):
        raise UserError(
            f"captioner {folder} holds no Qwen2-Audio checkpoint; give the folder of Qwen2-Audio-7B-Instruct "
            "(config.json, safetensors, tokenizer and preprocessor_config.json)"
        )
    return files


def _middle(audio: Audio, seconds: float) -> Audio:
    length = min(audio.samples.shape[1], round(seconds * audio.sample_rate))
    start = (audio.samples.shape[1] - length) // 2
    return Audio(audio.samples[:, start : start + length], audio.sample_rate)


def _read_audio(uri: str) -> Audio | None:
    """A file's audio, or None if preprocessing would reject the file. Network and disk faults pass through."""
    try:
        audio = read(uri)
    except (UserError, PermissionError, IsADirectoryError, NotADirectoryError):
        return None
    return audio if audio.seconds >= MINIMUM_SECONDS and np.isfinite(audio.samples).all() else None


def _read_cache(uri: str) -> dict[tuple[str, str], str]:
    """Caption by track id and model fingerprint."""
    captions: dict[tuple[str, str], str] = {}
    lines = storage.read_text(uri).split("\n") if storage.exists(uri) else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            captions[entry["id"], entry["model"]] = entry["caption"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f"{uri} line {number} is no cached caption; delete the line to write it again") from None
    return captions


def _write_cache(uri: str, captions: dict[tuple[str, str], str]) -> None:
    """Sorted, so that the bytes do not depend on how often a run was interrupted."""
    entries = [{"id": id, "model": model, "caption": caption} for (id, model), caption in sorted(captions.items())]
    storage.write_text(uri, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
