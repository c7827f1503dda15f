"""Divergence of what an AudioSet tagger hears: the Audio Spectrogram Transformer (arXiv 2104.01778) through
transformers' `ASTForAudioClassification`.

As usual for such figures, a softmax over the classes makes the tagger's logits a distribution, and the divergence is
KL(real || generated) of a clip and the real one with the same caption. Published figures use PaSST, another tagger:
compare none of them with these. L classes.
"""

from __future__ import annotations

import numpy as np
import torch

from ssmttm.audio import Audio, resample, to_mono
from ssmttm.evaluation import published

SMALLEST = 1e-9


class Tagger:
    """An AST checkpoint in a local folder.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = published.load("AST", "ASTForAudioClassification", folder, device)
        self._extractor = published.load_part("AST", "ASTFeatureExtractor", folder)
        self._device = device
        self.name = f"AST {published.title(folder)}"

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
