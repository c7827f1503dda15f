"""A peer to compare with: published MusicGen checkpoints (arXiv 2306.05284) through transformers.

B clips, C channels, N samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation import published

GUIDANCE, TOP_K, TEMPERATURE = 3.0, 250, 1.0  # its authors' defaults (section 4.2)


class MusicGen:
    """A `MusicgenForConditionalGeneration` checkpoint in a local folder, e.g. facebook/musicgen-small.

    Raises:
        UserError: if the folder does not hold one in safetensors, or not all of it.
    """

    def __init__(self, folder: str, device: str = "cpu"):
        self._model = published.load("MusicGen", "MusicgenForConditionalGeneration", folder, device)
        self._tokenizer = published.load_part("MusicGen", "AutoTokenizer", folder)
        self._device = device
        self.sample_rate = int(self._model.config.audio_encoder.sampling_rate)
        self.frame_rate = float(self._model.config.audio_encoder.frame_rate)
        self.name = f"MusicGen {published.title(folder)}"

    @torch.inference_mode()
    def generate(self, prompt: str, seconds: float, seed: int) -> Audio:
        """A clip of exactly so many seconds; the same seed gives the same clip.

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
