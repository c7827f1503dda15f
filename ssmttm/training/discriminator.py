"""Discriminators on spectrograms of several resolutions, and the losses of an adversarial game with them.

Each judges a log-magnitude spectrogram patch by patch (UnivNet, arXiv 2106.07889); least-squares losses (arXiv
1611.04076) and feature matching (arXiv 1910.06711).

Shapes: B batch, N samples, F frames, L frequency bins, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmttm.codec.metrics import RESOLUTIONS, STFT_FLOOR

WIDTH = 16
MATCHING = 2.0  # weight of feature matching beside the score


class SpectrogramDiscriminator(nn.Module):
    """Judges one resolution: scores [B, 1, F, l], and the features of every layer before."""

    window: Tensor

    def __init__(self, fft_size: int):
        super().__init__()
        self.fft_size = fft_size
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.layers = nn.ModuleList(
            nn.Conv2d(1 if index == 0 else WIDTH, WIDTH, (3, 9), stride=(1, 2), padding=(1, 4)) for index in range(4)
        )
        self.output = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, wav_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum_BLF = torch.stft(
            wav_BN, self.fft_size, self.fft_size // 4, window=self.window, pad_mode="constant", return_complex=True
        )
        power_BLF = torch.view_as_real(spectrum_BLF).square().sum(-1)
        x = power_BLF.clamp_min(STFT_FLOOR**2).log().mT[:, None] / 8
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.output(x), features


class Discriminators(nn.ModuleList):
    """One for each of `RESOLUTIONS`."""

    def __init__(self) -> None:
        super().__init__(SpectrogramDiscriminator(size) for size in RESOLUTIONS)

    def loss(self, fake_BN: Tensor, real_BN: Tensor) -> Tensor:
        """What they minimise: 1 for what is real, 0 for what is decoded."""
        losses = []
        for judge in self:
            losses.append((judge(real_BN)[0] - 1).square().mean() + judge(fake_BN)[0].square().mean())
        return torch.stack(losses).mean()

    def loss_of_generator(self, fake_BN: Tensor, real_BN: Tensor) -> Tensor:
        """What the vocoder minimises: a score of 1, and features like those of the original."""
        losses = []
        for judge in self:
            score, features = judge(fake_BN)
            with torch.no_grad():
                wanted = judge(real_BN)[1]
            matching = [(x - y).abs().mean() / y.abs().mean() for x, y in zip(features, wanted, strict=True)]
            losses.append((score - 1).square().mean() + MATCHING * torch.stack(matching).mean())
        return torch.stack(losses).mean()
