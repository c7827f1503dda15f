"""CLAP (arXiv 2211.06687): one space for audio and text, through transformers' `ClapModel`.

The protocol is that of the ATTM challenge (ICME 2026): one vector of unit length for each clip, from its first ten
seconds; the score is the cosine with the prompt's vector, the Fréchet distance is taken over the same vectors. Figures
of two checkpoints are not comparable, nor are those of VGGish or OpenL3. N clips or texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ssmttm.audio import Audio, resample, to_mono
from ssmttm.errors import UserError
from ssmttm.evaluation import published

TRAINED_TOKENS = 77  # LAION trained with texts of at most so many


class Clap:
    """A CLAP checkpoint in a local folder.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = published.load("CLAP", "ClapModel", folder, device)
        self._extractor = published.load_part("CLAP", "ClapFeatureExtractor", folder)
        self._tokenizer = published.load_part("CLAP", "AutoTokenizer", folder)
        self._folder, self._device = folder, device
        self.name = f"CLAP {published.title(folder)}"
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
    audio, text = (np.asarray(one, dtype=np.float64) for one in (audio_ND, text_ND))
    norms = np.linalg.norm(audio, axis=1) * np.linalg.norm(text, axis=1)
    return (audio * text).sum(axis=1) / np.maximum(norms, 1e-12)
