"""What the neural vocoder learns from: crops of clips, each with the log-mel that the codec keeps of it.

Shapes: B batch, N samples, F mel frames, M mel bands, L frequency bins, D latent dimensions, T code frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmttm.codec.mini import AHEAD_FRAMES, BLOCK_FRAMES, MiniCodec
from ssmttm.codec.neural_vocoder import FLOOR
from ssmttm.config import Config
from ssmttm.training.order import keyed_generator

GAIN_DB = (-12.0, 3.0)
MIXED = 0.5  # share of crops with a second one beneath, which makes them denser than a composer does
MIXED_DB = (-12.0, 0.0)
SPEED_OCTAVES = (-0.5, 0.5)  # so that pitches lie anywhere and instruments vary


@dataclass
class Crops:
    """A batch: original samples [B, N] float32, their log magnitudes [B, F, L], and the codec's log-mel [B, F, M].

    waveform, adversarial: what this step learns besides magnitudes. count: loss terms; the loss is a mean.
    """

    wav_BN: Tensor
    level_BFL: Tensor
    logmel_BFM: Tensor
    waveform: bool
    adversarial: bool
    count: int = 1

    def to(self, device: torch.device) -> Crops:
        moved = (self.wav_BN.to(device), self.level_BFL.to(device), self.logmel_BFM.to(device))
        return Crops(*moved, self.waveform, self.adversarial)


class CropSource:
    """Random crops of clips held in memory as 16-bit samples. Each is as long as a block of a stream with all that
    surrounds it, and a function of seed and step alone.

    Args:
        codec: fitted.
        clips: float32 [N] at the codec's rate.
    """

    def __init__(self, codec: MiniCodec, clips: list[np.ndarray], config: Config):
        self._codec, self._config, self._seed = codec, config.vocoder, config.train.seed
        context = config.vocoder.layers * (config.vocoder.kernel_size // 2)
        self.frames = -(-context // codec.config.stack) + BLOCK_FRAMES + AHEAD_FRAMES
        self._clips = [self._kept(clip) for clip in clips]

    def _kept(self, clip_N: np.ndarray) -> np.ndarray:
        """16-bit samples with silence around, and behind a clip that is shorter than a crop."""
        short = max(0, self.frames * self._codec.hop_length - len(clip_N))
        margin = self._codec.vocoder.margin
        return np.pad((clip_N * 32767).round().clip(-32768, 32767).astype(np.int16), (margin, margin + short))

    def batch(self, step: int) -> Crops:
        """The crops of optimizer step `step` (from 0)."""
        generator = keyed_generator("vocoder", self._seed, step)
        config = self._config
        crops = [self._crop(generator) for _ in range(config.batch)]
        quantised = torch.from_numpy(generator.random(config.batch) < config.quantised)
        waveform = step >= config.waveform_from
        adversarial = waveform and config.adversarial > 0 and step >= config.adversarial_from
        return make_crops(self._codec, np.stack(crops), quantised, waveform, adversarial)

    def _crop(self, generator: np.random.Generator) -> np.ndarray:
        crop_N = self._cut(generator) * np.float32(10 ** (generator.uniform(*GAIN_DB) / 20))
        if generator.random() < MIXED:
            crop_N = crop_N + self._cut(generator) * np.float32(10 ** (generator.uniform(*MIXED_DB) / 20))
        return crop_N

    def _cut(self, generator: np.random.Generator) -> np.ndarray:
        """A stretch of a clip at a random speed, with what Griffin-Lim's first and last frames reach beyond it."""
        clip = self._clips[generator.integers(len(self._clips))]
        length = self.frames * self._codec.hop_length + 2 * self._codec.vocoder.margin
        taken = min(len(clip), round(length * 2 ** generator.uniform(*SPEED_OCTAVES)))
        start = generator.integers(len(clip) - taken + 1)
        return _stretched(clip[start : start + taken].astype(np.float32) / 32767, length)


def _stretched(wav_N: np.ndarray, length: int) -> np.ndarray:
    """Samples played faster or slower, so that there are `length` of them: their Fourier series at another rate."""
    spectrum_K = np.fft.rfft(wav_N)[: length // 2 + 1]
    return np.fft.irfft(spectrum_K, n=length).astype(np.float32) * np.float32(length / len(wav_N))


@torch.no_grad()
def make_crops(
    codec: MiniCodec, surrounded_BN: np.ndarray, quantised_B: Tensor, waveform: bool, adversarial: bool
) -> Crops:
    """Crops of samples that begin and end a margin outside; `quantised_B` rows come from codes, the others from
    continuous latents."""
    wav_BN = torch.from_numpy(surrounded_BN)
    spectrum_BFL = codec.vocoder.spectra(wav_BN)
    latents_BDT = codec.latents_of_spectra(spectrum_BFL).mT
    if quantised_B.any():
        codes_BKT = codec.quantise(latents_BDT[quantised_B].mT)[0]
        latents_BDT[quantised_B] = codec.coarse(codes_BKT[:, 0]) + codec.fine_from_codes(codes_BKT)
    margin = codec.vocoder.margin
    return Crops(
        wav_BN[:, margin:-margin],
        spectrum_BFL.abs().clamp_min(FLOOR).log(),
        codec.logmel_of(latents_BDT),
        waveform,
        adversarial,
    )
