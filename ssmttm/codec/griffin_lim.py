"""Griffin-Lim phase reconstruction in fixed blocks of frames, so that a stream equals the whole piece bit for bit.

Fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013) on one block at a time, in the manner of RTISI-LA (Zhu,
Beauregard and Wyse, 2007): frames of finished blocks stay as they are and keep adding into the block in work, and
a few frames of look-ahead are iterated with it but thrown away, except that their phases start the next block.
Unknown phases start from single-pass spectrogram inversion (Beauregard, Harish and Wyse, 2015): each bin turns at
the frequency of the nearest spectral peak.

Frames: number f covers samples [f * hop - margin, f * hop - margin + fft_size), margin = (fft_size - hop) / 2, so
that frame f is centred on the hop samples it stands for and F frames stand for F * hop samples.

Shapes: B batch, F frames, K frequency bins (fft_size // 2 + 1), N samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOMENTUM = 0.99


@dataclass(frozen=True)
class GriffinLimState:
    """What a block must know of the frames before it.

    Attributes:
        sum_BN: windowed samples that finished frames add into the next fft_size - hop samples.
        weight_N: the squared windows behind `sum_BN`.
        ahead_BFK: unit spectra (complex) of the look-ahead frames, which open the next block.
    """

    sum_BN: Tensor
    weight_N: Tensor
    ahead_BFK: Tensor


class GriffinLim(nn.Module):
    """Magnitudes to waveform, block by block.

    Args:
        fft_size: samples per frame; fft_size - hop must be even.
        hop: samples between frames.
        iterations: projections per block.
    """

    window: Tensor
    sign_K: Tensor

    def __init__(self, fft_size: int, hop: int, iterations: int):
        super().__init__()
        self.fft_size, self.hop, self.iterations = fft_size, hop, iterations
        self.margin = (fft_size - hop) // 2
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        sign_K = 1 - 2 * (torch.arange(fft_size // 2 + 1) % 2)  # the half-frame delay of a centred window
        self.register_buffer("sign_K", sign_K.float(), persistent=False)

    def stft(self, wav_BN: Tensor) -> Tensor:
        """Spectra [B, F, K] (complex) of F = N / hop frames; N must be a multiple of hop."""
        return self.spectra(nn.functional.pad(wav_BN, (self.margin, self.margin)))

    def spectra(self, surrounded_BN: Tensor) -> Tensor:
        """Spectra [B, F, K] (complex) of samples that begin and end `margin` outside the hops they stand for."""
        return torch.fft.rfft(surrounded_BN.unfold(-1, self.fft_size, self.hop) * self.window)

    def block(
        self, magnitude_BFK: Tensor, state: GriffinLimState | None, finish: int
    ) -> tuple[Tensor, GriffinLimState]:
        """Reconstruct one block.

        Args:
            magnitude_BFK: magnitudes of the block's frames and its look-ahead.
            state: from the block before; None for the first.
            finish: frames to finish; the rest is look-ahead. All frames: the stream ends here.

        Returns:
            (wav_BN, state): the samples that no later frame can change. They lag `margin` samples behind the
            finished frames; the last block returns them all.
        """
        return self.finish(self.reconstruct(magnitude_BFK, state), state, finish)

    def reconstruct(self, magnitude_BFK: Tensor, state: GriffinLimState | None) -> Tensor:
        """Spectra [B, F, K] (complex) of these magnitudes, after `iterations` projections."""
        ahead_BFK = torch.polar(magnitude_BFK[:, :0], magnitude_BFK[:, :0]) if state is None else state.ahead_BFK
        spectrum_BFK = magnitude_BFK * self._initial_phases(magnitude_BFK, ahead_BFK)
        inverse_N, previous_BFK = self._inverse_weights(magnitude_BFK.shape[1], state), None
        for _ in range(self.iterations):
            rebuilt_BFK = self.spectra(self._sum(self._inverse(spectrum_BFK), state) * inverse_N)
            target_BFK = rebuilt_BFK if previous_BFK is None else rebuilt_BFK.lerp(previous_BFK, -MOMENTUM)
            previous_BFK = rebuilt_BFK
            spectrum_BFK = magnitude_BFK * unit(target_BFK)
        return spectrum_BFK

    def project(self, spectrum_BFK: Tensor, state: GriffinLimState | None) -> Tensor:
        """Spectra [B, F, K] of the waveform that these make beside the frames finished before."""
        wav_BN = self._sum(self._inverse(spectrum_BFK), state)
        return self.spectra(wav_BN * self._inverse_weights(spectrum_BFK.shape[1], state))

    def finish(
        self, spectrum_BFK: Tensor, state: GriffinLimState | None, finish: int
    ) -> tuple[Tensor, GriffinLimState]:
        """Samples and state of a block whose spectra are decided; see `block`."""
        F = spectrum_BFK.shape[1]
        frames_BFN = self._inverse(spectrum_BFK)
        wav_BN = self._sum(frames_BFN, state) * self._inverse_weights(F, state)
        start = self.margin if state is None else 0
        stop = F * self.hop + self.margin if finish == F else finish * self.hop
        done_BN, done_N = self._sum(frames_BFN[:, :finish], state), self._weights(finish, state)
        after = GriffinLimState(
            done_BN[:, finish * self.hop :], done_N[finish * self.hop :], unit(spectrum_BFK[:, finish:])
        )
        return wav_BN[:, start:stop], after

    def _sum(self, frames_BFN: Tensor, state: GriffinLimState | None) -> Tensor:
        carried_BN = frames_BFN.new_zeros(len(frames_BFN), self.fft_size - self.hop) if state is None else state.sum_BN
        return self._add(frames_BFN, carried_BN)

    def _weights(self, frames: int, state: GriffinLimState | None) -> Tensor:
        """Squared windows [N] behind each sample of `frames` frames and those before."""
        carried_N = self.window.new_zeros(self.fft_size - self.hop) if state is None else state.weight_N
        return self._add(self.window.square().expand(1, frames, -1), carried_N[None])[0]

    def _inverse_weights(self, frames: int, state: GriffinLimState | None) -> Tensor:
        scale_N = self.window.sum() * 1e-5  # where next to no window reaches, samples fade instead of blowing up
        return 1 / self._weights(frames, state).clamp_min(float(scale_N))

    def _inverse(self, spectrum_BFK: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum_BFK, n=self.fft_size) * self.window

    def _add(self, frames_BFN: Tensor, carried_BN: Tensor) -> Tensor:
        """Overlap-add frames [B, F, fft_size], a hop apart, onto what earlier frames carried over."""
        B, F, size = frames_BFN.shape
        steps = math.ceil(size / self.hop)
        rows_BFN = frames_BFN.new_zeros(B, F + steps - 1, self.hop)
        for step in range(steps):
            piece = frames_BFN[:, :, step * self.hop : (step + 1) * self.hop]
            rows_BFN[:, step : step + F, : piece.shape[-1]] += piece
        total_BN = rows_BFN.flatten(1)[:, : (F - 1) * self.hop + size]
        total_BN[:, : carried_BN.shape[-1]] += carried_BN
        return total_BN

    def _initial_phases(self, magnitude_BFK: Tensor, ahead_BFK: Tensor) -> Tensor:
        """Unit spectra [B, F, K]: those known from the last block, then turned on by the nearest peak's frequency."""
        known = ahead_BFK.shape[1]
        frequency_BFK = _peak_bins(magnitude_BFK[:, known:])
        turns_BFK = frequency_BFK.double().cumsum(1) * (self.hop / self.fft_size)
        if known:
            turns_BFK += (ahead_BFK[:, -1:] * self.sign_K).angle() / (2 * math.pi)
        angle_BFK = (turns_BFK % 1.0).to(magnitude_BFK.dtype) * (2 * math.pi)
        guess_BFK = torch.polar(self.sign_K.abs().expand_as(angle_BFK), angle_BFK) * self.sign_K
        return torch.cat([ahead_BFK, guess_BFK], dim=1)


def unit(spectrum_BFK: Tensor) -> Tensor:
    """Divide each bin by its modulus; zero stays zero."""
    real_BFK, imaginary_BFK = spectrum_BFK.real, spectrum_BFK.imag
    return spectrum_BFK * (real_BFK.square() + imaginary_BFK.square() + 1e-16).rsqrt()


def _peak_bins(magnitude_BFK: Tensor) -> Tensor:
    """The fractional bin of the peak nearest to each bin, by a parabola through log magnitudes."""
    K = magnitude_BFK.shape[-1]
    level_BFK = magnitude_BFK.clamp_min(1e-9).log()
    left, middle, right = level_BFK[..., :-2], level_BFK[..., 1:-1], level_BFK[..., 2:]
    is_peak = nn.functional.pad((middle > left) & (middle >= right), (1, 1))
    curvature = (left - 2 * middle + right).clamp_max(-1e-9)
    shift = nn.functional.pad((0.5 * (left - right) / curvature).clamp(-0.5, 0.5), (1, 1))
    bins_K = torch.arange(K, device=magnitude_BFK.device)
    below = torch.where(is_peak, bins_K, -K).cummax(-1).values
    above = torch.where(is_peak, bins_K, 2 * K).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(bins_K - below <= above - bins_K, below, above)
    has_peak = (nearest >= 0) & (nearest < K)
    nearest = torch.where(has_peak, nearest, bins_K)
    return nearest + torch.where(has_peak, shift.gather(-1, nearest), 0)
