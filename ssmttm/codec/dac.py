"""Descript Audio Codec (arXiv 2306.06546) through transformers' `DacModel`, in the layout it is published in.

Latents are the quantisers' own projections (8 dimensions each at 44.1 kHz): coarse is codebook 0's entry, fine the
continuous projections of all others. Decoding sends both back through the quantisers, so fine latents need not be
exact: what lies nearest counts. All zeros stand for a codebook left out, which adds nothing.

Shapes: B batch, N samples, T code frames, K codebooks, D latent dimensions (d of one codebook), H of the decoder.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssmttm.codec.base import Codec
from ssmttm.codec.blocks import ChunkState, CodecBlock, cut_blocks
from ssmttm.config import CodecConfig
from ssmttm.errors import UserError

if TYPE_CHECKING:
    from transformers import DacConfig

RESIDUAL_DILATIONS = (1, 3, 9)
KERNEL = 7  # of every convolution that neither changes the rate nor is pointwise


def context_frames(upsampling_ratios: tuple[int, ...]) -> int:
    """Code frames on one side that a decoded frame depends on.

    Convolutions reach (kernel - 1) / 2 steps at their own rate; a transposed one of stride s and kernel 2 s one step
    of its input.
    """
    reach, rate = (KERNEL - 1) / 2, 1
    for ratio in upsampling_ratios:
        reach += 1 / rate
        rate *= ratio
        reach += sum(dilation * (KERNEL - 1) / 2 for dilation in RESIDUAL_DILATIONS) / rate
    return math.ceil(reach + (KERNEL - 1) / 2 / rate)


class DacCodec(Codec):
    """See the module.

    Args:
        config: of the published model.

    Raises:
        UserError: for a variant whose audio is not a whole number of hops long.
    """

    name = published_as = "dac"

    def __init__(self, config: DacConfig):
        super().__init__()
        from transformers import DacModel

        if any(ratio % 2 for ratio in config.downsampling_ratios):
            raise UserError(f"DAC with odd downsampling ratios {tuple(config.downsampling_ratios)} is not supported")
        self.model = DacModel(config)
        self.sample_rate, self.hop_length = config.sampling_rate, math.prod(config.downsampling_ratios)
        self.num_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.coarse_dim = config.codebook_dim
        self.fine_dim = (config.n_codebooks - 1) * config.codebook_dim
        self.context = context_frames(tuple(config.upsampling_ratios))

    @classmethod
    def from_description(cls, config: dict[str, Any]) -> DacCodec:
        from transformers import DacConfig

        return cls(DacConfig.from_dict(config))

    @classmethod
    def latent_dims(cls, config: CodecConfig) -> tuple[int, int]:
        from transformers import DacConfig

        entry = DacConfig().codebook_dim
        return entry, entry * (config.num_codebooks - 1)

    def describe(self) -> dict[str, Any]:
        config = self.model.config
        names = ("encoder_hidden_size", "downsampling_ratios", "decoder_hidden_size", "n_codebooks", "codebook_size")
        values = {name: getattr(config, name) for name in (*names, "codebook_dim", "sampling_rate")}
        return {"name": self.name, "config": {**values, "downsampling_ratios": list(values["downsampling_ratios"])}}

    @torch.no_grad()
    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        padded_B1N = nn.functional.pad(wav_B1N, (0, -wav_B1N.shape[-1] % self.hop_length))
        encoded = self.model.encode(padded_B1N)
        return encoded.audio_codes, encoded.projected_latents[:, self.coarse_dim :].contiguous()

    def coarse(self, codes0_BT: Tensor) -> Tensor:
        return self._entries(0, codes0_BT)

    @torch.no_grad()
    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        return self.encode_with_latents(wav_B1N)[1]

    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        coarse_BDT = self.coarse(codes_BKT[:, 0])
        fine_BDT = coarse_BDT.new_zeros(len(coarse_BDT), self.fine_dim, coarse_BDT.shape[2])
        for book in range(1, codes_BKT.shape[1]):
            fine_BDT[:, (book - 1) * self.coarse_dim : book * self.coarse_dim] = self._entries(book, codes_BKT[:, book])
        return fine_BDT

    @torch.no_grad()
    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: ChunkState | None = None, final: bool = False
    ) -> tuple[Tensor, ChunkState]:
        latents_BDT = torch.cat([coarse_BDT, fine_BDT], dim=1)
        blocks, state = cut_blocks(latents_BDT, state, self.context, self.context, final)
        silence_B10 = latents_BDT.new_zeros(len(latents_BDT), 1, 0)
        return torch.cat([silence_B10, *map(self._block, blocks)], dim=-1), state

    def _entries(self, book: int, codes_BT: Tensor) -> Tensor:
        """Entries [B, D, T] of one codebook."""
        quantizer: Any = self.model.quantizer.quantizers[book]
        return quantizer.codebook(codes_BT).transpose(1, 2)

    def _block(self, block: CodecBlock) -> Tensor:
        """Audio [B, 1, owned * hop] of a block's own frames."""
        wav_B1N = self.model.decoder(self._quantised(block.frames_BDT))
        return wav_B1N[..., block.context * self.hop_length : (block.context + block.owned) * self.hop_length]

    def _quantised(self, latents_BDT: Tensor) -> Tensor:
        """The decoder's input [B, H, T]: the nearest entry in each codebook, projected back, and their sum."""
        parts = []
        for book, latents_BdT in enumerate(latents_BDT.split(self.coarse_dim, dim=1)):
            quantizer: Any = self.model.quantizer.quantizers[book]
            projected_BHT = quantizer.out_proj(quantizer.decode_latents(latents_BdT)[0])
            # No direction is nearest to zero: there the model would take its first entry.
            left_out_B1T = (latents_BdT == 0).all(dim=1, keepdim=True)
            parts.append(projected_BHT.masked_fill(left_out_B1T, 0.0))
        return torch.stack(parts).sum(dim=0)
