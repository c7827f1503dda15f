"""Published checkpoints through transformers' classes, from safetensors, complete or not at all: two that listen, CLAP
and an AudioSet tagger, and a peer to compare with, MusicGen.

N clips or texts, D dimensions, L classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssmttm import audio, storage
from ssmttm.audio import Audio, resample, to_mono
from ssmttm.errors import UserError

TRAINED_TOKENS = 77  # LAION trained CLAP with texts of at most this many
SMALLEST = 1e-9  # share of a class, in a divergence
GUIDANCE, TOP_K, TEMPERATURE = 3.0, 250, 1.0  # MusicGen's authors' defaults (section 4.2)


def load(kind: str, class_name: str, folder: str, device: str = "cpu") -> Any:
    """The frozen fp32 model of a checkpoint folder.

    Args:
        kind: what it is called in errors, e.g. "CLAP".
        class_name: of transformers, e.g. "ClapModel".
        folder: local, with config.json and *.safetensors.

    Raises:
        UserError: if the folder holds no such checkpoint, only pickled weights, or not all of it.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging

    _check(kind, folder)
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, class_name).from_pretrained(
            storage.local_path(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{kind} {folder} cannot be loaded, fetch all of its files: {_first_line(error)}") from None
    finally:
        if had_bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:  # transformers draws them at random
        missing = len(report["missing_keys"])
        raise UserError(f"{kind} {folder} lacks {missing} of the model's tensors; fetch all of its files")
    return model.eval().requires_grad_(False).to(device)


def load_part(kind: str, class_name: str, folder: str) -> Any:
    """The tokenizer or feature extractor of a checkpoint folder.

    Raises:
        UserError: if it is not there.
    """
    import transformers

    try:
        return getattr(transformers, class_name).from_pretrained(storage.local_path(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{kind} {folder} cannot be loaded, fetch all of its files: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check(kind: str, folder: str) -> None:
    names = storage.list_names(folder)
    if "config.json" not in names:
        raise UserError(f"{kind} {folder} has no config.json; give the folder of a transformers checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = next((name for name in names if name.endswith((".bin", ".pt", ".ckpt"))), None)
        has = f"has {pickled}, which is a pickle and is not read" if pickled else "has no weights"
        raise UserError(f"{kind} {folder} {has}; give a copy in safetensors")


def fingerprint(folder: str) -> str:
    """Sixteen hexadecimal digits that change with any weight."""
    names = [name for name in storage.list_names(folder) if name.endswith(".safetensors")]
    digests = [storage.digest(storage.join(folder, name)) for name in names]
    return hashlib.sha256(":".join(digests).encode()).hexdigest()[:16]


def title(folder: str) -> str:
    """How figures name a checkpoint: the folder's own name and its fingerprint."""
    return f"{folder.rstrip('/').rsplit('/', 1)[-1]} ({fingerprint(folder)})"


class Clap:
    """CLAP (arXiv 2211.06687) in a local folder: one space for audio and text.

    The protocol is that of the ATTM challenge (ICME 2026): one vector of unit length for each clip, from its first ten
    seconds; the score is the cosine with the prompt's vector, the Fréchet distance is taken over the same vectors.
    Figures of two checkpoints are not comparable, nor are those of VGGish or OpenL3.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = load("CLAP", "ClapModel", folder, device)
        self._extractor = load_part("CLAP", "ClapFeatureExtractor", folder)
        self._tokenizer = load_part("CLAP", "AutoTokenizer", folder)
        self._folder, self._device = folder, device
        self.name = f"CLAP {title(folder)}"
        config = self._model.config.text_config
        self.max_tokens = int(config.max_position_embeddings - config.pad_token_id - 1)  # positions as RoBERTa counts

    @property
    def seconds(self) -> float:
        """How much of a clip is heard, from its start."""
        return float(self._extractor.max_length_s)

    @torch.inference_mode()
    def hear(self, clip: Audio) -> np.ndarray:
        """Vector [D] of unit length, float32."""
        rate = self._extractor.sampling_rate
        wav_N = resample(to_mono(clip), rate).samples[0, : self._extractor.nb_max_samples]
        inputs = self._extractor(wav_N, sampling_rate=rate, return_tensors="pt")
        features = inputs["input_features"].float().to(self._device)
        # For want of a long clip the extractor marks one at random as long, which would make results differ.
        is_longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self._device)
        output = self._model.get_audio_features(input_features=features, is_longer=is_longer)
        return output.pooler_output[0].float().cpu().numpy()

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [N, D] of unit length, float32; each text alone, so that padding has no part in it.

        Raises:
            UserError: if a text has more tokens than the model has positions.
        """
        rows = []
        for text in texts:
            ids = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
            if len(ids) > self.max_tokens:
                raise UserError(
                    f"a prompt of {len(ids)} tokens is over CLAP's limit of {self.max_tokens}; shorten it: "
                    f"{text[:60]!r}..."
                )
            tokens = torch.tensor([ids], device=self._device)
            output = self._model.get_text_features(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            rows.append(output.pooler_output[0].float().cpu().numpy())
        return np.stack(rows)

    def longer_than_trained(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than CLAP was trained on. They are read whole, not cut."""
        lengths = [len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in texts]
        return sum(length > TRAINED_TOKENS for length in lengths)


def cosines(audio_ND: np.ndarray, text_ND: np.ndarray) -> np.ndarray:
    """Cosine of each clip with the text beside it, float64 [N]."""
    heard, read = (np.asarray(one, dtype=np.float64) for one in (audio_ND, text_ND))
    norms = np.linalg.norm(heard, axis=1) * np.linalg.norm(read, axis=1)
    return (heard * read).sum(axis=1) / np.maximum(norms, 1e-12)


class Tagger:
    """The Audio Spectrogram Transformer (arXiv 2104.01778) in a local folder: which AudioSet classes a clip holds.

    As usual for such figures, a softmax over the classes makes the tagger's logits a distribution, and the divergence
    is KL(real || generated) of a clip and the real one with the same caption. Published figures use PaSST, another
    tagger: compare none of them with these.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = load("AST", "ASTForAudioClassification", folder, device)
        self._extractor = load_part("AST", "ASTFeatureExtractor", folder)
        self._device = device
        self.name = f"AST {title(folder)}"

    @torch.inference_mode()
    def hear(self, clip: Audio) -> np.ndarray:
        """Softmax over the classes [L], float64, of the clip's first ten seconds (the model's `max_length`)."""
        rate = self._extractor.sampling_rate
        wav_N = resample(to_mono(clip), rate).samples[0]
        features = self._extractor(wav_N, sampling_rate=rate, return_tensors="pt")["input_values"]
        logits = self._model(features.to(self._device)).logits[0]
        return torch.softmax(logits.double(), dim=-1).cpu().numpy()


def divergence(real_L: np.ndarray, made_L: np.ndarray) -> float:
    """KL(real || made) in nats."""
    real, made = np.maximum(real_L, SMALLEST), np.maximum(made_L, SMALLEST)
    return float(np.sum(real * np.log(real / made)))


class MusicGen:
    """A MusicGen checkpoint (arXiv 2306.05284) in a local folder, e.g. facebook/musicgen-small.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = load("MusicGen", "MusicgenForConditionalGeneration", folder, device)
        self._tokenizer = load_part("MusicGen", "AutoTokenizer", folder)
        self._device = device
        self.sample_rate = int(self._model.config.audio_encoder.sampling_rate)
        self.frame_rate = float(self._model.config.audio_encoder.frame_rate)
        self.model_id = f"MusicGen {title(folder)}"

    @torch.inference_mode()
    def generate(self, prompt: str, seconds: float, seed: int) -> Audio:
        """A clip of exactly this many seconds; the same seed gives the same clip.

        Raises:
            UserError: if it is longer than the decoder has positions for.
        """
        decoder = self._model.config.decoder
        frames = math.ceil(seconds * self.frame_rate)
        steps = frames + decoder.num_codebooks  # of the delay pattern
        if steps > decoder.max_position_embeddings:
            most = (decoder.max_position_embeddings - decoder.num_codebooks) / self.frame_rate
            raise UserError(f"MusicGen makes {most:.1f} s at most, {seconds:g} were asked for; lower evaluate.seconds")
        tokens = torch.tensor([self._tokenizer(prompt)["input_ids"]], device=self._device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            samples_BCN = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                guidance_scale=GUIDANCE,
                top_k=TOP_K,
                temperature=TEMPERATURE,
                max_new_tokens=steps,
                min_new_tokens=steps,
            )
        samples = samples_BCN[0].float().cpu().numpy()[:, : round(seconds * self.sample_rate)]
        return Audio(np.ascontiguousarray(samples), self.sample_rate)

    def save(self, uri: str, clip: Audio, prompt: str, seed: int) -> None:
        """Write a clip to a file that says what it is."""
        audio.write(uri, clip, {"ai_generated": True, "model": self.model_id, "prompt": prompt, "seed": seed})
