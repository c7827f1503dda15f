"""A small neural vocoder around Griffin-Lim: a network writes the magnitudes that a log-mel stands for, a few
projections find their phases, a second network corrects the spectra where the two do not fit.

The first is a stack of ConvNeXt blocks (arXiv 2201.03545) over time, as in Vocos (arXiv 2306.00814), but its output
corrects magnitudes that explain the mel bands, and says nothing about phase. The second follows deep Griffin-Lim (arXiv
1903.03971): it looks at each bin, its neighbours and what a projection makes of them, and changes nothing before it is
trained. Of phases it sees only differences, so that an overall turn does not matter to it.

Both see a bounded number of frames to the left, which blocks of a stream carry along, so that a stream is cut without
a trace; to the right they see as far as the block's look-ahead.

Shapes: B batch, F frames, M mel bands, L frequency bins, C channels, P patches of `PATCH` bins, E features per bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssmttm.codec.griffin_lim import GriffinLim, GriffinLimState, unit
from ssmttm.config import VocoderConfig

PATCH = 8  # bins that the second network takes together
FEATURES = 7
FLOOR = 1e-4  # of STFT magnitudes before the logarithm: about that of the log-mel
SHARPENING_STEPS = 2
SMALLEST_MEL = 1e-9
SMALLEST_VARIANCE = 0.05  # of a principal component of the log-mel; those below hardly count


@dataclass(frozen=True)
class VocoderState:
    """What a block must know of those before it.

    Attributes:
        griffin_lim: the state of its projections.
        phase_B1L: unit spectrum (complex) of the last finished frame, uncorrected.
        features_BFPE: the second network's input at the last finished frames, as many as it looks back.
    """

    griffin_lim: GriffinLimState
    phase_B1L: Tensor
    features_BFPE: Tensor


class TimeBlock(nn.Module):
    """A ConvNeXt block over time: [B, C, F] -> [B, C, F]."""

    def __init__(self, width: int, kernel_size: int, expand: int):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)

    def forward(self, x_BCF: Tensor) -> Tensor:
        h_BFC = self.norm(self.depthwise(x_BCF).mT)
        return x_BCF + self.down(nn.functional.gelu(self.up(h_BFC))).mT


class PlaneBlock(nn.Module):
    """A ConvNeXt block over three frames and five patches: [B, F, P, C] -> [B, F, P, C]."""

    def __init__(self, width: int, expand: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, (3, 5), padding=(1, 2), groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)

    def forward(self, x_BFPC: Tensor) -> Tensor:
        h_BFPC = self.norm(self.depthwise(x_BFPC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return x_BFPC + self.down(nn.functional.gelu(self.up(h_BFPC)))


class NeuralVocoder(nn.Module):
    """Log-mel to waveform, block by block.

    Args:
        config: sizes.
        filters_LM: the mel filters.
        griffin_lim: finds the phases; shared with the codec, and without weights.
    """

    filters_LM: Tensor
    spread_ML: Tensor
    shares_ML: Tensor
    advance_L: Tensor
    centre_M: Tensor
    whiten_MM: Tensor

    def __init__(self, config: VocoderConfig, filters_LM: Tensor, griffin_lim: GriffinLim):
        super().__init__()
        L, M = filters_LM.shape
        C, R = config.width, config.refine_width
        self.config = config
        self.context = config.layers * (config.kernel_size // 2)  # frames
        spread_ML, shares_ML = _spread(filters_LM)
        self.register_buffer("filters_LM", filters_LM, persistent=False)
        self.register_buffer("spread_ML", spread_ML, persistent=False)
        self.register_buffer("shares_ML", shares_ML, persistent=False)
        turns_L = torch.arange(L).double() * griffin_lim.hop / griffin_lim.fft_size % 1.0
        self.register_buffer("advance_L", torch.polar(torch.ones(L), 2 * math.pi * turns_L.float()), persistent=False)
        if config.layers:
            blocks = (TimeBlock(C, config.kernel_size, config.expand) for _ in range(config.layers))
            self.register_buffer("centre_M", torch.zeros(M))
            self.register_buffer("whiten_MM", torch.eye(M))
            self.input, self.blocks, self.norm = nn.Linear(M, C), nn.Sequential(*blocks), nn.LayerNorm(C)
            self.output = nn.Linear(C, L)
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)
        if config.refine_layers:
            patches = math.ceil(L / PATCH)
            self.refine_input = nn.Linear(PATCH * FEATURES, R)
            self.refine_places = nn.Parameter(torch.zeros(patches, R))
            self.refine_blocks = nn.Sequential(*(PlaneBlock(R, config.expand) for _ in range(config.refine_layers)))
            self.refine_norm = nn.LayerNorm(R)
            self.refine_output = nn.Linear(R, PATCH * 2)
            nn.init.zeros_(self.refine_output.weight)
            nn.init.zeros_(self.refine_output.bias)

    @torch.no_grad()
    def observe(self, logmel_BFM: Tensor) -> None:
        """Take the statistics of what is to come: the network's input is whitened, as neighbouring bands say nearly
        the same, and learns several times as fast for it."""
        if not self.config.layers:
            return
        self.centre_M.copy_(logmel_BFM.flatten(0, 1).mean(0))
        variance_M, vectors_MM = torch.linalg.eigh(torch.cov(logmel_BFM.flatten(0, 1).T).double())
        self.whiten_MM.copy_(vectors_MM / (variance_M + SMALLEST_VARIANCE).sqrt())

    def levels(self, logmel_BFM: Tensor) -> Tensor:
        """Natural-log STFT magnitudes [B, F, L] of natural-log mel magnitudes."""
        level_BFL = self._explanation(logmel_BFM.exp())
        if not self.config.layers:
            return level_BFL
        x_BCF = self.input((logmel_BFM - self.centre_M) @ self.whiten_MM).mT
        return level_BFL + self.output(self.norm(self.blocks(x_BCF).mT)).float()

    @torch.no_grad()
    def _explanation(self, mel_BFM: Tensor) -> Tensor:
        """Log magnitudes [B, F, L] that explain mel magnitudes: their envelope, sharpened by a few steps of Richardson
        and Lucy (1972, 1974). More of them fit the bands better and the spectrum worse."""
        magnitude_BFL = (mel_BFM @ self.spread_ML).clamp_min(FLOOR)
        for _ in range(SHARPENING_STEPS):
            missing_BFM = mel_BFM / (magnitude_BFL @ self.filters_LM).clamp_min(SMALLEST_MEL)
            magnitude_BFL = magnitude_BFL * (missing_BFM @ self.shares_ML)
        return magnitude_BFL.clamp_min(FLOOR).log()

    def block(
        self, level_BFL: Tensor, griffin_lim: GriffinLim, state: VocoderState | None, finish: int
    ) -> tuple[Tensor, VocoderState]:
        """Waveform of one block of `levels`, as `GriffinLim.block` makes it of magnitudes. Gradients reach both
        networks, but take the phases that Griffin-Lim found for given."""
        before = None if state is None else state.griffin_lim
        magnitude_BFL = level_BFL.exp()
        with torch.no_grad():
            found_BFL = griffin_lim.reconstruct(magnitude_BFL, before)
        spectrum_BFL = magnitude_BFL * unit(found_BFL)
        if not self.config.refine_layers:
            wav_BN, after = griffin_lim.finish(spectrum_BFL, before, finish)
            return wav_BN, VocoderState(after, spectrum_BFL[:, :0], magnitude_BFL[:, :0, None])
        with torch.no_grad():
            phase_BFL = unit(found_BFL)
            last_B1L = torch.zeros_like(phase_BFL[:, :1]) if state is None else state.phase_B1L
            rebuilt_BFL = griffin_lim.project(spectrum_BFL, before)
            features_BFPE = self._features(level_BFL, phase_BFL, last_B1L, rebuilt_BFL)
        seen = 0
        if state is not None:
            seen = state.features_BFPE.shape[1]
            features_BFPE = torch.cat([state.features_BFPE, features_BFPE], dim=1)
        wav_BN, after = griffin_lim.finish(spectrum_BFL * self._correction(features_BFPE)[:, seen:], before, finish)
        done_BFPE = features_BFPE[:, : seen + finish]
        return wav_BN, VocoderState(
            after, phase_BFL[:, finish - 1 : finish], done_BFPE[:, -self.config.refine_layers :].contiguous()
        )

    def _features(self, level_BFL: Tensor, phase_BFL: Tensor, last_B1L: Tensor, rebuilt_BFL: Tensor) -> Tensor:
        """What the second network sees [B, F, P, PATCH * E]: the level; the rebuilt spectrum relative to the wanted
        one; how the phase turns from the bin below, and from the frame before beyond the bin's own frequency."""
        ratio_BFL = rebuilt_BFL * phase_BFL.conj() * (-level_BFL.clamp_min(math.log(FLOOR))).exp()
        below_BFL = -phase_BFL[..., 1:] * phase_BFL[..., :-1].conj()  # neighbours of a centred peak have opposite signs
        before_BFL = phase_BFL * torch.cat([last_B1L, phase_BFL[:, :-1]], dim=1).conj() * self.advance_L.conj()
        pairs = [torch.view_as_real(ratio_BFL).clamp(-2, 2)]
        pairs += [nn.functional.pad(torch.view_as_real(below_BFL), (0, 0, 1, 0)), torch.view_as_real(before_BFL)]
        features_BFLE = torch.cat([level_BFL[..., None] / 4, *pairs], dim=-1)
        features_BFLE = nn.functional.pad(features_BFLE, (0, 0, 0, -features_BFLE.shape[2] % PATCH))
        return features_BFLE.unflatten(2, (-1, PATCH)).flatten(3)

    def _correction(self, features_BFPE: Tensor) -> Tensor:
        """Complex factors [B, F, L]: e at most, and any turn."""
        h_BFPC = self.refine_input(features_BFPE) + self.refine_places
        change = self.refine_output(self.refine_norm(self.refine_blocks(h_BFPC))).float()
        gain_BFL, turn_BFL = change.unflatten(-1, (PATCH, 2)).flatten(2, 3)[:, :, : len(self.advance_L)].unbind(-1)
        return torch.polar(gain_BFL.tanh().exp(), turn_BFL)


def _spread(filters_LM: Tensor) -> tuple[Tensor, Tensor]:
    """What takes mel magnitudes to an envelope over bins [M, L], each bin the weighted mean of the bands over it, each
    band the mean of its bins; and the weights [M, L] of that mean. The first and the last bin, which no band covers,
    belong to the outer bands."""
    weights_LM = filters_LM.clone()
    weights_LM[0, 0] = weights_LM[-1, -1] = 1.0
    weights_LM /= weights_LM.sum(1, keepdim=True).clamp_min(1e-12)
    return (weights_LM / filters_LM.sum(0).clamp_min(1e-12)).T.contiguous(), weights_LM.T.contiguous()
