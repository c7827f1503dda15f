"""The codec contract: waveform to codes and latents and back, whole or in chunks.

Shapes: B batch, N samples, T code frames = ceil(N / hop_length), K codebooks, V codebook entries, D latent dimensions.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.config import CodecConfig

VOCODER_PREFIX = "neural_vocoder."  # of the weights of a vocoder trained on top, in the codec's state


class Codec(nn.Module, ABC):
    """A residual codec split in two: codebook 0 (coarse), and everything it leaves out (fine).

    Attributes:
        name: its key in the registry, `codec.name` of the configuration.
        is_fitted: it is made here: `from_config` and then `fit`. Others come from a published checkpoint.
        takes_vocoder: a neural vocoder can be trained on top; it then has what `ssmttm.training.vocoder` reads of
            `MiniCodec`'s log-mel.
        published_as: `model_type` of the checkpoints in transformers' layout that it reads; their weights are those of
            its submodule `model`. None: there are none.
        encode_batch: segments that preprocessing encodes together; fixed, as results depend on it in the last bits.
        sample_rate: in Hz; audio is mono.
        hop_length: samples per code frame.
        frame_rate: code frames per second.
        num_codebooks, codebook_size: K and V.
        coarse_dim, fine_dim: dimensions of the two kinds of latents.
    """

    name: ClassVar[str]
    is_fitted: ClassVar[bool] = False
    takes_vocoder: ClassVar[bool] = False
    published_as: ClassVar[str | None] = None
    encode_batch: ClassVar[int] = 1  # convolutional encoders keep activations of every sample

    sample_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    coarse_dim: int
    fine_dim: int

    @classmethod
    @abstractmethod
    def from_description(cls, config: dict[str, Any]) -> Self:
        """Rebuild, weights aside, from the `config` of `describe`, or from the `config.json` of a published checkpoint.

        Raises:
            UserError: for a kind that is not supported.
            KeyError, TypeError, ValueError: for a bad config.
        """

    @classmethod
    @abstractmethod
    def latent_dims(cls, config: CodecConfig) -> tuple[int, int]:
        """`coarse_dim` and `fine_dim` of the codec that a configuration describes, before there is one."""

    @classmethod
    def from_config(cls, config: CodecConfig) -> Self:
        """An unfitted codec; only where `is_fitted`. Raises UserError for sizes that do not fit together."""
        raise NotImplementedError(f"{cls.name} is not fitted here")

    def fit(self, wavs: Iterable[np.ndarray], seed: int, progress: bool = True) -> None:
        """Fit to clips; only where `is_fitted`. The same clips and seed give the same codec.

        Args:
            wavs: float32 [N] each, at `sample_rate`; read once.
            seed: of every draw.
            progress: show a progress bar.

        Raises:
            UserError: if the clips are too few.
        """
        raise NotImplementedError(f"{self.name} is not fitted here")

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    @abstractmethod
    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        """Encode float32 samples, zero-padded to whole frames.

        Returns:
            (codes_BKT int64, fine_BDT float32): codes of all codebooks and the continuous fine latents.
        """

    @abstractmethod
    def coarse(self, codes0_BT: Tensor) -> Tensor:
        """Coarse latents [B, coarse_dim, T] of codebook 0's codes."""

    @abstractmethod
    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        """Continuous fine latents [B, fine_dim, T]: what codebook 0 leaves out of the waveform (stage 2's target)."""

    @abstractmethod
    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        """Fine latents [B, fine_dim, T] as codebooks 1 to K-1 approximate them; zeros if K is 1."""

    @abstractmethod
    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: Any = None, final: bool = False
    ) -> tuple[Tensor, Any]:
        """Decode the next frames of a stream.

        Args:
            coarse_BDT, fine_BDT: any number of frames, none included.
            state: what the call before returned; None for the first.
            final: no frames follow, so everything held back is to be returned.

        Returns:
            (wav_B1N, state): the samples that can be known so far. Their concatenation has T * hop_length samples
            and equals `decode` of all frames bit for bit, however the stream is cut.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What, with the weights, rebuilds the codec: `name` and `config`, plain JSON values."""

    def describe_vocoder(self) -> dict[str, Any] | None:
        """What, with its weights, rebuilds a vocoder trained on top, plain JSON values; None without one."""
        return None

    def add_vocoder(self, config: dict[str, Any]) -> None:
        """Put an untrained vocoder of this description on top, as submodule `neural_vocoder`. Raises ValueError for a
        bad one."""
        raise ValueError("this codec takes no vocoder")

    def encode(self, wav_B1N: Tensor) -> Tensor:
        """Codes [B, K, T] int64 of float32 samples, zero-padded to whole frames."""
        return self.encode_with_latents(wav_B1N)[0]

    def decode(self, coarse_BDT: Tensor, fine_BDT: Tensor) -> Tensor:
        """Waveform [B, 1, T * hop_length] float32 of coarse and fine latents."""
        return self.decode_chunk(coarse_BDT, fine_BDT, final=True)[0]

    def decode_codes(self, codes_BKT: Tensor) -> Tensor:
        """Waveform [B, 1, T * hop_length] float32 of codes."""
        return self.decode(self.coarse(codes_BKT[:, 0]), self.fine_from_codes(codes_BKT))

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of description and weights, a vocoder on top left out: equal if and only if tokens are
        interchangeable."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        for name, weight in sorted(self.weights().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.numpy().tobytes())
        return digest.hexdigest()

    def weights(self, vocoder: bool = False) -> dict[str, Tensor]:
        """On CPU: the weights that decide what tokens mean, or those of the vocoder on top."""
        return {
            name: weight.detach().cpu().contiguous()
            for name, weight in self.state_dict().items()
            if name.startswith(VOCODER_PREFIX) == vocoder
        }
