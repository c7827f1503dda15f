"""The embedded codec: log-mel, PCA, residual k-means, Griffin-Lim. Fits in seconds on a CPU; nothing of this is learned
by gradient.

waveform -> log-mel (50 Hz) -> PCA (orthonormal, not whitened: distances stay those of the log-mel) -> `stack` frames
side by side -> residual k-means at 25 Hz. Coarse latents are the centroids of codebook 0, fine latents the rest of
the PCA vector, continuous. Back: their sum -> log-mel -> magnitudes -> Griffin-Lim, or a neural vocoder that was
trained on top.

Shapes: B batch, N samples, F mel frames, M mel bands, P principal components, T code frames, D = stack * P,
K codebooks, V entries, L frequency bins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssmttm.audio import log_mel, mel_filters
from ssmttm.codec.base import Codec
from ssmttm.codec.griffin_lim import GriffinLim, GriffinLimState
from ssmttm.codec.kmeans import fit_residual_codebooks, nearest
from ssmttm.codec.neural_vocoder import NeuralVocoder, VocoderState
from ssmttm.config import CodecConfig, VocoderConfig
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads

FLOOR = 1e-5  # of mel magnitudes, before the logarithm
BLOCK_FRAMES = 16  # code frames decoded together (0.64 s at 25 Hz)
AHEAD_FRAMES = 4  # code frames of look-ahead in a block
NONNEGATIVE_STEPS = 2
SPECTRA_FRAMES = 1500  # mel frames whose spectra are held at a time (30 s at 50 Hz)
DEAD_SHARE = 0.1  # a codebook of which less is used says next to nothing
# With fewer, the first codebooks leave nothing over: at 2.7 of 1,024 entries half of eight were dead, at 5.4 none.
FRAMES_PER_ENTRY = 6


def dead_codebooks(dead: Sequence[int], books: int, size: int) -> str:
    """What it means that these codebooks are hardly used, and what helps."""
    alive = f"codec.num_codebooks={books - len(dead)} or " if len(dead) < books else ""
    return (
        f"codebooks {', '.join(map(str, dead))} of {books} use less than a tenth of their {size} entries; fit the "
        f"codec on more music (at least {FRAMES_PER_ENTRY * size:,} code frames), or with {alive}a smaller "
        "codec.codebook_size"
    )


@dataclass(frozen=True)
class MiniDecodeState:
    """A stream's decoder between two chunks: latents [B, D, T], the first `context` of which are decoded and only
    surround what follows, and the vocoder's own state."""

    latents_BDT: Tensor
    context: int
    vocoder: GriffinLimState | VocoderState | None


class MiniCodec(Codec):
    """See the module. Unusable until `fit` or `load_codec`.

    Args:
        config: sizes; `path` and `fit_clips` are not used here.

    Raises:
        UserError: for sizes that do not fit together.
    """

    name = "mini"
    is_fitted = True
    takes_vocoder = True
    encode_batch = 8
    mean_M: Tensor
    basis_MP: Tensor
    codebooks_KVD: Tensor
    filters_LM: Tensor
    inverse_ML: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        if config.fft_size <= config.hop or (config.fft_size - config.hop) % 2:
            raise UserError(
                f"codec.fft_size={config.fft_size} must be larger than codec.hop={config.hop} by an even number"
            )
        if config.pca_dim > config.num_mels:
            raise UserError(f"codec.pca_dim={config.pca_dim} must be at most codec.num_mels={config.num_mels}")
        self.config = config
        self.sample_rate = config.sample_rate
        self.hop_length = config.hop * config.stack
        self.num_codebooks, self.codebook_size = config.num_codebooks, config.codebook_size
        self.coarse_dim, self.fine_dim = self.latent_dims(config)
        self.vocoder = GriffinLim(config.fft_size, config.hop, config.griffin_lim_iterations)
        self.neural_vocoder: NeuralVocoder | None = None
        self.register_buffer("mean_M", torch.zeros(config.num_mels))
        self.register_buffer("basis_MP", torch.zeros(config.num_mels, config.pca_dim))
        self.register_buffer("codebooks_KVD", torch.zeros(self.num_codebooks, self.codebook_size, self.coarse_dim))
        filters_LM = mel_filters(config.sample_rate, config.fft_size, config.num_mels).T.contiguous()
        self.register_buffer("filters_LM", filters_LM, persistent=False)
        with torch_threads():
            inverse_ML = torch.linalg.pinv(filters_LM.double()).float()
        self.register_buffer("inverse_ML", inverse_ML, persistent=False)

    @classmethod
    def from_description(cls, config: dict[str, Any]) -> MiniCodec:
        return cls(CodecConfig.model_validate(config))

    @classmethod
    def from_config(cls, config: CodecConfig) -> MiniCodec:
        return cls(config)

    @classmethod
    def latent_dims(cls, config: CodecConfig) -> tuple[int, int]:
        return config.stack * config.pca_dim, config.stack * config.pca_dim

    def describe(self) -> dict[str, Any]:
        sizes = set(CodecConfig.deciding("model"))
        return {"name": self.name, "config": self.config.model_dump(mode="json", include=sizes)}

    def describe_vocoder(self) -> dict[str, Any] | None:
        sizes = set(VocoderConfig.deciding("model"))
        return None if self.neural_vocoder is None else self.neural_vocoder.config.model_dump(include=sizes)

    def add_vocoder(self, config: dict[str, Any]) -> None:
        sizes = VocoderConfig.model_validate(config)
        self.neural_vocoder = NeuralVocoder(sizes, self.filters_LM, self.vocoder).to(self.device)

    @torch_threads()
    @torch.no_grad()
    def fit(self, wavs: Iterable[np.ndarray], seed: int, progress: bool = True) -> None:
        """Fit PCA and codebooks. The same clips and seed give the same codec.

        Args:
            wavs: clips at `sample_rate`, float32 [N].
            seed: of the k-means draws.
            progress: show a progress bar.

        Raises:
            UserError: if the clips together hold fewer frames than a codebook has entries.
        """
        # In a log file a bar is a new line each time.
        settings: dict[str, Any] = {"disable": not progress, "mininterval": 0.1 if sys.stderr.isatty() else 5.0}
        with tqdm(desc="codec: spectra", unit="clip", **settings) as bar:
            parts = []
            for wav in wavs:
                parts.append(self._logmel(torch.from_numpy(np.array(wav, dtype=np.float32))[None])[0])
                bar.update()
        frames = sum(len(part) for part in parts) // self.config.stack
        if frames < self.codebook_size:
            raise UserError(
                f"{frames} code frames are too few to fit codebooks of {self.codebook_size} entries; give more audio "
                f"(codec.fit_clips, at least {self.codebook_size / self.frame_rate:.0f} s) or lower codec.codebook_size"
            )
        logmel_FM = torch.cat(parts)
        self.mean_M.copy_(logmel_FM.mean(0))
        _, vectors_MM = torch.linalg.eigh(torch.cov(logmel_FM.T).double())
        basis_MP = vectors_MM.flip(1)[:, : self.config.pca_dim]
        largest = basis_MP.abs().argmax(0, keepdim=True)
        self.basis_MP.copy_(basis_MP * basis_MP.gather(0, largest).sign())  # an eigenvector's sign is arbitrary: fix it
        vectors_MD = self._stacked(logmel_FM[None])[0]
        with tqdm(desc="codec: codebooks", total=self.num_codebooks, unit="book", **settings) as bar:
            used: list[float] = []

            def fitted(share: float) -> None:
                used.append(share)
                bar.update()

            books_KVD = fit_residual_codebooks(
                vectors_MD, self.num_codebooks, self.codebook_size, seed, on_codebook=fitted
            )
        self.codebooks_KVD.copy_(books_KVD)
        dead = [book for book, share in enumerate(used) if share < DEAD_SHARE]
        if dead:
            print(f"codec: {dead_codebooks(dead, self.num_codebooks, self.codebook_size)}; here are {frames:,}")

    @torch.no_grad()
    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        codes_BKT, fine_BTD = self.quantise(self._latents(wav_B1N))
        return codes_BKT, fine_BTD.mT.contiguous()

    @torch.no_grad()
    def quantise(self, latents_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, K, T] of PCA vectors, and what codebook 0 leaves of them [B, T, D]."""
        residual_RD = latents_BTD.flatten(0, 1).clone()
        codes, fine_BTD = [], latents_BTD
        for book, centroids_VD in enumerate(self.codebooks_KVD):
            index_R = nearest(residual_RD, centroids_VD)
            residual_RD -= centroids_VD[index_R]
            codes.append(index_R.view(latents_BTD.shape[:2]))
            if book == 0:
                fine_BTD = residual_RD.view_as(latents_BTD).clone()
        return torch.stack(codes, dim=1), fine_BTD

    def coarse(self, codes0_BT: Tensor) -> Tensor:
        return self.codebooks_KVD[0, codes0_BT].mT.contiguous()

    @torch.no_grad()
    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        return self._latents(wav_B1N).mT - self.coarse(codes_BKT[:, 0])

    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        fine_BDT = torch.zeros_like(self.coarse(codes_BKT[:, 0]))
        for book in range(1, codes_BKT.shape[1]):
            fine_BDT += self.codebooks_KVD[book, codes_BKT[:, book]].mT
        return fine_BDT

    @torch.no_grad()
    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: MiniDecodeState | None = None, final: bool = False
    ) -> tuple[Tensor, MiniDecodeState]:
        fresh_BDT = coarse_BDT + fine_BDT
        if state is None:
            state = MiniDecodeState(fresh_BDT[..., :0], 0, None)
        waiting_BDT, context, vocoder = torch.cat([state.latents_BDT, fresh_BDT], dim=-1), state.context, state.vocoder
        # Blocks lie at fixed frames and every product runs inside one block, so that rounding cannot depend on
        # how the stream was cut.
        pieces = [waiting_BDT.new_zeros(len(waiting_BDT), 0)]
        while (ready := waiting_BDT.shape[-1] - context) >= BLOCK_FRAMES + AHEAD_FRAMES or (final and ready):
            last = ready < BLOCK_FRAMES + AHEAD_FRAMES
            done = context + (ready if last else BLOCK_FRAMES)
            window_BDT = waiting_BDT[..., : done if last else done + AHEAD_FRAMES].contiguous()
            wav_BN, vocoder = self._block(window_BDT, context, done - context, vocoder)
            pieces.append(wav_BN)
            context = min(self.context_frames, done)
            waiting_BDT = waiting_BDT[..., done - context :]
        return torch.cat(pieces, dim=-1)[:, None], MiniDecodeState(waiting_BDT, context, vocoder)

    @property
    def context_frames(self) -> int:
        """Code frames before a block that its decoding looks at."""
        return 0 if self.neural_vocoder is None else -(-self.neural_vocoder.context // self.config.stack)

    def _block(
        self, window_BDT: Tensor, context: int, finish: int, state: Any
    ) -> tuple[Tensor, GriffinLimState | VocoderState]:
        """Samples of `finish` frames of a window, those after `context`, and the vocoder's state behind them."""
        skipped, finished = context * self.config.stack, finish * self.config.stack
        if self.neural_vocoder is None:
            return self.vocoder.block(self._magnitudes(window_BDT)[:, skipped:], state, finished)
        level_BFL = self.neural_vocoder.levels(self.logmel_of(window_BDT))[:, skipped:]
        return self.neural_vocoder.block(level_BFL, self.vocoder, state, finished)

    def _latents(self, wav_B1N: Tensor) -> Tensor:
        """PCA vectors [B, T, D]."""
        return self._stacked(self._logmel(wav_B1N[:, 0]))

    def latents_of_spectra(self, spectrum_BFL: Tensor) -> Tensor:
        """PCA vectors [B, T, D] of STFT spectra, F a multiple of `stack`."""
        return self._stacked(self._logmel_of_spectra(spectrum_BFL))

    def _logmel(self, wav_BN: Tensor) -> Tensor:
        """Natural-log mel magnitudes [B, F, M], F a multiple of `stack`."""
        margin, hop = self.vocoder.margin, self.config.hop
        frames = -(-wav_BN.shape[-1] // self.hop_length) * self.config.stack
        blocks = []
        # The spectra of a long piece are thirty times its size: no more than half a minute of them is there at a time.
        for first, last in pairwise([*range(0, frames, SPECTRA_FRAMES), frames]):
            begin, end = first * hop - margin, last * hop + margin
            known_BN = wav_BN[:, max(begin, 0) : end]
            surrounded_BN = nn.functional.pad(known_BN, (max(-begin, 0), max(end - wav_BN.shape[-1], 0)))
            blocks.append(self._logmel_of_spectra(self.vocoder.spectra(surrounded_BN)))
        return torch.cat(blocks, dim=1)

    def _logmel_of_spectra(self, spectrum_BFL: Tensor) -> Tensor:
        """Natural-log mel magnitudes [B, F, M]."""
        return log_mel(spectrum_BFL.abs(), self.filters_LM, FLOOR)

    def logmel_of(self, latents_BDT: Tensor) -> Tensor:
        """Natural-log mel magnitudes [B, F, M] that latents stand for, the sum of coarse and fine ones."""
        components_BFP = latents_BDT.mT.reshape(len(latents_BDT), -1, self.config.pca_dim)
        return components_BFP @ self.basis_MP.T + self.mean_M

    def _stacked(self, logmel_BFM: Tensor) -> Tensor:
        components_BFP = (logmel_BFM - self.mean_M) @ self.basis_MP
        return components_BFP.reshape(len(components_BFP), -1, self.coarse_dim)

    def _magnitudes(self, latents_BDT: Tensor) -> Tensor:
        """STFT magnitudes [B, F, L] that explain the log-mel: non-negative least squares by multiplicative updates
        (Lee and Seung, 2001) from the clipped pseudo-inverse."""
        mel_BFM = self.logmel_of(latents_BDT).exp()
        magnitude_BFL = (mel_BFM @ self.inverse_ML).clamp_min(1e-8)
        wanted_BFL = mel_BFM @ self.filters_LM.T
        for _ in range(NONNEGATIVE_STEPS):
            explained_BFL = (magnitude_BFL @ self.filters_LM) @ self.filters_LM.T
            magnitude_BFL = magnitude_BFL * wanted_BFL / explained_BFL.clamp_min(1e-12)
        return magnitude_BFL
